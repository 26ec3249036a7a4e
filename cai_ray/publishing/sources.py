"""Where a run's rows and models come from, and under which licence: from the recipe, and from the cards of the hub.

Tested in tests/publishing/test_publish.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from cai_ray.config import MICROWORLD, ModelConfig
from cai_ray.lookup import location
from cai_ray.pipeline.recipe import Recipe
from cai_ray.publishing.hub import licence_on_hub
from cai_ray.publishing.licences import BOTH
from cai_ray.stages.inputs.choose_new_prompts import SOURCE as EXPANDED

OURS = "apache-2.0"  # of what comes along with the package


def licences_of(recipe: Recipe, told: Mapping[str, str]) -> dict[str, str | None]:
    """Source -> licence: as `told`, else the recipe's, else that of the set's card. None where nobody says it.

    New prompts that a model wrote after seeds are under the licences of all prompt sets.
    """
    found: dict[str, str | None] = {}
    seeds: list[str | None] = []
    for name, path, given, is_prompts in _sources(recipe):
        licence = told.get(name) or given or _of_path(path)
        found[name] = licence if name not in found else _both([found[name], licence])
        if is_prompts:
            seeds.append(licence)
    if recipe.expand is not None:
        found[EXPANDED] = told.get(EXPANDED) or _both(seeds)
    return found


def _sources(recipe: Recipe) -> Iterator[tuple[str, str, str | None, bool]]:
    """(name on the rows, path, licence in the recipe, whether it holds prompts) of all sets whose rows go out."""
    for source in recipe.prompts.all_sources() if recipe.prompts else ():
        yield source.source, source.path, source.license, True
    for pairs in recipe.labels.pairs if recipe.labels else ():
        yield pairs.source, pairs.path, None, False
    for examples in recipe.sft.examples if recipe.sft else ():
        yield examples.source, examples.path, None, False


def _of_path(path: str) -> str | None:
    if path == MICROWORLD:
        return OURS
    return licence_on_hub(path.removeprefix("hf://").split(":")[0], "dataset") if path.startswith("hf://") else None


def _both(licences: list[str | None]) -> str | None:
    """Of rows that stand under all of these."""
    known = [licence for licence in licences if licence is not None]
    return BOTH.join(dict.fromkeys(known)) if known and len(known) == len(licences) else None


def hub_id(model: ModelConfig) -> str | None:
    """Where the hub has it; None for a folder."""
    return None if model.path == MICROWORLD or Path(location(model.path)).exists() else model.path


def licence_of_model(name: str, model: ModelConfig, told: Mapping[str, str]) -> str | None:
    """The licence of the recipe's model `name`, told as "models.NAME"; None where nobody says it."""
    if said := told.get(f"models.{name}"):
        return said
    if model.path == MICROWORLD:
        return OURS
    if (base := hub_id(model)) is not None:
        return licence_on_hub(base, "model")
    card = Path(location(model.path)) / "README.md"
    licence = front_matter(card.read_text("utf-8"))[0].get("license") if card.is_file() else None
    return str(licence) if licence else None


def front_matter(card: str) -> tuple[dict[str, Any], str]:
    """A card's metadata and its text."""
    begin, _, rest = card.partition("---\n")
    if begin or "\n---\n" not in rest:
        return {}, card
    head, _, text = rest.partition("\n---\n")
    try:
        found = yaml.safe_load(head)
    except yaml.YAMLError:
        found = None
    return (found if isinstance(found, dict) else {}), text
