"""What travels with a job: the recipe as it is run, and the small local files that it names. Nothing else does.

Names stay names: a file lies beside the travelling recipe as it lay beside this one, so that ids and fingerprints are
those of a run at home.
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from cai_ray.artifacts.storage import is_uri
from cai_ray.config import is_micro_model
from cai_ray.errors import ConfigError
from cai_ray.lookup import FOLDER, Located, location
from cai_ray.pipeline.recipe import Recipe, build, read

MOST_BYTES = 100 * 10**6  # Ray keeps a job's files in the head's memory, and refuses more than 512 MiB
RECIPE_FILE = "recipe.yaml"
# Inside folders that a recipe names, what belongs to nobody's run.
JUNK = (".*", "__pycache__", "*.pyc", "*.egg-info", "node_modules", "runs", "*.pem", "*.key")


def pack(path: str, overrides: Sequence[str], folder: Path) -> tuple[Recipe, str]:
    """Fill the empty `folder`; the recipe, and its file's name in there. Raises ConfigError for what cannot travel."""
    data = read(path, overrides)
    recipe = build(data, path)
    _check_output(recipe)
    named = sorted(set(_local_names(recipe)))
    files = {name: sources for name in named if (sources := _sources(name))}
    _check_sizes({name: sum(map(_num_bytes, sources)) for name, sources in files.items()})
    depth = max((_num_up(name) for name in files), default=0)  # "../data/x.jsonl" stays inside `folder`
    home = folder.joinpath(*["recipe"] * depth)
    home.mkdir(parents=True, exist_ok=True)
    for name, sources in files.items():
        for source in sources:
            _copy(source, home / _beside(name, source))
    text = yaml.safe_dump({key: value for key, value in data.items() if key != FOLDER}, sort_keys=False)
    (home / RECIPE_FILE).write_text(text, encoding="utf-8")
    return recipe, str((home / RECIPE_FILE).relative_to(folder))


def _check_output(recipe: Recipe) -> None:
    if not is_uri(recipe.output) and not Path(recipe.output).expanduser().is_absolute():
        raise ConfigError(
            f"output {recipe.output!r} is relative, and a job has no folder of its own that stays; set `output` to an "
            "absolute folder that every node sees, or to a URI (--set output=s3://bucket/runs)"
        )


def _local_names(value: Any) -> Iterator[Located]:
    """Every relative name of a file or folder in a recipe."""
    if isinstance(value, Located):
        if not is_micro_model(value):
            yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _local_names(getattr(value, name))
    elif isinstance(value, dict):
        for part in value.values():
            yield from _local_names(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _local_names(part)


def _sources(name: Located) -> list[Path]:
    """What lies here under a name; nothing for a hub id, or for a name of what comes along with the package."""
    where = location(name)
    found = glob.glob(where, recursive=True) if glob.has_magic(where) and not os.path.exists(where) else [where]
    return [Path(path) for path in found if os.path.exists(path)]


def _beside(name: Located, source: Path) -> str:
    """Where a source lies, seen from the recipe; of one of many that a pattern names, too."""
    where = location(name)
    if os.fspath(source) == where:
        return name
    return os.path.relpath(source, name.folder if where != name else os.getcwd())


def _num_up(name: str) -> int:
    return os.path.normpath(name).split(os.sep).count(os.pardir)


def _num_bytes(source: Path) -> int:
    if source.is_file():
        return source.stat().st_size
    return sum(file.stat().st_size for file in source.rglob("*") if file.is_file())


def _check_sizes(sizes: dict[str, int]) -> None:
    if sum(sizes.values()) <= MOST_BYTES:
        return
    name = max(sizes, key=lambda name: sizes[name])
    raise ConfigError(
        f"{name!r} is too large to travel with a job ({sizes[name] / 1e6:,.0f} MB; {MOST_BYTES / 1e6:.0f} MB for all "
        "that a recipe names): put it where every node reads it, and name it by that absolute path, by its URI or by "
        "its hub id"
    )


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*JUNK))
    else:
        shutil.copyfile(source, target)
