"""Ablations: one recipe run several times with a few settings changed, sharing every stage that comes out the same.

A file in jobs/recipes/ablations holds the question, where the paper asks it, and the variants as `--set` overrides;
any recipe can be put to it:

    cai-ray ablate quickstart critiques
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from posixpath import dirname

import pyarrow.fs as pafs
import yaml
from pydantic import Field, ValidationError, field_validator
from rich.table import Table

from cai_ray import shelf
from cai_ray.artifacts.artifact import MANIFEST, Artifact, find
from cai_ray.artifacts.lease import held
from cai_ray.artifacts.storage import Storage
from cai_ray.config import Config
from cai_ray.engines.cluster import connected
from cai_ray.errors import ConfigError
from cai_ray.pipeline import run as pipeline
from cai_ray.pipeline.accepted import agrees
from cai_ray.pipeline.recipe import Recipe, load
from cai_ray.pipeline.steps import steps
from cai_ray.stages.evaluation.evaluate import Config as EvaluateConfig

OPTIONAL = tuple(name for name, field in Recipe.model_fields.items() if field.default is None)


class Ablation(Config):
    """One question to a recipe."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    question: str
    source: str = Field(description="Where the paper reports it.")
    sections: tuple[str, ...] = Field(
        (), description="Optional sections of the recipe that matter to the question; the others are left out."
    )
    variants: dict[str, tuple[str, ...]] = Field(
        min_length=1, description="Name -> overrides, key=value. The others are compared with the first."
    )

    @field_validator("variants")
    @classmethod
    def _names_are_folders(cls, variants: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name in variants:
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"variant {name!r} names a folder; use letters, digits, - and _")
        return variants


def load_ablation(path: str | Path) -> Ablation:
    """Read an ablation, by path or by the name of one that comes along. Raises ConfigError."""
    if not shelf.is_path(str(path)):
        found = shelf.available("ablation").get(str(path))
        if found is None:
            raise ConfigError(f"no ablation is called {str(path)!r}; {shelf.advice('ablation', str(path))}")
        path = found
    try:
        return Ablation.model_validate(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise ConfigError(f"ablation {str(path)!r} cannot be used: {error}") from error


def variants(ablation: Ablation, base: str | Path, overrides: Sequence[str] = ()) -> dict[str, Recipe]:
    """A recipe per variant, each a run of its own: <name>-<ablation>-<variant>. `overrides` hold for all."""
    return {name: _variant(ablation, name, load(base, [*overrides, *own])) for name, own in ablation.variants.items()}


def _variant(ablation: Ablation, name: str, recipe: Recipe) -> Recipe:
    left_out = {section: None for section in OPTIONAL if section not in ablation.sections}
    kept = recipe.model_copy(update={**left_out, "name": f"{recipe.name}-{ablation.name}-{name}"})
    return kept.model_copy(update={"evaluate": _evaluated(kept)})


def _evaluated(recipe: Recipe) -> EvaluateConfig | None:
    """The section `evaluate` with the policies and judges that this run has."""
    if recipe.evaluate is None:
        return None
    trained = {name for step in steps(recipe.model_copy(update={"evaluate": None})) for name in step.made}
    known = {*recipe.asked_models, *trained}
    policies = tuple(name for name in recipe.evaluate.policies if name in known)
    judges = tuple(judge for judge in recipe.evaluate.judges if judge.model in known)
    return recipe.evaluate.model_copy(update={"policies": policies, "judges": judges})


def run(recipe: Recipe, others: Sequence[Recipe] = ()) -> dict[str, Artifact]:
    """Every stage's artifact by its name, taking over what another run has finished with the same fingerprint.

    Raises what `pipeline.run` raises.
    """
    for other in others:
        take_over(recipe, other)
    return {outcome.stage: outcome.artifact for outcome in pipeline.run(recipe, steps(recipe))}


def run_all(made: Mapping[str, Recipe], begins: Callable[[str], object], show: Callable[[Table], object]) -> None:
    """Run every variant, each after taking over what the others have finished; `begins` is told its name.

    `show` gets what its stages show for themselves. Raises what `pipeline.run` raises.
    """
    with connected(next(iter(made.values())).cluster):
        for name, variant in made.items():
            begins(name)
            for other in made.values():
                if other is not variant:
                    take_over(variant, other)
            for outcome in pipeline.run(variant, steps(variant)):
                if outcome.table is not None:
                    show(outcome.table)


def take_over(recipe: Recipe, other: Recipe) -> list[str]:
    """Copy the stages that `other` has finished and `recipe` would make just so; their names.

    Raises RunIsTaken while another driver works on `recipe`'s run.
    """
    all_steps = steps(recipe)
    context = pipeline.prepare(recipe, all_steps)
    taken = []
    with held(context.run):
        for step in all_steps:
            source, target = pipeline.folder_of(other) / step.stage, context.folder(step.stage)
            if find(target) is None and agrees(step, context, source):
                _copy(source, target)
                taken.append(step.stage)
    return taken


def _copy(source: Storage, target: Storage) -> None:
    """Copy a finished stage, its manifest last."""
    infos = source.filesystem.get_file_info(pafs.FileSelector(source.path(), recursive=True))
    names = [info.path.removeprefix(source.path()).lstrip("/") for info in infos if info.is_file]
    for name in sorted(names, key=lambda name: name == MANIFEST):
        target.filesystem.create_dir(dirname(target.path(name)), recursive=True)
        pafs.copy_files(
            source.path(name),
            target.path(name),
            source_filesystem=source.filesystem,
            destination_filesystem=target.filesystem,
        )
