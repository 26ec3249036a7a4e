"""The steps of a run: which stages a recipe asks for, in order, and whether each finds what it reads.

A new stage is one line here (its step, and its section beside it), besides its file, its test, the recipe's field and
what plans it.
"""

from __future__ import annotations

from collections.abc import Sequence

from cai_ray.errors import ConfigError
from cai_ray.pipeline.recipe import OWN_DATA, Recipe
from cai_ray.stages.abliteration import abliterate
from cai_ray.stages.evaluation import evaluate, multiple_choice, score_rounds, self_critique
from cai_ray.stages.inputs import expand_prompts, load_prompts
from cai_ray.stages.ppo import train_ppo
from cai_ray.stages.ppo.refresh.config import RefreshSources
from cai_ray.stages.preferences import (
    label_comparisons,
    load_pairs,
    sample_pairs,
    train_dpo,
    train_preference_model,
)
from cai_ray.stages.preferences.train_on_pairs import PairTraining
from cai_ray.stages.report import write_report
from cai_ray.stages.revision import revise
from cai_ray.stages.step import Step
from cai_ray.stages.supervised import train_sft

# Stage -> the recipe's section that asks for it, in the order of a run.
SECTION_OF = {
    load_prompts.STAGE: "prompts",
    expand_prompts.STAGE: "expand",
    abliterate.STAGE: "abliterate",
    revise.STAGE: "revise",
    train_sft.STAGE: "sft",
    sample_pairs.STAGE: "pairs",
    load_pairs.STAGE: "labels",
    label_comparisons.STAGE: "labels",
    train_preference_model.STAGE: "preference_model",
    score_rounds.STAGE: "score_rounds",
    train_dpo.STAGE: "dpo",
    load_prompts.PPO_PROMPTS: "ppo",
    train_ppo.STAGE: "ppo",
    self_critique.STAGE: "self_critique",
    multiple_choice.STAGE: "multiple_choice",
    evaluate.STAGE: "evaluate",
    write_report.STAGE: "report",
}


def steps(recipe: Recipe) -> list[Step]:
    """The stages that this recipe runs, in order: those whose section it has. Raises ConfigError."""
    prompts = load_prompts.STAGE if recipe.expand is None else expand_prompts.STAGE
    sft, labelling, dpo, ppo = recipe.sft, recipe.labels, recipe.dpo, recipe.ppo
    labels = label_comparisons.STAGE if labelling else None
    own_pairs = labelling.pairs if labelling else ()
    if own_pairs and recipe.pairs:
        raise ConfigError("labels.pairs stands in place of the section pairs, and this recipe has both; remove one")
    wanted = (
        load_prompts.step(recipe.prompts) if recipe.prompts else None,
        expand_prompts.step(recipe.expand, load_prompts.STAGE) if recipe.expand else None,
        abliterate.step(recipe.abliterate, prompts) if recipe.abliterate else None,
        revise.step(recipe.revise, prompts) if recipe.revise else None,
        train_sft.step(sft, None if sft.examples and not recipe.revise else revise.STAGE) if sft else None,
        sample_pairs.step(recipe.pairs, prompts) if recipe.pairs else None,
        _load_pairs(labelling) if labelling and own_pairs else None,
        label_comparisons.step(labelling, load_pairs.STAGE if own_pairs else sample_pairs.STAGE) if labelling else None,
        train_preference_model.step(recipe.preference_model, _labels(labels, recipe.preference_model))
        if recipe.preference_model
        else None,
        score_rounds.step(recipe.score_rounds, revise.STAGE) if recipe.score_rounds else None,
        train_dpo.step(dpo, _labels(labels, dpo)) if dpo else None,
        load_prompts.step(ppo.prompts, load_prompts.PPO_PROMPTS) if ppo and ppo.prompts else None,
        train_ppo.step(ppo, load_prompts.PPO_PROMPTS if ppo.prompts else prompts, _refresh(recipe, ppo))
        if ppo
        else None,
        self_critique.step(recipe.self_critique, prompts) if recipe.self_critique else None,
        multiple_choice.step(recipe.multiple_choice) if recipe.multiple_choice else None,
        evaluate.step(recipe.evaluate, prompts) if recipe.evaluate else None,
    )
    found = [step for step in wanted if step is not None]
    if recipe.report:
        found.append(write_report.step(recipe.report, tuple(step.stage for step in found)))
    _check_reads(found)
    return found


def _load_pairs(labelling: label_comparisons.Config) -> Step:
    config = load_pairs.Config(sources=labelling.pairs, max_dropped_fraction=labelling.max_dropped_fraction)
    return load_pairs.step(config)


def _labels(stage: str | None, config: PairTraining) -> str | None:
    """The stage whose labels are learned; None where the config brings preferences and the recipe labels nothing."""
    return stage if config.preferences else label_comparisons.STAGE


def _refresh(recipe: Recipe, config: train_ppo.Config) -> RefreshSources | None:
    """What other sections say of a refreshed reward; None without one. Raises ConfigError where they are not there.

    Their settings decide results of PPO too: its fingerprint has them, by the fingerprint of the stage it reads.
    """
    if config.refresh is None:
        return None
    labels, trained = recipe.labels, recipe.preference_model
    missing = [name for name, section in (("labels", labels), ("preference_model", trained)) if section is None]
    if labels is None or trained is None:
        raise ConfigError(
            f"ppo.reward of kind refresh labels fresh pairs as the section labels says and goes on with the training "
            f"of the section preference_model; this recipe has no {' and no '.join(missing)}. Add it, or choose "
            "another kind"
        )
    if labels.models:
        raise ConfigError(
            f"ppo.reward of kind refresh labels fresh pairs with one model, and labels.models names "
            f"{len(labels.models)}; set labels.model in its place, or choose another kind"
        )
    made = train_preference_model.MADE
    if config.preference_model != made:
        raise ConfigError(
            f"ppo.reward of kind refresh goes on with the training of the run's own preference model, and "
            f"ppo.preference_model is {config.preference_model!r}; set it to {made!r}, or choose another kind"
        )
    return RefreshSources(
        feedback_model=labels.model,
        scaling=labels.scaling,
        job=lambda context: label_comparisons.job_of(labels, context),
        check=lambda context: label_comparisons.check(labels, context.model(labels.model), context.principles()),
        pairs_stage=train_preference_model.STAGE,
        is_soft=trained.targets == "soft",
        centring=trained.center_rewards_coefficient,
    )


def _check_reads(found: Sequence[Step]) -> None:
    """Raises ConfigError for a step whose input no step before it makes."""
    for position, step in enumerate(found):
        before = {other.stage for other in found[:position]}
        for stage in step.reads:
            if stage not in before:
                section = SECTION_OF[step.stage]
                own = f", or bring your own: {section}.{OWN_DATA[section]}" if section in OWN_DATA else ""
                raise ConfigError(
                    f"{step.stage} reads what {stage} writes, and this recipe has no {stage}; add its section "
                    f"({SECTION_OF.get(stage, stage)}){own}"
                )


def select(
    all_steps: Sequence[Step], only: str | None = None, first: str | None = None, last: str | None = None
) -> list[Step]:
    """The steps to run. Raises ConfigError for a stage that this recipe does not have."""
    names = [step.stage for step in all_steps]
    for name in (only, first, last):
        if name is not None and name not in names:
            raise ConfigError(f"stage {name!r} is not in this recipe; its stages: {', '.join(names)}")
    if only is not None:
        return [step for step in all_steps if step.stage == only]
    begin = names.index(first) if first else 0
    end = names.index(last) if last else len(names) - 1
    return list(all_steps[begin : end + 1])
