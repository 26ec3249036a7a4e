"""One atomic snapshot of the whole loop: what it carries from step to step, and the learners' own files.

`snapshots/<name>/` holds the files; `snapshots/<name>.json` makes them count, written last. The name has the step and
the attempt in it, so learners that outlive a killed driver cannot write into a later attempt's files; and the number
of refreshes of the preference model, because one comes between two snapshots of the same step.

Tested in tests/stages/ppo/test_train_ppo.py.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import Field

from cai_ray.algorithms.episodes import Episode
from cai_ray.algorithms.guards import GuardState
from cai_ray.algorithms.kl import KlState
from cai_ray.algorithms.scores import ScoreState
from cai_ray.artifacts import recorded
from cai_ray.artifacts.files import damage
from cai_ray.artifacts.parts import FileRecord
from cai_ray.artifacts.storage import Storage
from cai_ray.config import Config
from cai_ray.engines.learners.snapshot import FOLDER as FOLDER
from cai_ray.stages.ppo.refresh.config import RefreshState

EPISODES = "episodes.jsonl"
_NAME = re.compile(r"step-(\d+)(?:\.r(\d+))?\.a(\d+)")


class LoopState(Config):
    """What the loop itself carries from one step to the next."""

    step: int  # steps done, >= 0; the prompts' turn follows from it
    kl: KlState
    scores: ScoreState = ScoreState()
    guard: GuardState = GuardState()
    refresh: RefreshState | None = Field(None, exclude_if=lambda refresh: refresh is None)  # None: none was done

    @property
    def num_refreshes(self) -> int:
        return self.refresh.count if self.refresh else 0

    @property
    def offset(self) -> float:
        """What is taken off every raw score."""
        return self.refresh.offset if self.refresh else 0.0


class Snapshot(Config):
    """One moment between two steps, whole."""

    name: str
    fingerprint: str
    state: LoopState
    files: tuple[FileRecord, ...]  # the learners', and the next step's answers where they are there already

    @property
    def episodes_file(self) -> str:
        return f"{FOLDER}/{self.name}/{EPISODES}"


def name_of(state: LoopState, attempt: int) -> str:
    refreshes = f".r{state.num_refreshes}" if state.num_refreshes else ""
    return f"step-{state.step}{refreshes}.a{attempt}"


def write(folder: Storage, snapshot: Snapshot, ready: Sequence[Episode] | None, num_keep: int) -> Snapshot:
    """Commit a snapshot whose learners' files are written, and delete all but the newest `num_keep`."""
    if ready is not None:
        content = "".join(json.dumps(asdict(episode)) + "\n" for episode in ready).encode()
        folder.write(snapshot.episodes_file, content)
        record = FileRecord(
            name=snapshot.episodes_file,
            num_rows=len(ready),
            size_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )
        snapshot = snapshot.model_copy(update={"files": (*snapshot.files, record)})
    recorded.write(folder, FOLDER, snapshot.name, snapshot)
    for old in records(folder, snapshot.fingerprint)[num_keep:]:
        recorded.delete(folder, FOLDER, old.name)
    return snapshot


def ready_episodes(folder: Storage, snapshot: Snapshot) -> list[Episode] | None:
    """The next step's answers, if they were sampled before the snapshot; None otherwise."""
    if snapshot.episodes_file not in {file.name for file in snapshot.files}:
        return None
    return [_episode(json.loads(line)) for line in folder.read(snapshot.episodes_file).decode().splitlines()]


def _episode(saved: dict[str, Any]) -> Episode:
    lists = ("prompt_ids", "response_ids", "logprobs")
    return Episode(**{**saved, **{name: tuple(saved[name]) for name in lists}})


def records(folder: Storage, fingerprint: str) -> list[Snapshot]:
    """The snapshots that count, newest first; their files are not looked at."""
    found = (one for one in recorded.read_all(folder, FOLDER, Snapshot) if one.fingerprint == fingerprint)
    return sorted(found, key=_age)


def newest_whole(folder: Storage, fingerprint: str, fits: Callable[[int], bool]) -> tuple[Snapshot | None, list[str]]:
    """The newest snapshot that verifies and whose step `fits`, and what was wrong with newer ones; these go."""
    problems: list[str] = []
    for snapshot in records(folder, fingerprint):
        problem = damage(folder, snapshot.files)
        if problem is None and not fits(snapshot.state.step):
            problem = "kept rows of a step before it are gone"
        if problem is None:
            return snapshot, problems
        problems.append(f"the snapshot of step {snapshot.state.step} is passed over: {problem}")
        recorded.delete(folder, FOLDER, snapshot.name)
    return None, problems


def sweep(folder: Storage) -> None:
    """Delete snapshot folders without a record, left by a save that was cut off."""
    recorded.sweep(folder, FOLDER, _NAME)


def _age(snapshot: Snapshot) -> tuple[int, int, int]:
    """Sorts the newest first."""
    match = _NAME.fullmatch(snapshot.name)
    return -snapshot.state.step, -snapshot.state.num_refreshes, -int(match[3]) if match else 0
