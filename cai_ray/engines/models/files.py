"""Where a model's files lie on this node: a folder as it is, a URI downloaded once."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cai_ray.artifacts.identity import file_identity
from cai_ray.artifacts.storage import Storage, is_uri, shown
from cai_ray.config import ModelConfig
from cai_ray.errors import ConfigError
from cai_ray.lookup import location
from cai_ray.seeding import stable_id


def localised(model: ModelConfig) -> ModelConfig:
    """The model with URIs of weights and tokenizer replaced by this node's copies."""
    tokenizer = None if model.tokenizer is None else local_folder(model.tokenizer)
    return model.model_copy(update={"path": local_folder(model.path), "tokenizer": tokenizer})


def cache_root() -> Path:
    """$CAI_RAY_CACHE, or ~/.cache/cai_ray."""
    return Path(os.environ.get("CAI_RAY_CACHE") or "~/.cache/cai_ray").expanduser()


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` at the end of the block: all or nothing. `path` must not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        made = Path(scratch) / path.name
        made.mkdir()
        yield made
        made.rename(path)


def local_folder(path: str) -> str:
    """What transformers and vLLM are given for `path`: a hub id or folder as it is located, a URI's local copy.

    The copy lies in $CAI_RAY_CACHE/models (default ~/.cache/cai_ray) under the hash of location, names and contents, so
    other weights at the same place are another copy. Raises ConfigError when the location holds no files.
    """
    if not is_uri(path):
        return location(path)
    storage = Storage(path)
    held = [(name, file_identity(storage.filesystem, storage.path(name))) for name in storage.names()]
    if not held:
        raise ConfigError(f"model path {shown(path)!r} holds no files; name a folder with config.json and weights")
    target = cache_root() / "models" / stable_id(path, held)
    if not target.is_dir():
        _download(storage, [name for name, _ in held], target)
    return str(target)


def _download(storage: Storage, names: list[str], target: Path) -> None:
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if target.is_dir():
            return
        partial = target.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for name in names:
            with storage.filesystem.open_input_stream(storage.path(name)) as source, (partial / name).open("wb") as out:
                shutil.copyfileobj(source, out, 2**24)
        partial.rename(target)
