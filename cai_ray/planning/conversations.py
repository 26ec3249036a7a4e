"""Stages that load prompts or ask models: their own row functions, run on a sample against a stand-in engine.

Tested in tests/planning/test_plan.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from cai_ray.dropped import DropRow
from cai_ray.errors import ConfigError
from cai_ray.planning.judges import plan_judge
from cai_ray.planning.own_sets import pairs_to_label
from cai_ray.planning.stand_in_engine import Sample, Usages, converse
from cai_ray.planning.work import StagePlan, side_by_side, together
from cai_ray.planning.world import World, config_of, each, prompts_of
from cai_ray.prompt_layouts.multiple_choice import read_items
from cai_ray.rows import PAIR, PROMPT
from cai_ray.stages import sampled_responses
from cai_ray.stages.evaluation import evaluate, multiple_choice, self_critique
from cai_ray.stages.inputs import expand_prompts, load_prompts
from cai_ray.stages.preferences import label_comparisons, load_pairs, sample_pairs
from cai_ray.stages.revision import revise
from cai_ray.stages.step import Step

IDENTICAL_IN_MICROWORLD = 0.06  # measured on 128 pairs of SL-CAI; longer answers are hardly ever the same

# --- Prompts ---------------------------------------------------------------------------------------------


def plan_load(step: Step, world: World) -> StagePlan:
    found = world.written[step.stage] = prompts_of(config_of(step, load_prompts.Config), world)
    return StagePlan(step.stage, found.num_rows, found.num_rows)


def plan_load_pairs(step: Step, world: World) -> StagePlan:
    config = config_of(step, load_pairs.Config)
    found = world.written[step.stage] = pairs_to_label(config, world)
    return StagePlan(step.stage, found.num_rows, found.num_rows)


def plan_expand(step: Step, world: World) -> StagePlan:
    config = config_of(step, expand_prompts.Config)
    source, model = world.written[step.reads[0]], world.model(config.model)
    seeds = expand_prompts.seeds_of(iter(source.rows), config.selection.max_words)
    if not seeds:
        raise ConfigError("expand finds no seed: it needs red-team prompts of one turn")
    shots = list(islice(expand_prompts.draw_shots(seeds, config, world.recipe.seed), 96))
    asks = Sample(shots, [config.num_asks / len(shots)] * len(shots))
    job = expand_prompts.ask_job(config, model.config, world.recipe.seed)
    _, used = converse(job, asks, None, model.counter, model.config, model.context, kind="requests")
    passed = [(row, w) for row, w in each(source) if config.keep_seeds or row["kind"] != "red_team"]
    new = [row for row in source.rows if row["kind"] == "red_team"]
    rows = [row for row, _ in passed] + new
    world.written[step.stage] = Sample(rows, [w for _, w in passed] + [config.num_new / len(new)] * len(new))
    work = world.engines(used, model, config.scaling.max_engines)
    rows_out = world.written[step.stage].num_rows
    return StagePlan(step.stage, source.num_rows + config.num_asks * config.per_ask, rows_out, used, work=work)


# --- Conversations ---------------------------------------------------------------------------------------


def plan_revise(step: Step, world: World) -> StagePlan:
    config = config_of(step, revise.Config)
    source, model = world.written[step.reads[0]], world.model(config.model)
    job = revise.job_of(config, world.context())
    written, used = converse(job, source, PROMPT, model.counter, model.config, model.context)
    world.written[step.stage] = written
    per_prompt = (
        config.helpful_samples if row["kind"] == "helpful" else config.samples_per_prompt for row in source.rows
    )
    rows_in = sum(weight * num for weight, num in zip(source.weights, per_prompt, strict=True))
    work = world.engines(used, model, config.scaling.max_engines)
    return StagePlan(step.stage, rows_in, written.num_rows, used, work=work)


def plan_self_critique(step: Step, world: World) -> StagePlan:
    config = config_of(step, self_critique.Config)
    source, model = world.written[step.reads[0]], world.model(config.model)
    job = self_critique.job_of(config, world.context())
    written, used = converse(job, source, PROMPT, model.counter, model.config, model.context)
    world.written[step.stage] = written
    works = [world.engines(used, model, config.scaling.max_engines)]
    answers = [{**row, "responses": [row[name] for name in self_critique.STEPS]} for row in written.rows]
    for judge in config.judges:
        judged = plan_judge(judge, Sample(answers, written.weights), len(self_critique.STEPS), world)
        used += judged
        works.append(world.engines(judged, world.model(judge.model), judge.scaling.max_engines))
    per_prompt = len(config.formats) * len(config.principles) * config.samples_per_prompt
    return StagePlan(step.stage, source.num_rows * per_prompt, written.num_rows, used, work=together(works))


def plan_pairs(step: Step, world: World) -> StagePlan:
    config = config_of(step, sample_pairs.Config)
    model = world.model(config.model)
    job = sampled_responses.job_of(sample_pairs.sampling_of(config), model.config, world.recipe.seed)
    answers, used = converse(job, world.written[step.reads[0]], PROMPT, model.counter, model.config, model.context)
    rows, weights, num_pairs = [], [], 0.0
    for row, weight in each(answers):
        for indices in sample_pairs.pair_indices(config, row["prompt_id"], world.recipe.seed):
            num_pairs += weight
            try:
                rows.append(sample_pairs.make_pair(row, indices, config, world.recipe.seed))
                weights.append(weight)
            except DropRow:
                continue
    kept = 1.0
    if world.in_microworld:
        kept -= IDENTICAL_IN_MICROWORLD
        world.notes.append(f"in the micro world {IDENTICAL_IN_MICROWORLD:.0%} of pairs are twice the same answer")
    written = world.written[step.stage] = Sample(rows, weights).scaled(kept)
    work = world.engines(used, model, config.scaling.max_engines)
    others = (w for row, w in each(world.written[step.reads[0]]) if row["kind"] not in config.kinds)
    num_pairs += sum(others) * len(sample_pairs.pair_indices(config, "", world.recipe.seed))  # left out
    return StagePlan(step.stage, num_pairs, written.num_rows, used, work=work)


def plan_labels(step: Step, world: World) -> StagePlan:
    config = config_of(step, label_comparisons.Config)
    source, total, works = world.written[step.reads[0]], Usages(), []
    kind = "reasoning" if config.reading == "logprob" else "verdict"
    for judge in config.judges:
        model = world.model(judge.model)
        job = label_comparisons.job_of(config.model_copy(update={"model": judge.model}), world.context())
        written, used = converse(job, source, PAIR, model.counter, model.config, model.context, kind=kind)
        total += used
        works.append(world.engines(used, model, config.scaling.max_engines))
    world.written[step.stage] = written
    return StagePlan(step.stage, source.num_rows, written.num_rows, total, work=together(works))


def plan_evaluate(step: Step, world: World) -> StagePlan:
    """The policies' answers, and the judges that are models; rules score in seconds."""
    config = config_of(step, evaluate.Config)
    source = world.written[step.reads[0]]
    there = sum(w for row, w in each(source) if config.split in ("all", row["split"]))
    asked = min(there, config.limit or there)
    total, answering, judging = Usages(), [], []
    for policy in config.policies:
        model = world.model(policy)
        wanted = evaluate.answered_by(policy, config.model_copy(update={"limit": None}), [])
        job = sampled_responses.job_of(wanted, model.config, world.recipe.seed)
        part = source.scaled(asked / there) if there else source
        answers, used = converse(job, part, PROMPT, model.counter, model.config, model.context)
        total += used
        answering.append(world.engines(used, model, config.scaling.max_engines))
        for judge in config.judges:
            judged = plan_judge(judge, answers, len(config.policies), world)
            total += judged
            judging.append(world.engines(judged, world.model(judge.model), judge.scaling.max_engines))
    groups = evaluate.grouped(answering, config)
    per_prompt = config.samples_per_prompt * len(config.policies)
    work = together([*(side_by_side(group, world.hardware) for group in groups), *judging])
    return StagePlan(step.stage, source.num_rows * per_prompt, asked * per_prompt, total, work=work)


def plan_multiple_choice(step: Step, world: World) -> StagePlan:
    config = config_of(step, multiple_choice.Config)
    num, tokens = 438, 250.0  # of the paper's file, where it cannot be read
    try:
        items, _ = read_items(config.path, config.limit)
        num = len(items)
    except ConfigError:
        world.notes.append(f"{config.path} was not read: {num} items of {tokens:g} tokens")
        items = []
    total, works = Usages(), []
    for name in (*config.models, *config.preference_models):
        model = world.model(name)
        mean = _mean(len(model.counter.renderer.encode(item.prompt)) for item in items[:100]) or tokens
        used = Usages(num, num * mean, 0.0, num, mean + 1)
        total += used
        works.append(world.engines(used, model, config.scaling.max_engines))
    rows = float(num * len(works))
    return StagePlan(step.stage, rows, rows, total, work=together(works))


def _mean(values: Iterable[int]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0


PLANNERS = {
    load_prompts.STAGE: plan_load,
    load_prompts.PPO_PROMPTS: plan_load,
    load_pairs.STAGE: plan_load_pairs,
    expand_prompts.STAGE: plan_expand,
    revise.STAGE: plan_revise,
    self_critique.STAGE: plan_self_critique,
    sample_pairs.STAGE: plan_pairs,
    label_comparisons.STAGE: plan_labels,
    evaluate.STAGE: plan_evaluate,
    multiple_choice.STAGE: plan_multiple_choice,
}
