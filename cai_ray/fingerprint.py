"""What of a config decides a stage's results, and one hash of it (guarantee G4).

The hash knows local files by name and size. What files *are* stands beside it: see artifacts/identity.py.

Tested in tests/pipeline/test_run.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cai_ray.config import ModelConfig, Throughput
from cai_ray.lookup import location, without_keys
from cai_ray.seeding import stable_id

# Fields of stage configs that judge or place a result and do not change it.
NOT_RESULTS = frozenset({"max_dropped_fraction"})

# Fields younger than the runs that people have: left out where they say nothing, so that those runs stay finished.
NEWCOMERS = frozenset(
    {
        *("chat_template_kwargs", "template_date", "think_marks"),
        *("min_p", "repetition_penalty", "incoherent", "incoherent_below"),
        *("repeats_critique", "repeats_critique_similarity"),
    }
)


def settings(config: BaseModel) -> dict[str, Any]:
    """The config as plain JSON values without what only changes speed or tolerance, and without keys in URIs.

    It stands in plans and manifests; and a new key opens the same files.
    """
    plain = config.model_dump(mode="json")
    return {name: plain_of(getattr(config, name), plain[name]) for name in plain if _decides(config, name)}


def plain_of(value: Any, plain: Any) -> Any:
    if isinstance(value, BaseModel):
        return settings(value)
    if isinstance(value, tuple | list) and value and isinstance(value[0], BaseModel):
        return [settings(item) for item in value]
    return _without_keys(plain)


def _without_keys(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {name: _without_keys(value) for name, value in plain.items()}
    if isinstance(plain, list):
        return [_without_keys(value) for value in plain]
    return without_keys(plain) if isinstance(plain, str) and "://" in plain else plain


def _decides(config: BaseModel, name: str) -> bool:
    value = getattr(config, name)
    if name in NEWCOMERS and value == type(config).model_fields[name].get_default(call_default_factory=True):
        return False
    return name not in NOT_RESULTS and not isinstance(value, Throughput)


def model_settings(model: ModelConfig) -> dict[str, Any]:
    """A model's settings and, for a local folder, the names and sizes of its files: other weights, other results."""
    found = settings(model)
    if model.endpoint is not None and not model.endpoint.parameters:
        del found["endpoint"]["parameters"]  # runs from before there were any stay what they are
    folder = Path(model.path)
    if model.endpoint is None and folder.is_dir():
        found["files"] = {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.is_file()}
        found["path"] = folder.name  # the same folder mounted elsewhere is the same model
    return found


def local_files(path: str) -> list[Path]:
    """The files at a local path, below it when it is a folder; none of a glob or a URI."""
    found = Path(location(path))
    return [file for file in (sorted(found.rglob("*")) if found.is_dir() else [found]) if file.is_file()]


def names_and_sizes(path: str) -> list[list[Any]]:
    """[name, bytes] of `local_files`."""
    return [[file.name, file.stat().st_size] for file in local_files(path)]


def fingerprint(stage: str, seed: int, decides: dict[str, Any]) -> str:
    """32 hexadecimal characters over everything that decides a stage's results."""
    return stable_id("fingerprint", stage, seed, decides)
