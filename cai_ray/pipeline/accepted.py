"""What lies in a run's folder is what this recipe and its input would make; else nothing is begun (guarantee G4).

A fingerprint holds what a recipe says. What the files that it names *are* is recorded beside it in a stage's plan and
manifest, and compared, name by name, before anything is built on that stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow.fs as pafs

from cai_ray.artifacts.artifact import PLAN, Manifest, Plan, find, refusal
from cai_ray.artifacts.identity import changes, contents, named
from cai_ray.artifacts.storage import Storage
from cai_ray.engines.models.identity import engine_contents, model_contents, reader_contents
from cai_ray.errors import ConfigError
from cai_ray.pipeline.recipe import Recipe
from cai_ray.row_ids import RowIds
from cai_ray.stages.context import Context
from cai_ray.stages.step import Step

METRICS = "metrics.jsonl"
CONSTITUTION = "constitution"
ROWS = RowIds(())  # nobody reads them here


def contents_of(step: Step, context: Context) -> dict[str, str]:
    """Every input from outside the run that decides this step's results, as it is now. Raises ConfigError."""
    found: dict[str, str] = {}
    try:
        for source in step.files():
            found |= reader_contents(source.path, source.purpose) if source.is_model else contents(source)
        for name in step.models:
            if name not in context.trained:
                found |= model_contents(name, context.models[name])
        for name in (*step.asks, *step.scores_with):
            made = context.trained.get(name)
            model, given = (context.models[name], name) if made is None else (made.base, made.base_name)
            if model.endpoint is None:
                found |= engine_contents(given, model.engine)
    except OSError as error:
        raise ConfigError(f"an input of {step.stage} cannot be read: {error}") from error
    if step.needs_constitution and context.constitution is not None:
        found[CONSTITUTION] = f"content {context.constitution.fingerprint}"
    return found


def standing(folder: Storage) -> Manifest | Plan | None:
    """What lies in a stage's folder: a finished stage, the plan of a begun one, or nothing that could be lost."""
    found = find(folder)
    if found is not None:
        return found.manifest
    if not folder.exists(PLAN) or not _has_work(folder):
        return None
    return Plan.model_validate_json(folder.read(PLAN))


def _has_work(folder: Storage) -> bool:
    """Whether more was written than the intention."""
    selector = pafs.FileSelector(folder.path(), recursive=True)
    below = folder.persistently(lambda: folder.filesystem.get_file_info(selector))
    return any(info.is_file and info.base_name not in (PLAN, METRICS) for info in below)


def accepted(
    recipe: Recipe, context: Context, all_steps: Sequence[Step], chosen: Sequence[Step], fresh: bool
) -> Context:
    """The context, with what the input of every step is that may be begun.

    Raises ConfigError for the first step, up to the last chosen one, that was made from something else. Finished steps
    before the chosen ones are checked too, because the chosen ones build on them; `fresh`: the chosen ones and all
    after them are to be deleted, whatever they were made from.
    """
    names = [step.stage for step in all_steps]
    first, last = names.index(chosen[0].stage), names.index(chosen[-1].stage)
    known: dict[str, dict[str, str]] = {}
    for position, step in enumerate(all_steps[: last + 1]):
        found = None if fresh and position >= first else standing(context.folder(step.stage))
        is_old = isinstance(found, Manifest) and found.contents is None  # its fingerprint is all that is known
        if step.is_view or (position < first and not isinstance(found, Manifest)):
            continue
        if not is_old:
            known[step.stage] = contents_of(step, context)
        spec = replace(context, contents=known).spec(step.stage, step.config, ROWS)
        if found is not None and (refused := refusal(spec, found, _called(recipe))):
            raise refused
    return replace(context, contents=known)


def begin(recipe: Recipe, context: Context, step: Step) -> None:
    """Make sure that the step begins with the input that was accepted; another plan that came to nothing goes.

    Raises ConfigError when the input has changed since the command began.
    """
    folder = context.folder(step.stage)
    if step.is_view or find(folder) is not None:
        return
    if changed := changes(context.contents[step.stage], contents_of(step, context), _called(recipe)):
        told = "; ".join(changed)
        raise ConfigError(f"input of {step.stage} changed while this run went on: {told}. Run it again")
    if folder.exists(PLAN) and standing(folder) is None:
        plan = Plan.model_validate_json(folder.read(PLAN))
        if refusal(context.spec(step.stage, step.config, ROWS), plan):
            folder.delete_folder()


def agrees(step: Step, context: Context, folder: Storage) -> bool:
    """Whether the finished stage in `folder`, of any run, is what this step would make."""
    found = find(folder)
    if found is None or found.manifest.fingerprint != context.fingerprints[step.stage]:
        return False
    before = found.manifest.contents
    return before is None or not changes(before, contents_of(step, context))


def _called(recipe: Recipe) -> dict[str, str]:
    """The constitution is known by what it says; people know it by its file."""
    return {CONSTITUTION: named(str(recipe.constitution), CONSTITUTION)}
