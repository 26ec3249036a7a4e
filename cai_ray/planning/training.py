"""Stages that train on examples: the examples that they would make of the sample, counted in tokens.

Tested in tests/planning/test_plan.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from cai_ray.artifacts.derived import Outcome
from cai_ray.chat import Message
from cai_ray.config import LoraConfig, OptimConfig, WorkersConfig
from cai_ray.dropped import DropRow
from cai_ray.engines.models.files import SMALL_WEIGHTS_BYTES
from cai_ray.engines.training.arguments import most_per_pass, plan_batches
from cai_ray.planning.own_sets import examples_of, preference_set
from cai_ray.planning.stand_in_engine import Sample
from cai_ray.planning.work import StagePlan, TrainingLoad, Work, training_work
from cai_ray.planning.world import PlannedModel, World, config_of, each
from cai_ray.row_ids import text_key
from cai_ray.stages.inputs import expand_prompts, load_prompts
from cai_ray.stages.preferences import train_dpo, train_preference_model
from cai_ray.stages.preferences.comparisons import PairOptions, comparisons, training_pair
from cai_ray.stages.step import Step
from cai_ray.stages.supervised import train_sft
from cai_ray.stages.supervised.examples import examples


def plan_sft(step: Step, world: World) -> StagePlan:
    config = config_of(step, train_sft.Config)
    model = world.model(config.model)
    limit = min(config.max_length or model.context, model.context)
    learned: list[tuple[int, float]] = []  # tokens of an example, and how often it is learned per epoch
    held_out: list[tuple[int, float]] = []
    rows_in = 0.0
    for made, weight in _examples(step, config, world):
        rows_in += weight
        length = 0 if made.drop else len(model.counter.answer(made.row["messages"]))
        if not 0 < length <= limit:
            continue
        into = learned if made.row["split"] == "train" else held_out
        into.append((length, weight * (made.row["weight"] if into is learned else 1)))
    world.trained(step.makes or "sl_cai", config.model)
    training = _Training(model, config.optim, config.lora, config.workers, config.eval_examples)
    if config.packing:
        batches = math.ceil(_tokens(learned) / limit)
        tokens, work = training.run(learned, held_out, world, num_examples=batches, longest=limit)
    else:
        tokens, work = training.run(learned, held_out, world)
    return StagePlan(step.stage, rows_in, _number(learned) + _number(held_out), trained_tokens=tokens, work=work)


def _examples(step: Step, config: train_sft.Config, world: World) -> Iterator[tuple[Outcome, float]]:
    """Of the revisions and of the config's own sets, with what each stands for."""
    for row, weight in each(world.written[step.reads[0]]) if step.reads else ():
        for made in examples(row, config, world.recipe.seed):
            yield made, weight
    for source in config.examples:
        for row, weight in each(examples_of(source, config.eval_fraction, world)):
            yield row["made"], weight


def plan_preference_model(step: Step, world: World) -> StagePlan:
    config = config_of(step, train_preference_model.Config)
    return _plan_on_pairs(step, world, config, config.model, config.optim, config.lora, config.workers, is_dpo=False)


def plan_dpo(step: Step, world: World) -> StagePlan:
    config = config_of(step, train_dpo.Config)
    return _plan_on_pairs(step, world, config, config.model, config.optim, config.lora, config.workers, is_dpo=True)


def _plan_on_pairs(
    step: Step,
    world: World,
    options: PairOptions,
    name: str,
    optim: OptimConfig,
    lora: LoraConfig | None,
    workers: WorkersConfig,
    is_dpo: bool,
) -> StagePlan:
    model = world.model(name)
    limit = min(options.max_length or model.context, model.context)

    def encode(messages: list[Message], answer: str) -> tuple[list[int], list[int]]:
        tokens = model.counter.answer([*messages, {"role": "assistant", "content": answer}])
        return tokens.prompt_ids, tokens.answer_ids

    learned: list[tuple[int, float]] = []
    held_out: list[tuple[int, float]] = []
    rows_in = 0.0
    labelled = [_labelled(world.written[step.reads[0]], options)] if step.reads else []
    for sample in (*labelled, *(preference_set(source, world) for source in options.sets)):
        rows_in += sample.num_rows
        kept = 1 - _barred_share(sample, world)
        for row, weight in each(sample):
            try:
                pair = training_pair(row["comparison"], options, encode, limit, world.recipe.seed)
            except DropRow:
                continue
            length = 2 * len(pair["prompt_tokens"]) + len(pair["chosen_tokens"]) + len(pair["rejected_tokens"])
            into = learned if pair["split"] == "train" else held_out
            into.append((length, weight * (kept * pair["weight"] if into is learned else 1)))
    world.trained(step.makes or step.stage, name)
    training = _Training(model, optim, lora, workers, options.eval_pairs, has_logits=is_dpo, has_reference=is_dpo)
    tokens, work = training.run(learned, held_out, world)
    return StagePlan(step.stage, rows_in, _number(learned) + _number(held_out), trained_tokens=tokens, work=work)


def _barred_share(sample: Sample, world: World) -> float:
    """The share of pairs for training that ask a prompt held out for tests; both are samples that stand for more."""
    held_out = {
        text_key(row["messages"]): weight
        for stage in {load_prompts.STAGE, expand_prompts.STAGE} & world.written.keys()
        for row, weight in each(world.written[stage])
        if row["split"] == "test"
    }
    learned = [(row["comparison"], weight) for row, weight in each(sample) if not row["comparison"].is_test]
    barred = sum(weight * held_out.get(text_key(one.messages), 0.0) for one, weight in learned)
    return min(1.0, barred / max(1.0, sum(weight for _, weight in learned)))


def _labelled(sample: Sample, options: PairOptions) -> Sample:
    """Preference rows, each in `comparison`."""
    found = comparisons(options.model_copy(update={"helpful_pairs": (), "preferences": ()}), sample.rows, 0)
    return Sample([{"comparison": one} for one in found], sample.weights)


@dataclass(frozen=True)
class _Training:
    """The part that all training on examples has in common."""

    model: PlannedModel
    optim: OptimConfig
    lora: LoraConfig | None
    workers: WorkersConfig
    most_evaluated: int
    has_logits: bool = True
    has_reference: bool = False

    def run(
        self,
        learned: list[tuple[int, float]],
        held_out: list[tuple[int, float]],
        world: World,
        num_examples: float | None = None,
        longest: int | None = None,
    ) -> tuple[float, Work]:
        """(tokens, weight) of examples -> tokens trained on, and the work."""
        num = _number(learned) if num_examples is None else num_examples
        steps = math.ceil(num * self.optim.epochs / self.optim.batch_size)
        share = 1.0 if self.optim.max_steps is None else min(1.0, self.optim.max_steps / max(1, steps))
        tokens = _tokens(learned) * self.optim.epochs * share
        evaluations = 1 + int(steps * share) // self.workers.steps_per_checkpoint
        evaluated = _tokens(held_out) * min(1.0, self.most_evaluated / max(1.0, _number(held_out))) * evaluations
        is_small = 2 * self.model.shape.params < SMALL_WEIGHTS_BYTES
        most = most_per_pass(world.hardware.device.is_gpu, is_small)
        micro = plan_batches(self.optim.batch_size, self.workers, most).micro_batch_size
        load = TrainingLoad(
            tokens=tokens,
            forward_tokens=evaluated + (tokens if self.has_reference else 0),
            steps=int(steps * share),
            micro_tokens=micro * (longest or max((length for length, _ in learned), default=1)),
            has_logits=self.has_logits,
            frozen_copies=int(self.has_reference and self.lora is None),
        )
        return tokens, training_work(load, self.model.shape, self.lora, self.workers, world.hardware)


def _tokens(examples: list[tuple[int, float]]) -> float:
    return sum(length * weight for length, weight in examples)


def _number(examples: list[tuple[int, float]]) -> float:
    return sum(weight for _, weight in examples)


PLANNERS = {
    train_sft.STAGE: plan_sft,
    train_preference_model.STAGE: plan_preference_model,
    train_dpo.STAGE: plan_dpo,
}
