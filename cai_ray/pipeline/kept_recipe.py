"""`recipe.json`: what made what lies in a run's folder, section by section, readable as a recipe.

It is written when steps were accepted and something is to be made. A section changes with its stage: what lies there
and is not worked on keeps the words that it was made with.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from cai_ray.artifacts.storage import Storage
from cai_ray.lookup import without_keys
from cai_ray.pipeline.accepted import standing
from cai_ray.pipeline.recipe import Recipe
from cai_ray.pipeline.steps import SECTION_OF
from cai_ray.stages.context import Context
from cai_ray.stages.report.source import RECIPE
from cai_ray.stages.step import Step


def keep(recipe: Recipe, context: Context, working: Sequence[Step]) -> None:
    """Write `recipe.json` for the steps that are about to be made or gone on with; nothing where there is none."""
    earlier = earlier_recipe(context.run)
    if working or earlier is None:
        untouched = _untouched(context.run, working)
        merged = merge(recipe.model_dump(mode="json"), earlier or {}, untouched, working, context)
        text = json.dumps(merged, indent=2, ensure_ascii=False)
        context.run.write(RECIPE, without_keys(text).encode())


def merge(
    new: dict[str, Any], earlier: dict[str, Any], untouched: set[str], working: Sequence[Step], context: Context
) -> dict[str, Any]:
    """The resolved recipe, with `earlier` words for stages that are `untouched` and for what only they use."""
    sections = {SECTION_OF[stage] for stage in untouched} - {SECTION_OF[step.stage] for step in working}
    if untouched and not any(step.needs_constitution for step in working):
        sections.add("constitution")
    merged = new | {name: earlier[name] for name in sections if name in earlier}
    if untouched:
        used = {context.trained[n].base_name if n in context.trained else n for step in working for n in step.models}
        used = {name if name in new["models"] else "policy" for name in used}  # the labeller may be the policy
        merged["models"] = new["models"] | {n: m for n, m in earlier.get("models", {}).items() if n not in used}
    return merged


def _untouched(run: Storage, working: Sequence[Step]) -> set[str]:
    """Stages that lie in the folder, of this recipe or an earlier one, and are not worked on."""
    mine = {step.stage for step in working}
    return {stage for stage in SECTION_OF if stage not in mine and standing(run / stage) is not None}


def earlier_recipe(run: Storage) -> dict[str, Any] | None:
    """What `recipe.json` says; None where there is none, or what is there is no recipe."""
    try:
        found = json.loads(run.read(RECIPE)) if run.exists(RECIPE) else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
