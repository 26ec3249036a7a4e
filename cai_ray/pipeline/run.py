"""The ordered steps of a run: what is finished is skipped, what is not is begun or resumed."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.table import Table

from cai_ray.artifacts.artifact import Artifact, find
from cai_ray.artifacts.lease import held
from cai_ray.artifacts.storage import Storage
from cai_ray.config import ModelConfig, is_micro_model
from cai_ray.constitution.draw import check_choice
from cai_ray.constitution.principles import Constitution, ConstitutionError
from cai_ray.constitution.source import load as load_constitution
from cai_ray.constitution.source import resolve
from cai_ray.engines.cluster import address_of, connected, kept_connection
from cai_ray.engines.shared_folder import check_shared
from cai_ray.errors import ConfigError, TooManyDropped
from cai_ray.fingerprint import fingerprint, model_settings, settings
from cai_ray.lookup import location
from cai_ray.pipeline.accepted import accepted, begin
from cai_ray.pipeline.budget import allowance_of, ending_in_time
from cai_ray.pipeline.checked_models import check_models
from cai_ray.pipeline.kept_recipe import earlier_recipe, keep
from cai_ray.pipeline.output import refuse_package_cache
from cai_ray.pipeline.recipe import Recipe
from cai_ray.pipeline.retry_dropped import ask_again, first_with
from cai_ray.pipeline.steps import SECTION_OF, steps
from cai_ray.progress.board import Board, live_stages
from cai_ray.progress.trackers import named_by, refuse_missing, send_report
from cai_ray.stages.context import Context, Trained
from cai_ray.stages.exports import EXPORTS
from cai_ray.stages.report import write_report as report
from cai_ray.stages.step import Step

logger = logging.getLogger(__name__)


def folder_of(recipe: Recipe) -> Storage:
    return Storage(recipe.output) / recipe.name


def prepare(recipe: Recipe, all_steps: Sequence[Step]) -> Context:
    """Everything that can be wrong is found here, before any engine starts.

    Puts the micro model into the cache when a model's path is "microworld" and it is not there yet. Raises ConfigError.
    """
    refuse_package_cache(recipe.output)
    refuse_missing(named_by(step.config for step in all_steps))
    run = folder_of(recipe)
    constitution = constitution_of(recipe) if any(step.needs_constitution for step in all_steps) else None
    given = recipe.asked_models
    trained = _trained(given, all_steps)
    run.make()
    used = {name for step in all_steps for name in step.models} - set(trained)
    models = {name: _resolved(model) if name in used else model for name, model in given.items()}
    prompted = {name for step in all_steps for name in (*step.asks, step.trains)}
    today = _date_of(run)
    for name in sorted(used & prompted):
        models[name] = _checked(name if name in recipe.models else "policy", models[name], today)
    check_models(all_steps, {name: models[name] for name in used}, trained)
    return Context(
        run=run,
        seed=recipe.seed,
        models=models,
        trained={name: replace(made, base=models[made.base_name]) for name, made in trained.items()},
        constitution=constitution,
        cluster=recipe.cluster,
        fingerprints=_fingerprints(recipe, all_steps, models, constitution),
    )


def _trained(given: Mapping[str, ModelConfig], all_steps: Sequence[Step]) -> dict[str, Trained]:
    """The models that the run itself trains. Raises ConfigError for a model that is not there when it is asked."""
    made: dict[str, Trained] = {}
    for step in all_steps:
        for name in step.models:
            if name not in given and name not in made:
                before = f", and the stages before it train {', '.join(made)}" if made else ""
                raise ConfigError(
                    f"{step.stage} uses model {name!r}, but models has {', '.join(given)}{before}; "
                    f"add it to models, or name another in {SECTION_OF[step.stage]}"
                )
        if step.trains is None:
            continue
        base_name = made[step.trains].base_name if step.trains in made else step.trains
        for name, folder in step.made.items():
            if name in given:
                raise ConfigError(
                    f"{step.stage} trains model {name!r}, which models names too; rename the one in models"
                )
            made[name] = Trained(step.stage, base_name, given[base_name], folder)
    return made


def _checked(name: str, model: ModelConfig, today: datetime.date) -> ModelConfig:
    """The model, with the run's date where its prompts show one. Raises ConfigError for one that cannot be asked."""
    if model.endpoint is not None:
        from cai_ray.engines.backends.batches.backend import with_room
        from cai_ray.engines.backends.endpoint import check_endpoint

        check_endpoint(model)
        return with_room(model)
    from cai_ray.engines.models.reading import load_renderer
    from cai_ray.engines.models.thinking import check_thinking

    renderer = load_renderer(model)
    if not renderer.is_able():  # that the template was edited is told later, where it was; so is what it refuses
        return model
    check_thinking(name, model, renderer)
    is_undated = model.template_date is None and renderer.shows_date()
    return model.model_copy(update={"template_date": today}) if is_undated else model


def _date_of(run: Storage) -> datetime.date:
    """The day that prompts with a date show, the same in all of a run: the one it was begun with, or today."""
    models = (earlier_recipe(run) or {}).get("models", {})
    dates = [model.get("template_date") for model in models.values() if isinstance(model, dict)]
    return next((datetime.date.fromisoformat(day) for day in dates if day), datetime.date.today())


def _dated(recipe: Recipe, context: Context) -> Recipe:
    """The recipe with the dates that its models were given."""
    dated = {
        name: model.model_copy(update={"template_date": context.models[name].template_date})
        for name, model in recipe.models.items()
    }
    return recipe.model_copy(update={"models": dated})


def constitution_of(recipe: Recipe) -> Constitution:
    """Raises ConfigError when there is none, or it is wrong, or has too little for the recipe."""
    if recipe.constitution is None:
        raise ConfigError("the recipe names no constitution; set `constitution` to a name or a YAML file")
    try:
        constitution = load_constitution(resolve(recipe.constitution))
        if (revise := recipe.revise) is not None:
            subset = constitution.only(revise.principle_ids) if revise.principle_ids else constitution
            check_choice(subset, revise.principles, revise.num_revisions)
    except ConstitutionError as error:
        raise ConfigError(str(error)) from error
    return constitution


def _resolved(model: ModelConfig) -> ModelConfig:
    """The model with "microworld" replaced by the folder of the micro model, a folder's name by where it is."""
    if model.endpoint is not None:
        return model
    if not is_micro_model(model.path):
        return model.model_copy(update={"path": location(model.path)})
    from cai_ray.microworld.variants import ensure_micro_model

    return model.model_copy(update={"path": str(ensure_micro_model(model.path))})


def _fingerprints(
    recipe: Recipe, all_steps: Sequence[Step], models: dict[str, ModelConfig], constitution: Constitution | None
) -> dict[str, str]:
    found: dict[str, str] = {}
    made_by: dict[str, str] = {}
    for step in all_steps:
        decides: dict[str, Any] = {"config": settings(step.config), "identity": step.identity()}
        if step.models:
            decides["models"] = {n: made_by[n] if n in made_by else model_settings(models[n]) for n in step.models}
        if step.needs_constitution and constitution is not None:
            decides["constitution"] = constitution.fingerprint
        if step.reads:
            decides["reads"] = [found[stage] for stage in step.reads]
        found[step.stage] = fingerprint(step.stage, recipe.seed, decides)
        made_by |= dict.fromkeys(step.made, found[step.stage])
    return found


@dataclass(frozen=True)
class Outcome:
    """What became of one step."""

    stage: str
    artifact: Artifact
    was_finished: bool  # nothing had to be done
    table: Table | None  # what the stage shows for itself


def run(recipe: Recipe, chosen: Sequence[Step], fresh: bool = False, retry: Sequence[str] = ()) -> list[Outcome]:
    """Run the chosen steps. What made what lies there is written to `recipe.json` before work starts.

    `fresh` deletes the output of the first chosen stage and of all after it; `retry`: the rows that the first chosen
    stage with any dropped for these reasons are asked again, and what lies after it is deleted. Raises ConfigError, and
    has written nothing, when a stage up to the last chosen one was made from something else; TooManyDropped after the
    stage it concerns is committed; RunIsTaken while another driver works on the run; LimitReached.
    """
    all_steps = steps(recipe)
    context = prepare(recipe, all_steps)
    with held(context.run) as lease:
        context = accepted(recipe, replace(context, lease=lease), all_steps, chosen, fresh)
        if fresh:
            _delete_from(chosen[0], all_steps, context.run)
        if (again := first_with(retry, chosen, context.run)) is not None:
            behind = [step.stage for step in all_steps].index(again.stage) + 1
            if behind < len(all_steps):
                _delete_from(all_steps[behind], all_steps, context.run)
            ask_again(again, retry, context.run)
        keep(_dated(recipe, context), context, [step for step in chosen if not _is_done(step, context)])
        return _run_steps(recipe, context, chosen)


def _run_steps(recipe: Recipe, context: Context, chosen: Sequence[Step]) -> list[Outcome]:
    outcomes = []
    with kept_connection(), live_stages([step.stage for step in chosen]) as board:
        if context.run.is_local and any(step.models and not _is_done(step, context) for step in chosen):
            _check_nodes(context)
        for step in chosen:
            if board is not None:
                board.add_task(step.stage, total=None)
            try:
                begin(recipe, context, step)
                is_done = _is_done(step, context)
                allowance = None if is_done else allowance_of(recipe, step, steps(recipe), context.run)
                before = found.version if step.is_view and (found := find(context.folder(step.stage))) else None
                with ending_in_time(step, allowance):
                    outcomes.append(_run_step(step, replace(context, allowance=allowance)))
                if step.is_view and outcomes[-1].artifact.version != before:
                    trackers = named_by(one.config for one in steps(recipe))
                    send_report(trackers, context.run / report.STAGE, report.PAGE, report.MARKDOWN)
            except BaseException:
                if board is not None:
                    board.ended(step.stage, "failed", "", None)
                raise
            _tell(outcomes[-1], board)
    return outcomes


def _check_nodes(context: Context) -> None:
    """That all nodes of a cluster see the run's folder. A Ray that is started here has one node."""
    if address_of(context.cluster):
        with connected(context.cluster):
            check_shared(context.run)


def _delete_from(first: Step, all_steps: Sequence[Step], run: Storage) -> None:
    """Delete the output of `first` and of every step after it, and what was exported of it."""
    names = [step.stage for step in all_steps]
    for step in all_steps[names.index(first.stage) :]:
        run.delete_folder(step.stage)
        for name in step.exports:
            run.delete_folder(f"{EXPORTS}/{name}")


def _is_done(step: Step, context: Context) -> bool:
    found = find(context.folder(step.stage))
    return found is not None and (not step.is_view or found.manifest.config == settings(step.config))


def _run_step(step: Step, context: Context) -> Outcome:
    """Run one step, its exports and its summary; or find that it was finished."""
    was_finished = find(context.folder(step.stage)) is not None
    artifact = step.run(context)
    table = step.summary(artifact) if step.summary is not None else None
    _check_dropped(step, artifact)  # before the exports, which say no more than that there is no row
    for name, export in step.exports.items():
        export(artifact, context.run / EXPORTS / name)
    return Outcome(step.stage, artifact, was_finished, table)


def _tell(outcome: Outcome, board: Board | None) -> None:
    """One line about a step that is done: on the board, or in the log."""
    manifest = outcome.artifact.manifest
    rows = f"{manifest.rows_out:,} rows out"
    for count, what in ((manifest.num_dropped, "dropped"), (manifest.num_left_out, "left out by the recipe")):
        rows += f", {count:,} {what}" if count else ""
    if board is not None:
        before = "finished before, " if outcome.was_finished else ""
        board.ended(outcome.stage, "finished", before + rows, manifest.duration_s)
    else:
        logger.info("%s: %s, %s", outcome.stage, "finished before" if outcome.was_finished else "done", rows)


def _check_dropped(step: Step, artifact: Artifact) -> None:
    manifest = artifact.manifest
    num_tried = manifest.rows_in - (manifest.num_left_out if step.leaves_unasked else 0)
    share = manifest.num_dropped / num_tried if num_tried else 0.0
    if manifest.num_dropped and not manifest.rows_out:
        share = 1.0
    if share > step.config.max_dropped_fraction:
        reasons = ", ".join(f"{reason} {count}" for reason, count in manifest.rows_dropped.items())
        raise TooManyDropped(
            f"{step.stage} dropped {manifest.num_dropped} of {num_tried} rows ({share:.1%}: {reasons}), "
            f"more than max_dropped_fraction={step.config.max_dropped_fraction}; {step.why_dropped(artifact)}"
            f"see {artifact.folder.shown}/dropped, then "
            "raise the limit or mend the input"
        )


def write_report(recipe: Recipe, output: str | None) -> list[str]:
    """Report on what is in the run's folder now; the files' locations. Starts nothing. Raises ConfigError."""
    stages = [step.stage for step in steps(recipe) if step.stage != report.STAGE]
    return report.write(folder_of(recipe), stages, recipe.report or report.Config(), output)
