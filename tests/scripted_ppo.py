"""PPO without models: learners and rollout engines that are a few lines of arithmetic, and die when they are told.

The policy is one number, `weight`. It decides how answers come out and what their log-probabilities are; an update
moves it by the mean advantage. So a run is a function of its seeds alone, and every door to the machines is counted.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest

from cai_ray.algorithms.episodes import Episode, EpisodeRequest, Scored
from cai_ray.artifacts.artifact import find
from cai_ray.artifacts.metrics_file import parse_metrics, read_metrics
from cai_ray.artifacts.parts import FileRecord
from cai_ray.artifacts.storage import Storage
from cai_ray.config import ModelConfig, ScalingConfig
from cai_ray.dropped import DropReason, DropRow, dropped_row
from cai_ray.engines.cluster import ClusterConfig
from cai_ray.engines.learners.job import LearnersLost
from cai_ray.engines.rollouts.worker import EngineUse
from cai_ray.row_ids import RESPONSES_IDS
from cai_ray.rows import PROMPT, ROW_ID
from cai_ray.seeding import digest
from cai_ray.stages.context import Context
from cai_ray.stages.ppo import train_ppo
from cai_ray.stages.ppo.config import Config
from cai_ray.stages.ppo.machines import Leaving, Machines
from cai_ray.stages.ppo.models import Models, models_of
from cai_ray.stages.ppo.summary import steps_of
from tests.finished_stages import finished, spec_of
from tests.tiny_models import save_tiny

PROMPTS = "load_prompts"
WORDS = ("no", "sorry", "take", "ask", "paint", "the", "chair", "owner", "because", "instead")


class Killed(BaseException):
    """The driver is gone, at once: nothing after the call happens."""


def share(*parts: Any) -> float:
    """In [0, 1), from all that is given."""
    return int.from_bytes(digest(*parts, num_bytes=4), "big") / 2**32


@dataclass
class Script:
    """What the machines do wrong, and what they were asked.

    Attributes:
        die_at: the driver dies at the so-manieth call (from 1), before the call has done anything.
        lose_at: a learner is lost at these calls.
        change: alters what was scored, by step.
        leaving: who makes room for the engines that label fresh pairs.
    """

    die_at: int | None = None
    lose_at: frozenset[int] = frozenset()
    change: Callable[[int, list[Scored]], list[Scored]] | None = None
    leaving: Leaving = "nobody"
    calls: list[str] = field(default_factory=list)

    def __call__(self, call: str, is_learner: bool = True) -> None:
        self.calls.append(call)
        if len(self.calls) == self.die_at:
            raise Killed(call)
        if is_learner and len(self.calls) in self.lose_at:
            raise LearnersLost(f"at {call}")


class ScriptedLearners:
    def __init__(self, folder: Storage, script: Script, config: Config) -> None:
        self._folder, self._script, self._config = folder, script, config
        self.weight = 0.0
        self.taste = 0.0  # what the preference model has learned since
        self.num_updates = 0
        self.refusals: list[str] = []

    def start(self, resume: str | None = None) -> None:
        self._script(f"start {resume}", is_learner=False)
        self._load(resume)

    def load(self, name: str | None) -> None:
        self._script(f"load {name}")
        self._load(name)

    def _load(self, name: str | None) -> None:
        saved: dict[str, Any] = {"weight": 0.0, "taste": 0.0, "num_updates": 0}
        if name is not None:
            saved = json.loads(self._folder.read(f"snapshots/{name}/learners.json"))
        self.weight, self.taste, self.num_updates = saved["weight"], saved["taste"], saved["num_updates"]

    def close(self) -> None:
        self.weight = self.taste = math.nan  # whoever goes on without `start` shows

    def rewards(self, conversations: Sequence[tuple[int, ...]]) -> list[float]:
        self._script("rewards")
        return [self._reward(ids) for ids in conversations]

    def _reward(self, ids: Sequence[int]) -> float:
        return share(list(ids)) + self.taste * share(list(ids), "taste")

    def reward_step(self, conversations: Sequence[tuple[int, ...]], slopes: Sequence[float]) -> dict[str, float]:
        self._script("reward_step")
        assert self._config.refresh is not None
        slope = sum(g * share(list(ids), "taste") for ids, g in zip(conversations, slopes, strict=True))
        self.taste -= self._config.refresh.learning_rate * slope
        return {"grad_norm": abs(slope), "learning_rate": self._config.refresh.learning_rate, "skipped": 0.0}

    def score(self, episodes: Sequence[Episode], reward_ids: Sequence[tuple[int, ...]] | None) -> list[Scored]:
        assert reward_ids is None or len(episodes) == len(reward_ids)
        self._script(f"score v{min(e.policy_version for e in episodes)}")
        found = [self._scored(*pair) for pair in zip(episodes, reward_ids or [None] * len(episodes), strict=True)]
        step = self.num_updates // (int(self._config.optim.epochs) * self._config.num_minibatches) + 1
        return self._script.change(step, found) if self._script.change else found

    def _scored(self, episode: Episode, ids: tuple[int, ...] | None) -> Scored:
        length = len(episode.response_ids)
        logprob = -1.0 - 0.1 * math.tanh(self.weight)
        has_values = self._config.advantage.kind == "gae"
        return Scored(
            score=math.nan if ids is None else self._reward(ids) + self.weight,
            logprobs=(logprob,) * length,
            ref_logprobs=(-1.0,) * length,
            values=(0.1,) * length if has_values else (),
        )

    def update(
        self,
        episodes: Sequence[Episode],
        scored: Sequence[Scored],
        advantages: Sequence[Sequence[float]],
        returns: Sequence[Sequence[float]],
        *,
        step: int,
        seed: int,
        pretraining: Sequence[tuple[int, ...]] = (),
    ) -> list[dict[str, float]]:
        self._script(f"update {step}")
        lengths = [len(episode.response_ids) for episode in episodes]
        assert [len(row) for row in advantages] == lengths
        assert all(
            len(row) == (length if self._config.advantage.kind == "gae" else 0)
            for row, length in zip(returns, lengths, strict=True)
        )
        first = [row[0] * one.score for row, one in zip(advantages, scored, strict=True)]
        self.weight += 1e-3 * sum(map(sum, pretraining))
        self.weight += 0.1 * math.tanh(sum(first) / len(first))
        num = int(self._config.optim.epochs) * self._config.num_minibatches
        self.num_updates += num
        return [
            {"policy_loss": -self.weight, "clip_fraction": 0.1, "ratio_min": 0.9, "ratio_max": 1.1 + k, "skipped": 0.0}
            for k in range(num)
        ]

    def logprobs(self, sequences: Sequence[Any]) -> list[tuple[float, ...]]:
        self._script("logprobs")
        return [(self.weight,) * len(response) for _, response in sequences]

    def save(self, name: str) -> tuple[FileRecord, ...]:
        self._script(f"save {name}")
        saved = {"weight": self.weight, "taste": self.taste, "num_updates": self.num_updates}
        content = json.dumps(saved).encode()
        path = f"snapshots/{name}/learners.json"
        self._folder.write(path, content)
        self._script(f"saved {name}", is_learner=False)
        return (_record(path, content),)

    def export(self, folder: Storage, card: str) -> tuple[FileRecord, ...]:
        self._script("export")
        files = {"model/weight.json": json.dumps(self.weight).encode(), "model/README.md": card.encode()}
        for name, content in files.items():
            folder.write(name, content)
        self._script("exported", is_learner=False)
        return tuple(_record(name, content) for name, content in files.items())


def _record(name: str, content: bytes) -> FileRecord:
    return FileRecord(name=name, num_rows=0, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


@dataclass
class ScriptedPending:
    engines: ScriptedEngines
    requests: Sequence[EpisodeRequest]
    weight: float
    version: int

    def result(self) -> list[Episode]:
        self.engines.script(f"result v{self.version}", is_learner=False)
        return [self._episode(request) for request in self.requests]

    def cancel(self) -> None:
        self.engines.script("cancel", is_learner=False)

    def _episode(self, request: EpisodeRequest) -> Episode:
        length = 2 + int(8 * share(request.seed, self.weight))
        words = [WORDS[int(len(WORDS) * share(request.seed, k, self.weight))] for k in range(length)]
        return Episode(
            prompt_id=request.prompt_id,
            sample_index=request.sample_index,
            prompt_ids=request.prompt_ids,
            response_ids=tuple(range(3, 3 + length)),
            logprobs=(-1.0 - 0.1 * math.tanh(self.weight),) * length,
            truncated=length == 9,
            text=" ".join(words),
            policy_version=self.version,
        )


class ScriptedEngines:
    def __init__(self, script: Script) -> None:
        self.script = script
        self.version = 0
        self.weight = 0.0
        self.asked: list[tuple[str, int]] = []

    def launch(self) -> None:
        self.script("launch", is_learner=False)

    def start(self) -> None:
        self.script("engines start", is_learner=False)

    def close(self) -> None:
        self.weight = 0.0  # others begin with the model folder's

    def sleep(self) -> None:
        pass

    def wake(self) -> None:
        pass

    def use(self) -> list[EngineUse]:
        return [EngineUse(busy_s=1e-3 * len(self.asked), num_tokens=0)]

    def num_starts(self) -> list[int]:
        return [1]

    def submit(self, requests: Sequence[EpisodeRequest]) -> ScriptedPending:
        self.script(f"submit v{self.version}", is_learner=False)
        self.asked += [(request.prompt_id, request.sample_index) for request in requests]
        return ScriptedPending(self, list(requests), self.weight, self.version)


@dataclass
class ScriptedJudges:
    """Verdicts by a hash of what is judged; `unread`: the share of rows that get none. None is as sure as 1."""

    script: Script
    unread: float = 0.0
    sleeps: bool = False
    asked: list[dict[str, Any]] = field(default_factory=list)

    def launch(self) -> None:
        self.script("judges launch", is_learner=False)

    def start(self) -> None:
        self.script("judges start", is_learner=False)

    def close(self) -> None:
        self.script("judges close", is_learner=False)

    def wake(self) -> None:
        if self.sleeps:
            self.script("judges wake", is_learner=False)

    def sleep(self) -> None:
        if self.sleeps:
            self.script("judges sleep", is_learner=False)

    def submit(self, rows: Sequence[dict[str, Any]], prompts: Sequence[str]) -> ScriptedVerdicts:
        assert len(rows) == len(prompts)
        self.script("judge", is_learner=False)
        self.asked += rows
        return ScriptedVerdicts(self, list(rows))


@dataclass
class ScriptedVerdicts:
    judges: ScriptedJudges
    rows: list[dict[str, Any]]

    def result(self) -> list[dict[str, Any]]:
        self.judges.script("verdicts", is_learner=False)
        return [self._outcome(row) for row in self.rows]

    def _outcome(self, row: dict[str, Any]) -> dict[str, Any]:
        gone = share(row[ROW_ID], "unread") < self.judges.unread
        dropped = dropped_row(row[ROW_ID], "train_ppo", DropRow(DropReason.UNPARSABLE, "no option")) if gone else None
        return {
            ROW_ID: row[ROW_ID],
            "row": None if gone else {"verdict": 0.99 * share(row["answers"])},
            "dropped": dropped,
            "counters": [("num_prompt_tokens", 10), ("num_cached_tokens", 4), ("num_output_tokens", 1)],
        }


@dataclass
class ScriptedSync:
    learners: ScriptedLearners
    engines: ScriptedEngines
    script: Script

    def push(self, version: int) -> None:
        self.script(f"push v{version}")
        self.engines.version, self.engines.weight = version, self.learners.weight

    def prove(self, sequences: Sequence[Any], logprobs: Sequence[Sequence[float]], tolerance: float) -> None:
        assert all(value == self.engines.weight for row in logprobs for value in row), "a push was left out"


@cache
def _models(folder: Path) -> Models:
    """Loaded once: the tokenizers take longer than a whole scripted run."""
    return models_of(small(), context_of(folder / "run", folder, prompt_rows(5)))


def use_script(
    monkeypatch: pytest.MonkeyPatch, script: Script, models: Path, judges: ScriptedJudges | None = None
) -> None:
    """Let the stage of this process drive scripted machines, and no Ray. `models`: of `models_folder`."""
    loaded = _models(models)

    def machines(config: Config, context: Context, _: Models) -> Machines:
        learners = ScriptedLearners(context.folder(train_ppo.STAGE), script, config)
        engines = ScriptedEngines(script)
        sync = ScriptedSync(learners, engines, script)

        def leaving(model: ModelConfig, scaling: ScalingConfig) -> Leaving:
            return script.leaving

        return Machines(
            cast(Any, learners), cast(Any, engines), cast(Any, sync), config, 1e-3, leaving, judges=cast(Any, judges)
        )

    monkeypatch.setattr(train_ppo, "build_machines", machines)
    monkeypatch.setattr(train_ppo, "models_of", lambda config, context: loaded)
    monkeypatch.setattr(train_ppo, "connected", lambda cluster: nullcontext())


def prompt_rows(num: int, words: int = 3) -> list[dict[str, Any]]:
    """Prompt rows; every fifth is held out."""
    return [
        {
            "prompt_id": f"prompt-{k:04}",
            "messages": [{"role": "user", "content": " ".join([f"{k}?"] * words)}],
            "kind": "red_team",
            "source": "test",
            "source_row": f"test:{k}",
            "category": None,
            "split": "test" if k % 5 == 4 else "train",
            "license": None,
        }
        for k in range(num)
    ]


def models_folder(folder: Path) -> Path:
    """A policy and a preference model of single bytes, in `policy` and `scores`."""
    save_tiny(folder / "policy", max_tokens=256)
    save_tiny(folder / "scores", classifier=True, max_tokens=512)
    return folder


def context_of(folder: Path, models: Path, rows: Sequence[dict[str, Any]], fingerprint: str = "ppo") -> Context:
    """A run in `folder` whose prompts are `rows`."""
    run = Storage(str(folder))
    finished(spec_of(run / PROMPTS, PROMPTS, RESPONSES_IDS, PROMPTS), PROMPT, rows)
    return Context(
        run=run,
        seed=3,
        models={
            "sl_cai": ModelConfig(path=str(models / "policy")),
            "preference_model": ModelConfig(path=str(models / "scores")),
        },
        trained={},
        constitution=None,
        cluster=ClusterConfig(),
        fingerprints={train_ppo.STAGE: fingerprint},
    )


def small(**changes: Any) -> Config:
    """4 steps of 8 answers, 2 passes in updates of 4."""
    plain = {
        "num_steps": 4,
        "prompts_per_step": 8,
        "sampling": {"max_tokens": 16},
        "optim": {"learning_rate": 1e-3, "batch_size": 4, "epochs": 2},
        "samples_kept": 3,
    }
    return Config.model_validate({**plain, **changes})


TIMES = ("attempt", "elapsed_s", "episodes_per_s", "tokens_per_s", "engine_idle")


def curve(context: Context) -> list[dict[str, Any]]:
    """What was measured at each step, without what only tells how fast."""
    steps = steps_of(parse_metrics(read_metrics(context.folder(train_ppo.STAGE))))
    return [{n: v for n, v in step.items() if n not in TIMES and not n.endswith("_s")} for step in steps]


def events(context: Context) -> list[str]:
    entries = parse_metrics(read_metrics(context.folder(train_ppo.STAGE)))
    return [entry["event"] for entry in entries if "event" in entry]


def outcome(context: Context) -> tuple[list[dict[str, Any]], list[dict[str, Any]], bytes]:
    """Curve, rows in order, and the model of a finished run."""
    artifact = find(context.folder(train_ppo.STAGE))
    assert artifact is not None
    rows = sorted(artifact.rows(), key=lambda row: (row["step"], row["prompt_id"], row["sample_index"]))
    return curve(context), rows, artifact.folder.read("model/weight.json")


Run = Callable[[Path, "Script | None"], tuple[Context, Script]]  # a whole run in a folder; None: nothing goes wrong


def check_kills_at_calls(folder: Path, run: Run, told: Callable[[Context], Any], num_steps: int) -> Context:
    """Kill the driver at each of its calls in turn: run again it ends the same, and one step is done again at most.

    Returns the run that nobody killed.
    """
    straight, script = run(folder / "straight", None)
    expected = told(straight)
    for die_at in range(1, len(script.calls) + 1):
        killed = folder / f"killed-{die_at}"
        with pytest.raises(Killed):
            run(killed, Script(die_at=die_at))
        context, again = run(killed, None)
        assert told(context) == expected, f"killed at call {die_at}: {script.calls[die_at - 1]}"
        done = sum(call.startswith("update") for call in (*script.calls[: die_at - 1], *again.calls))
        assert done <= num_steps + 1, "more than one step was done again"
    return straight


def check_kills_at_writes(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    counts: Callable[[str], bool],
    run: Run,
    told: Callable[[Context], Any],
) -> int:
    """The same for its writes into storages whose location `counts`; one more than there are of them."""
    expected = told(run(folder / "straight", None)[0])
    real, at, num_writes = Storage.write, 0, 0

    def write(self: Storage, name: str, content: Any) -> None:
        nonlocal num_writes
        num_writes += counts(self.location)
        if num_writes == at:
            raise Killed(name)
        real(self, name, content)

    monkeypatch.setattr(Storage, "write", write)
    while True:
        at, num_writes = at + 1, 0
        killed = folder / f"killed-{at}"
        try:
            context, _ = run(killed, None)
        except Killed:
            num_writes = -1000
            context, _ = run(killed, None)
            assert told(context) == expected, f"killed at write {at}"
            continue
        break
    assert told(context) == expected
    return at


def with_scores(change: Callable[[float], float]) -> Callable[[list[Scored]], list[Scored]]:
    return lambda scored: [replace(one, score=change(one.score)) for one in scored]
