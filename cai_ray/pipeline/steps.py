"""The steps of a run: which stages a recipe asks for, in order, what each reads, asks and makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.storage import Storage
from cai_ray.config import StageConfig
from cai_ray.errors import ConfigError
from cai_ray.pipeline.recipe import Recipe
from cai_ray.stages import exports
from cai_ray.stages.context import Context
from cai_ray.stages.evaluation import evaluate, multiple_choice, score_rounds
from cai_ray.stages.evaluation import summary as evaluate_summary
from cai_ray.stages.evaluation.judges.base import asked_models, input_identity, scoring_models
from cai_ray.stages.inputs import expand_prompts
from cai_ray.stages.inputs import load_prompts as store_prompts
from cai_ray.stages.inputs import sources as load_prompts
from cai_ray.stages.ppo import pretraining as ppo_pretraining
from cai_ray.stages.ppo import summary as ppo_summary
from cai_ray.stages.ppo import train_ppo
from cai_ray.stages.ppo.refresh_config import RefreshSources
from cai_ray.stages.preferences import (
    comparisons as preference_rows,
)
from cai_ray.stages.preferences import (
    label_comparisons,
    label_summary,
    preference_model_summary,
    sample_pairs,
    train_dpo,
    train_preference_model,
)
from cai_ray.stages.report import write_report as report
from cai_ray.stages.revision import revise
from cai_ray.stages.revision import summary as revise_summary
from cai_ray.stages.supervised import train_sft

MADE_PREFERENCE_MODEL = "preference_model"  # what the run calls the one that it trains


@dataclass(frozen=True)
class Step:
    """One stage of a run, in order."""

    stage: str
    config: StageConfig
    run: Callable[[Context], Artifact]
    asks: tuple[str, ...] = ()  # models it samples or scores with
    scores_with: tuple[str, ...] = ()  # classifiers and embedders: models that need no prompt format
    trains: str | None = None  # the model it starts from
    makes: str | None = None  # the name of the model it trains
    reads: tuple[str, ...] = ()  # stages whose artifacts it takes
    needs_constitution: bool = False
    identity: Callable[[], dict[str, Any]] = dict  # of input from outside the run
    exports: tuple[str, ...] = ()  # of EXPORTS_OF, written beside the stage for other tools
    summary: Callable[[Artifact], Table | None] | None = (
        None  # writes what is missing of summary.json; shown at the end
    )

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that must be there before this step."""
        return (*self.asks, *self.scores_with, *((self.trains,) if self.trains else ()))


def steps(recipe: Recipe) -> list[Step]:
    """The stages that this recipe runs, in order: those whose section it has."""
    found = [_load(recipe)]
    if recipe.expand is not None:
        found.append(_expand(recipe.expand))
    prompts = found[-1].stage
    found.append(_revise(recipe.revise, prompts))
    if recipe.sft is not None:
        found.append(_sft(recipe.sft))
    if recipe.pairs is not None:
        found.append(_pairs(recipe.pairs, prompts))
    if recipe.labels is not None:
        found.append(_labels(recipe.labels))
    if recipe.preference_model is not None:
        found.append(_preference_model(recipe.preference_model))
    if recipe.score_rounds is not None:
        found.append(_score_rounds(recipe.score_rounds))
    if recipe.dpo is not None:
        found.append(_dpo(recipe.dpo))
    if recipe.ppo is not None:
        found.append(_ppo(recipe, recipe.ppo, prompts))
    if recipe.multiple_choice is not None:
        found.append(_multiple_choice(recipe.multiple_choice))
    if recipe.evaluate is not None:
        found.append(_evaluate(recipe.evaluate, prompts))
    if recipe.report is not None:
        found.append(_report(recipe.report, tuple(step.stage for step in found)))
    _check_reads(found)
    return found


def _load(recipe: Recipe) -> Step:
    return Step(
        load_prompts.STAGE,
        recipe.prompts,
        lambda context: store_prompts.run(recipe.prompts, context),
        identity=lambda: store_prompts.input_identity(recipe.prompts),
    )


def _expand(config: expand_prompts.Config) -> Step:
    return Step(
        expand_prompts.STAGE,
        config,
        lambda context: expand_prompts.run(config, context, load_prompts.STAGE),
        asks=(config.model,),
        reads=(load_prompts.STAGE,),
    )


def _revise(config: revise.Config, prompts: str) -> Step:
    return Step(
        revise.STAGE,
        config,
        lambda context: revise.run(config, context, prompts),
        asks=(config.model,),
        reads=(prompts,),
        needs_constitution=True,
        summary=lambda artifact: revise_summary.table(revise_summary.read_summary(artifact)),
    )


def _sft(config: train_sft.Config) -> Step:
    return Step(
        train_sft.STAGE,
        config,
        lambda context: train_sft.run(config, context, revise.STAGE),
        trains=config.model,
        makes="sl_cai",
        reads=(revise.STAGE,),
        exports=("sft",),
    )


def _pairs(config: sample_pairs.Config, prompts: str) -> Step:
    return Step(
        sample_pairs.STAGE,
        config,
        lambda context: sample_pairs.run(config, context, prompts),
        asks=(config.model,),
        reads=(prompts,),
    )


def _labels(config: label_comparisons.Config) -> Step:
    return Step(
        label_comparisons.STAGE,
        config,
        lambda context: label_comparisons.run(config, context, sample_pairs.STAGE),
        asks=(config.model,),
        reads=(sample_pairs.STAGE,),
        needs_constitution=True,
        exports=("preferences", "comparisons"),
        summary=lambda artifact: label_summary.table(label_summary.read_summary(artifact)),
    )


def _preference_model(config: train_preference_model.Config) -> Step:
    return Step(
        train_preference_model.STAGE,
        config,
        lambda context: train_preference_model.run(config, context, label_comparisons.STAGE),
        trains=config.model,
        makes=MADE_PREFERENCE_MODEL,
        reads=(label_comparisons.STAGE,),
        identity=lambda: preference_rows.input_identity(config),
        summary=lambda artifact: preference_model_summary.table(preference_model_summary.read_summary(artifact)),
    )


def _score_rounds(config: score_rounds.Config) -> Step:
    return Step(
        score_rounds.STAGE,
        config,
        lambda context: score_rounds.run(config, context, revise.STAGE),
        scores_with=(config.model,),
        reads=(revise.STAGE,),
        summary=lambda artifact: score_rounds.table(score_rounds.read_summary(artifact)),
    )


def _dpo(config: train_dpo.Config) -> Step:
    return Step(
        train_dpo.STAGE,
        config,
        lambda context: train_dpo.run(config, context, label_comparisons.STAGE),
        trains=config.model,
        makes="dpo",
        reads=(label_comparisons.STAGE,),
        identity=lambda: preference_rows.input_identity(config),
    )


def _ppo(recipe: Recipe, config: train_ppo.Config, prompts: str) -> Step:
    refresh = None if config.refresh is None else _refresh(recipe, config)
    return Step(
        train_ppo.STAGE,
        config,
        lambda context: train_ppo.run(config, context, prompts, refresh),
        asks=(config.preference_model, *((refresh.feedback_model,) if refresh else ())),
        trains=config.model,
        makes="rl_cai",
        reads=(prompts, *((refresh.pairs_stage,) if refresh else ())),
        needs_constitution=refresh is not None,
        identity=lambda: ppo_pretraining.identity(config.pretraining),
        summary=lambda artifact: ppo_summary.table(ppo_summary.read_summary(artifact)),
    )


def _refresh(recipe: Recipe, config: train_ppo.Config) -> RefreshSources:
    """What other sections say of `ppo.refresh`. Raises ConfigError where they are not there.

    Their settings decide results of PPO too: its fingerprint has them, by the fingerprint of the stage it reads.
    """
    labels, trained = recipe.labels, recipe.preference_model
    missing = [name for name, section in (("labels", labels), ("preference_model", trained)) if section is None]
    if labels is None or trained is None:
        raise ConfigError(
            f"ppo.refresh labels fresh pairs as the section labels says and goes on with the training of the section "
            f"preference_model; this recipe has no {' and no '.join(missing)}. Add it, or set ppo.refresh to null"
        )
    if config.preference_model != MADE_PREFERENCE_MODEL:
        raise ConfigError(
            f"ppo.refresh goes on with the training of the run's own preference model, and ppo.preference_model is "
            f"{config.preference_model!r}; set it to {MADE_PREFERENCE_MODEL!r}, or ppo.refresh to null"
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


def _multiple_choice(config: multiple_choice.Config) -> Step:
    return Step(
        multiple_choice.STAGE,
        config,
        lambda context: multiple_choice.run(config, context),
        asks=(*config.models, *config.preference_models),
        identity=lambda: multiple_choice.input_identity(config),
        summary=lambda artifact: multiple_choice.table(multiple_choice.read_summary(artifact)),
    )


def _evaluate(config: evaluate.Config, prompts: str) -> Step:
    return Step(
        evaluate.STAGE,
        config,
        lambda context: evaluate.run(config, context, prompts),
        asks=(*config.policies, *asked_models(config.judges)),
        scores_with=scoring_models(config.judges),
        identity=lambda: input_identity(config.judges),
        reads=(prompts,),
        summary=lambda artifact: evaluate_summary.table(evaluate_summary.read_summary(artifact)),
    )


def _report(config: report.Config, stages: tuple[str, ...]) -> Step:
    return Step(report.STAGE, config, lambda context: report.run(config, context, stages), reads=stages)


def _check_reads(found: Sequence[Step]) -> None:
    """Raises ConfigError for a step whose input no step before it makes."""
    for position, step in enumerate(found):
        before = {other.stage for other in found[:position]}
        for stage in step.reads:
            if stage not in before:
                raise ConfigError(
                    f"{step.stage} reads what {stage} writes, and this recipe has no {stage}; add its section "
                    f"({SECTION_OF.get(stage, stage)})"
                )


SECTION_OF = {
    load_prompts.STAGE: "prompts",
    expand_prompts.STAGE: "expand",
    revise.STAGE: "revise",
    train_sft.STAGE: "sft",
    sample_pairs.STAGE: "pairs",
    label_comparisons.STAGE: "labels",
    train_preference_model.STAGE: "preference_model",
    score_rounds.STAGE: "score_rounds",
    train_dpo.STAGE: "dpo",
    train_ppo.STAGE: "ppo",
    multiple_choice.STAGE: "multiple_choice",
    evaluate.STAGE: "evaluate",
    report.STAGE: "report",
}
EXPORTS_OF: dict[str, Callable[[Artifact, Storage], object]] = {
    "sft": exports.export_sft,
    "preferences": exports.export_preferences,
    "comparisons": exports.export_comparisons,
}


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
