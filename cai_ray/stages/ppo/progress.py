"""What is seen of PPO while it runs: a live line on a terminal, log lines without one; and where a step's time goes.

Tested in tests/stages/ppo/test_train_ppo.py.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from cai_ray.artifacts.storage import Storage
from cai_ray.metrics import training_keys as keys
from cai_ray.progress.exported import Exported
from cai_ray.progress.line import LiveLine


class Phases:
    """Where one step's time goes: `seconds` spent in each named phase; phases do not overlap."""

    def __init__(self) -> None:
        self.seconds: defaultdict[keys.Phase, float] = defaultdict(float)
        self._began = time.perf_counter()

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self._began

    @contextmanager
    def __call__(self, phase: keys.Phase) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - began


class PpoProgress(LiveLine):
    """Shows one line per step."""

    def __init__(self, folder: Storage, stage: str, num_steps: int) -> None:
        super().__init__(stage, "starting learners and engines", num_steps)
        self._num_steps = num_steps
        self._exported = Exported.of(folder, stage)

    def show_measured(self, step: int, measured: Mapping[str, float]) -> None:
        line = (
            f"score {measured[keys.SCORE]:.3f}, KL {measured[keys.KL]:.2f}, length {measured[keys.LENGTH]:.0f}, "
            f"{measured[keys.EPISODES_PER_S]:,.1f} episodes/s"
        )
        if (tokens := measured.get(keys.JUDGE_TOKENS)) is not None:
            line += f", judge {tokens:,.0f} tokens, {measured[keys.UNREAD]:.1%} unread"
        self.show_step(step, self._num_steps, line)
        self._exported.ppo_step(measured[keys.SCORE], measured[keys.KL])
