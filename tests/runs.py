"""Small runs of the micro world: write a recipe and its prompts, run it, read what came out, check that it adds up."""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from cai_ray.artifacts.artifact import Artifact, find
from cai_ray.artifacts.storage import Storage
from cai_ray.microworld.prompt_set import sample_prompts
from cai_ray.pipeline import run as pipeline
from cai_ray.pipeline.recipe import load
from cai_ray.pipeline.steps import steps
from cai_ray.row_ids import revision_row_id

SHORT = {"max_tokens": 24}  # half an answer: these tests count rows, they do not judge texts
SECTIONS: dict[str, Any] = {
    "name": "run",
    "seed": 5,
    "constitution": "microworld",
    "models": {"policy": {"engine": {"max_num_seqs": 32, "max_num_batched_tokens": 2048, "kv_cache_gib": 1.0}}},
    "revise": {
        "num_revisions": 2,
        "answer_sampling": SHORT,
        "critique_sampling": SHORT,
        "revision_sampling": SHORT,
        "scaling": {"rows_per_task": 4, "rows_per_part": 8},
    },
}


def requests(num_prompts: int, seed: int = 0) -> list[dict[str, Any]]:
    """Records in the messages layout, from the micro world's own language."""
    return [{"messages": list(request.messages)} for request in sample_prompts(num_prompts, seed)]


def saying(text: str) -> dict[str, Any]:
    """A record of one turn."""
    return {"messages": [{"role": "user", "content": text}]}


def write_jsonl(path: Path, records: Iterable[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return path


def shuffled(path: Path, target: Path, seed: int = 1) -> Path:
    """The same lines in another order. The name stays, because the file's stem is part of a prompt's id."""
    lines = path.read_bytes().splitlines(keepends=True)
    random.Random(seed).shuffle(lines)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"".join(lines))
    return target


def merged(base: Any, changes: Any) -> Any:
    """`changes` laid over `base`, key by key."""
    if not isinstance(base, Mapping) or not isinstance(changes, Mapping):
        return changes
    return {**base, **{key: merged(base.get(key, {}), value) for key, value in changes.items()}}


def write_recipe(folder: Path, model: Path | str, prompts_path: Path, /, **changes: Any) -> Path:
    """A recipe of 2 rounds with output in `folder`/run; `changes` are sections laid over SECTIONS."""
    paths = {
        "output": str(folder),
        "models": {"policy": {"path": str(model)}},
        "prompts": {"path": str(prompts_path), "layout": "messages"},
    }
    recipe = merged(merged(SECTIONS, paths), changes)
    path = folder / "recipe.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def engine(**settings: Any) -> dict[str, Any]:
    """The section `models` with these engine settings."""
    return {"policy": {"engine": settings}}


def run(recipe: Path) -> Artifact:
    """Run a recipe in this process; the artifact of `revise`."""
    loaded = load(recipe)
    return pipeline.run(loaded, steps(loaded))[-1].artifact


def stage(recipe: Path, name: str) -> Artifact:
    """A finished stage of a recipe's run."""
    artifact = find(Storage(str(recipe.parent / "run" / name)))
    assert artifact is not None, f"{name} is not finished"
    return artifact


def cli(recipe: Path, *arguments: str) -> list[str]:
    """The command line that a person would type."""
    return [sys.executable, "-m", "cai_ray.cli", "run", str(recipe), *arguments]


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own, with all that it says in `log`."""
    with log.open("ab") as stream:
        return subprocess.Popen(
            command, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, start_new_session=True, env=os.environ
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(happened: Callable[[], Any], limit_s: float, what: str, poll_s: float = 0.02) -> Any:
    """What `happened` returns once it is true."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        result = happened()
        if result:
            return result
        time.sleep(poll_s)
    raise AssertionError(f"{what}: not within {limit_s:g} s")


def records_folder(recipe: Path) -> Path:
    return recipe.parent / "run" / "revise" / "records"


def records(recipe: Path) -> dict[str, dict[str, Any]]:
    """The committed parts of an unfinished `revise`: name -> record."""
    folder = records_folder(recipe)
    return {path.stem: json.loads(path.read_bytes()) for path in folder.glob("[!.]*.json")} if folder.is_dir() else {}


def num_rows(parts: Mapping[str, dict[str, Any]]) -> int:
    """Rows of these parts, out and dropped."""
    files = [part[kind] for part in parts.values() for kind in ("rows", "dropped")]
    return sum(file["num_rows"] for file in files if file)


def check_adds_up(recipe: Path) -> Artifact:
    """Every id exactly once, and every file as its manifest says, from the files themselves; the revise artifact."""
    prompts, revised = stage(recipe, "load_prompts"), stage(recipe, "revise")
    asked = [revision_row_id(row["prompt_id"], 0) for row in prompts.rows(["prompt_id"])]
    out = [
        revision_row_id(row["prompt_id"], row["sample_index"]) for row in revised.rows(["prompt_id", "sample_index"])
    ]
    dropped = [row["row_id"] for row in revised.dropped()]
    assert sorted(out + dropped) == sorted(asked)
    manifest = revised.manifest
    assert (manifest.rows_in, manifest.rows_out, manifest.num_dropped) == (len(asked), len(out), len(dropped))
    for file in (*manifest.files, *manifest.dropped_files):
        assert hashlib.sha256(revised.folder.read(file.name)).hexdigest() == file.sha256
    return revised


def draws(artifact: Artifact) -> dict[str, tuple[str, ...]]:
    """Row id -> the principles drawn for its rounds."""
    return {
        revision_row_id(row["prompt_id"], row["sample_index"]): tuple(r["principle_id"] for r in row["revisions"])
        for row in artifact.rows(["prompt_id", "sample_index", "revisions"])
    }
