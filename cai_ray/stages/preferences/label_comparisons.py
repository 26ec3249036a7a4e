"""The feedback model compares two answers under drawn principles.  Pair -> Preference.

The paper's section 4.1: the model reads the conversation, both answers, then a principle's question, and the
log-probabilities of the two options become a soft label. How readings become one label: metrics/readings.py.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from cai_ray.artifacts.artifact import Artifact, find
from cai_ray.artifacts.summaries.labels import LabelSummary
from cai_ray.chat import Message
from cai_ray.config import ModelConfig, SamplingConfig, ScalingConfig, StageConfig
from cai_ray.constitution.draw import PrincipleChoice, check_choice, draw
from cai_ray.constitution.principles import Constitution, FewShotComparison, Principle
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends.factory import backend_factory
from cai_ray.engines.backends.option_check import check_options
from cai_ray.engines.conversations.asking import Ask
from cai_ray.engines.conversations.generation import ConversationJob
from cai_ray.engines.conversations.stage import Conversations, run_conversations
from cai_ray.errors import ConfigError
from cai_ray.metrics.readings import Bounds, clamped, flip_rate, is_tie, mean_prob_a, prob_of_first_shown, readings_of
from cai_ray.prompts.comparison import (
    OPTIONS,
    Form,
    comparison_messages,
    cot_answer_messages,
    cot_stop_strings,
    few_shot_comparisons,
    nonce_for,
    prob_a_from_logprobs,
)
from cai_ray.row_ids import PAIR_IDS
from cai_ray.rows import PREFERENCE, ROW_ID
from cai_ray.seeding import rng_for
from cai_ray.stages.context import Context
from cai_ray.stages.exports import export_comparisons, export_preferences
from cai_ray.stages.preferences import label_summary
from cai_ray.stages.preferences.pair_sources import PairSetConfig, check_names
from cai_ray.stages.step import Step, shown

STAGE = "label_comparisons"
CARRIED = ("pair_id", "prompt_id", "messages", "kind", "category", "split")  # Pair columns kept on the row
COT_CLAMP: Bounds = (0.4, 0.6)  # the paper's, section 4.1


class Config(StageConfig):
    """The recipe's section `labels`."""

    model: str = Field("feedback", description="Which of the recipe's models compares.")
    pairs: tuple[PairSetConfig, ...] = Field(
        (),
        exclude_if=lambda sets: not sets,  # a run without them is the run that it was before there were any
        description="Pairs of your own to label, in place of the section pairs.",
    )
    principles_per_pair: int = Field(
        1, ge=1, description="Principles drawn per pair, all different; labels are their mean. The paper draws 1."
    )
    principles: PrincipleChoice = Field(
        PrincipleChoice(replacement=False), description="How they are drawn; contextual choice is for revision."
    )
    principle_ids: tuple[str, ...] = Field((), description="Draw from these principles only; empty: from all.")
    orders: Literal["both", "stored", "random"] = Field(
        "both", description='"both": each question with either answer first, averaged; "random": one, drawn.'
    )
    chain_of_thought: int = Field(
        0, ge=0, le=64, description="Samples of reasoning per question, averaged; 0: no reasoning. The paper: 1 and 5."
    )
    cot_sampling: SamplingConfig = SamplingConfig()
    truncated: Literal["drop", "keep"] = Field(
        "drop", description="Reasoning cut off at cot_sampling.max_tokens: drop the pair, or go by what there is."
    )
    clamp: Literal["auto"] | Bounds | None = Field(
        "auto", description='Bounds of a label, (low, high); "auto": (0.4, 0.6) with chain of thought, else none.'
    )
    labels: Literal["soft", "hard"] = Field("soft", description='"hard": prob_chosen is 1.')
    tie_margin: float = Field(0.0, ge=0.0, lt=0.5, description="Labels this close to 0.5 are ties, which are dropped.")
    num_few_shot: int = Field(0, ge=0, description="The constitution's example comparisons shown first, at most.")
    delimiters: Literal["nonce", "plain"] = Field(
        "nonce", description='"nonce": what is judged cannot leave its block; "plain": the paper\'s bare layout.'
    )
    scaling: ScalingConfig = ScalingConfig()

    @model_validator(mode="after")
    def _sensible(self) -> Config:
        check_names(self.pairs, "pairs")
        if self.principles.method == "contextual":
            raise ValueError('principles.method "contextual" is for revision; use random, weighted or round_robin')
        if self.principles.replacement and self.principles_per_pair > 1:
            raise ValueError(
                f"principles.replacement=true with principles_per_pair={self.principles_per_pair} "
                "would ask the same question twice; set principles.replacement=false"
            )
        if isinstance(self.clamp, tuple) and not 0 <= self.clamp[0] <= 0.5 <= self.clamp[1] <= 1:
            raise ValueError(f"clamp={list(self.clamp)} must be [low, high] with 0 <= low <= 0.5 <= high <= 1")
        return self

    @property
    def bounds(self) -> Bounds | None:
        """What labels are clamped to, `auto` resolved."""
        if self.clamp == "auto":
            return COT_CLAMP if self.chain_of_thought else None
        return self.clamp


async def label(
    row: dict[str, Any], ask: Ask, *, config: Config, constitution: Constitution, form: Form, seed: int
) -> dict[str, Any]:
    """All readings of one pair and their label; a row of the PREFERENCE schema.

    Raises DropRow: TIE, NO_LOGPROBS, TRUNCATED, and whatever the engine has against a request. One reading that
    fails ends the row, because a mean over the others would favour the questions that are easily answered.
    """
    few_shot = few_shot_comparisons(constitution, config.num_few_shot, config.chain_of_thought > 0)
    judge = _Judge(row, ask, config, form, few_shot, seed)
    comparisons: list[dict[str, Any]] = []
    for principle, swapped in questions(row[ROW_ID], config, constitution, seed):
        comparisons += await judge.read(principle, swapped)
    readings = readings_of(comparisons)
    prob_a = clamped(mean_prob_a(readings), config.bounds)
    if is_tie(prob_a, config.tie_margin):
        raise DropRow(
            DropReason.TIE,
            f"P(A)={prob_a:.4f} over {len(readings)} readings, P(shown first)={prob_of_first_shown(readings):.4f}, "
            f"tie_margin={config.tie_margin}",
        )
    answers = (row["response_a"], row["response_b"])
    chosen, rejected = answers if prob_a > 0.5 else answers[::-1]
    return {
        **{column: row[column] for column in CARRIED},
        "chosen": chosen,
        "rejected": rejected,
        "chosen_is_a": prob_a > 0.5,
        "prob_chosen": 1.0 if config.labels == "hard" else max(prob_a, 1 - prob_a),
        "order_flip_rate": flip_rate(readings),
        "label_source": "ai",
        "comparisons": comparisons,
        "num_prompt_tokens": ask.usage.num_prompt_tokens,
        "num_cached_tokens": ask.usage.num_cached_tokens,
        "num_output_tokens": ask.usage.num_output_tokens,
    }


def questions(row_id: str, config: Config, constitution: Constitution, seed: int) -> list[tuple[Principle, bool]]:
    """(principle, swapped) of every question about a pair, in the order in which they are asked.

    All principles of one order come first: they share the conversation and the answers as their prefix. The draws
    depend on seed and pair alone, and the first principles of a larger ensemble are those of a smaller one.
    """
    drawn = draw(
        constitution,
        config.principles,
        run_seed=seed,
        row_id=row_id,
        num_rounds=config.principles_per_pair,
        stage=STAGE,
        use="comparison",
    )
    if config.orders == "random":
        return [(p, rng_for(seed, STAGE, row_id, f"order/{k}").random() < 0.5) for k, p in enumerate(drawn)]
    return [(p, swapped) for swapped in ((False, True) if config.orders == "both" else (False,)) for p in drawn]


class _Judge:
    """Puts questions about one pair to the model. One request at a time: the other rows fill the batch."""

    def __init__(
        self,
        row: dict[str, Any],
        ask: Ask,
        config: Config,
        form: Form,
        few_shot: list[FewShotComparison],
        seed: int,
    ) -> None:
        self._ask, self._config, self._form, self._few_shot = ask, config, form, few_shot
        self._conversation: list[Message] = row["messages"]
        self._answers: tuple[str, str] = (row["response_a"], row["response_b"])
        judged = [*(message["content"] for message in self._conversation), *self._answers]
        self._nonce = nonce_for(seed, row[ROW_ID], judged) if config.delimiters == "nonce" else None

    async def read(self, principle: Principle, swapped: bool) -> list[dict[str, Any]]:
        """The readings of one question, one per sample of reasoning; of the type COMPARISON."""
        first, second = self._answers[::-1] if swapped else self._answers
        asked = comparison_messages(
            self._conversation,
            first,
            second,
            principle.comparison_question or "",
            self._nonce,
            self._few_shot,
            think=self._config.chain_of_thought > 0,
            form=self._form,
        )
        if not self._config.chain_of_thought:
            return [await self._verdict(asked, principle, swapped, None)]
        found = []
        for _ in range(self._config.chain_of_thought):
            reasoning = await self._think(asked)
            answered = cot_answer_messages(asked, reasoning, self._form)
            found.append(await self._verdict(answered, principle, swapped, reasoning))
        return found

    async def _think(self, asked: list[Message]) -> str:
        sampling = self._config.cot_sampling
        stop = (*sampling.stop, *cot_stop_strings(self._form))
        completion = await self._ask(asked, sampling.model_copy(update={"stop": stop}))
        if completion.finish_reason == "length" and self._config.truncated == "drop":
            raise DropRow(
                DropReason.TRUNCATED,
                f"reasoning was cut off at cot_sampling.max_tokens={sampling.max_tokens} or at the end of the context",
            )
        return completion.text.strip()

    async def _verdict(
        self, asked: list[Message], principle: Principle, swapped: bool, rationale: str | None
    ) -> dict[str, Any]:
        logprobs = await self._ask.choose(asked, OPTIONS)
        logprob_a, logprob_b = logprobs[::-1] if swapped else logprobs
        try:
            prob_a = prob_a_from_logprobs(logprob_a, logprob_b)
        except ValueError as error:
            raise DropRow(DropReason.NO_LOGPROBS, f"principle {principle.id}: {error}") from error
        return {
            "principle_id": principle.id,
            "swapped": swapped,
            "logprob_a": logprob_a,
            "logprob_b": logprob_b,
            "prob_a": prob_a,
            "rationale": rationale,
        }


def expand_units(pairs: pa.Table) -> pa.Table:
    """Pair rows -> units of work, one each."""
    return pairs.append_column(ROW_ID, pairs["pair_id"])


def count_readings(row: dict[str, Any]) -> dict[str, int]:
    """Counters of one Preference row for the manifest."""
    return {"num_readings": len(row["comparisons"])}


def drawn_from(config: Config, constitution: Constitution) -> Constitution:
    """The constitution with the principles that may be drawn. Raises ConstitutionError for an unknown id."""
    return constitution.only(config.principle_ids) if config.principle_ids else constitution


def check(config: Config, model: ModelConfig, constitution: Constitution) -> None:
    """Raise ConfigError or ConstitutionError where every pair would fail.

    Loads the model's tokenizer, or asks its endpoint once.
    """
    check_choice(drawn_from(config, constitution), config.principles, config.principles_per_pair, "comparison")
    think = config.chain_of_thought > 0
    if config.num_few_shot and not few_shot_comparisons(constitution, 1, think):
        raise ConfigError(
            f"num_few_shot={config.num_few_shot}, but constitution {constitution.name!r} has no example comparison"
            f"{' with reasoning' if think else ''}; add one under few_shot_comparisons, or set num_few_shot=0"
        )
    if model.format == "transcript" and model.system_role in ("fold", "drop"):
        raise ConfigError(
            f'system_role="{model.system_role}" would change a base model\'s comparison, which is one unlabelled text; '
            'set system_role to "auto"'
        )
    hello: list[Message] = [{"role": "user", "content": "Hello!"}]
    check_options(
        model, OPTIONS, comparison_messages(hello, "Hello!", "Go away.", "Which is kinder?", form=model.format)
    )


def job_of(config: Config, context: Context) -> ConversationJob:
    """What the conversation engine is asked to do."""
    model = context.model(config.model)
    reasoning_tokens = config.cot_sampling.max_tokens // 2 if config.chain_of_thought else 0
    return ConversationJob(
        stage=STAGE,
        seed=context.seed,
        schema=PREFERENCE,
        converse=partial(
            label,
            config=config,
            constitution=drawn_from(config, context.principles()),
            form=model.format,
            seed=context.seed,
        ),
        expand=expand_units,
        make_backend=backend_factory(model),
        engine=model.engine,
        expected_tokens=512 + 256 * config.num_few_shot + reasoning_tokens,
        count=count_readings,
    )


def run(config: Config, context: Context, source_stage: str) -> Artifact:
    """Label every pair of `source_stage` that is not labelled yet.

    Raises ConfigError when there is no pair to label, and what `check` raises, before any is asked.
    """
    source, model = context.artifact(source_stage), context.model(config.model)
    if not source.manifest.rows_out:
        raise ConfigError(
            f"{source.folder.shown} holds no pair to label (dropped: {source.manifest.rows_dropped or 'none'}); "
            "sample from more prompts, or see why pairs were dropped"
        )
    spec = context.spec(STAGE, config, PAIR_IDS, source)
    if find(spec.folder) is None:
        check(config, model, context.principles())
    asked = Conversations(spec, source, ("pair_id",), job_of(config, context), model, config.scaling)
    return run_conversations(asked, context.cluster)


def step(config: Config, source_stage: str) -> Step:
    """Of a run."""
    return Step(
        STAGE,
        config,
        lambda context: run(config, context, source_stage),
        asks=(config.model,),
        reads=(source_stage,),
        needs_constitution=True,
        exports={"preferences": export_preferences, "comparisons": export_comparisons},
        summary=shown(LabelSummary, label_summary.summarise, label_summary.table),
        units=PAIR_IDS,
        why_dropped=label_summary.tied_by_position,
    )
