"""Where a model's files lie on this node: a folder as it is, a URI downloaded once, an adapter merged once."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from cai_ray.artifacts.identity import file_identity, hub_commit
from cai_ray.artifacts.storage import Storage, is_uri, shown
from cai_ray.config import ModelConfig
from cai_ray.engines.models.setup import adapters
from cai_ray.errors import ConfigError
from cai_ray.lookup import location
from cai_ray.seeding import stable_id

SMALL_WEIGHTS_BYTES = 256 * 2**20


def localised(model: ModelConfig) -> ModelConfig:
    """The model with URIs of weights and tokenizer replaced by this node's copies, an adapter by the whole model."""
    tokenizer = None if model.tokenizer is None else local_folder(model.tokenizer)
    path = weights_folder(model.path, model.trust_remote_code)
    return model.model_copy(update={"path": path, "tokenizer": tokenizer})


def has_small_weights(path: str) -> bool:
    """A folder of a model so small that what it computes at once does not keep the cores of a CPU busy."""
    folder = Path(path)
    num_bytes = sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 0
    return 0 < num_bytes < SMALL_WEIGHTS_BYTES


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
    held = _held(storage)
    if not held:
        raise ConfigError(f"model path {shown(path)!r} holds no files; name a folder with config.json and weights")

    def get(name: str, target: Path) -> None:
        with storage.filesystem.open_input_stream(storage.path(name)) as source, (target / name).open("wb") as out:
            shutil.copyfileobj(source, out, 2**24)

    def download(target: Path) -> None:
        for name, _ in held:
            storage.persistently(partial(get, name, target))

    return _once(cache_root() / "models" / stable_id(path, held), download)


def config_folder(path: str) -> str:
    """`local_folder` of what holds the config: of an adapter its base, unless it brings a head of its own."""
    folder = Path(local_folder(path))
    if not adapters.is_adapter(folder):
        return local_folder(path)
    return weights_folder(path) if adapters.is_scorer(folder) else local_folder(adapters.base_of(folder))


def tokenizer_folder(path: str) -> str:
    """`local_folder` of what holds the tokenizer: of an adapter that has none its base."""
    folder = Path(local_folder(path))
    is_bare = adapters.is_adapter(folder) and not (folder / adapters.TOKENIZER).is_file()
    return local_folder(adapters.base_of(folder)) if is_bare else local_folder(path)


def weights_folder(path: str, trust_remote_code: bool = False) -> str:
    """`local_folder`; of an adapter the whole model, which is merged once per node and content and kept as copies are.

    Raises ConfigError for an adapter without a base.
    """
    folder = Path(local_folder(path))
    if not adapters.is_adapter(folder):
        return local_folder(path)
    base, revision = local_folder(adapters.base_of(folder)), adapters.settings_of(folder).get("revision")
    is_local = Path(base).is_dir()
    of_base = _held(Storage(base)) if is_local else [(base, hub_commit(base, "model", revision))]

    def merge(target: Path) -> None:
        from transformers import AutoTokenizer

        options: dict[str, Any] = {
            "revision": None if is_local else revision,
            "trust_remote_code": trust_remote_code,
        }
        adapters.merged(folder, base, **options).save_pretrained(target)
        AutoTokenizer.from_pretrained(tokenizer_folder(path), **options).save_pretrained(target)

    return _once(cache_root() / "models" / stable_id(_held(Storage(str(folder))), of_base), merge)


def _held(storage: Storage) -> list[tuple[str, str]]:
    return [(name, file_identity(storage.filesystem, storage.path(name))) for name in storage.names()]


def _once(target: Path, fill: Callable[[Path], None]) -> str:
    """`target`, filled by one process of this node where it is not there yet: all or nothing."""
    from filelock import FileLock

    if target.is_dir():
        return str(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.is_dir():
            partial = target.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            fill(partial)
            partial.rename(target)
    return str(target)
