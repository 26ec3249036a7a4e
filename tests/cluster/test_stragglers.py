"""A slow engine on real Ray: its last rows are asked again of the idle one; equals give nothing away."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cai_ray.chat import Message
from tests import faults
from tests.runs import check_adds_up, draws, requests, run, write_jsonl, write_recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]
SCALING = {"min_engines": 2, "max_engines": 2, "rows_per_task": 2, "rows_per_part": 4}


@dataclass
class OneIsSlow:
    """`echo` after 0.1 s; after 2 s in the process that is the first to make the file `first`."""

    first: str
    seconds: float | None = None

    async def __call__(self, row_id: str, messages: Sequence[Message], seed: int) -> str:
        if self.seconds is None:
            try:
                os.close(os.open(self.first, os.O_CREAT | os.O_EXCL))
                self.seconds = 2.0
            except FileExistsError:
                self.seconds = 0.1
        await asyncio.sleep(self.seconds)
        return faults.echo(row_id, messages, seed)


def revised(folder: Path, model: Path, num_prompts: int) -> Any:
    prompts = write_jsonl(folder.parent / "prompts.jsonl", requests(num_prompts))
    engine = {"engine": {"rows_in_flight": 2}}
    recipe = write_recipe(folder, model, prompts, models={"policy": engine}, revise={"scaling": SCALING})
    run(recipe)
    return check_adds_up(recipe)


def answers(artifact: Any) -> dict[str, Any]:
    return {row["prompt_id"]: (row["initial_response"], row["revisions"]) for row in artifact.rows()}


def test_a_slow_engines_last_rows_are_asked_again(
    micro_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults.use_script(monkeypatch, OneIsSlow(str(tmp_path / "first")))
    helped = revised(tmp_path / "helped", micro_model, 24)
    assert helped.manifest.counters["asked_again"] >= 1 and helped.manifest.counters["engine_starts"] == 2
    faults.use_script(monkeypatch, faults.Slow(0.3))
    equal = revised(tmp_path / "equal", micro_model, 24)
    assert "asked_again" not in equal.manifest.counters, "all are equally slow"
    assert answers(helped) == answers(equal) and draws(helped) == draws(equal)
