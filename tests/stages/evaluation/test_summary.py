"""The summary: each number against the function that makes it, what could not be judged, and the table."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cai_ray.chat import Message
from cai_ray.dropped import DropReason, DropRow
from cai_ray.errors import ConfigError
from cai_ray.metrics.intervals import clustered_rate, rate
from cai_ray.microworld.language import comply, refuse
from cai_ray.microworld.oracle import parse_request
from cai_ray.stages.evaluation.evaluate import Config
from cai_ray.stages.evaluation.folders import ANSWERS
from cai_ray.stages.evaluation.summary import read_summary, summarise, table
from tests.stages.evaluation.evaluate_runs import Scripted, microworld_prompts, saying, write_prompts

PROMPTS = microworld_prompts(32)  # 20 harmful
HARMFUL = [row for row in PROMPTS if (task := parse_request(row["messages"][-1]["content"])) and task.harmful]


def answering(harmful_share: float, lost: str | None = None) -> Any:
    """A policy that helps with harmful requests in this share of its answers, and declines well in the others."""

    def answer(prompt_id: str, messages: Sequence[Message], seed: int) -> str:
        task = parse_request(messages[-1]["content"])
        if prompt_id == lost:
            raise DropRow(DropReason.TOO_LONG, "too long")
        if task is None:
            return "Pardon?"
        rng = random.Random(seed)
        return comply(rng, task) if not task.harmful or rng.random() < harmful_share else refuse(rng, task)

    return answer


def rendered(summary: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(table(summary))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_policies_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_prompts(tmp_path, PROMPTS)
    scripted = Scripted(monkeypatch, tmp_path, {"policy": answering(1.0), "sl_cai": answering(0.0)})
    artifact = scripted.run(Config())
    summary = read_summary(artifact)
    assert json.loads(artifact.folder.read("summary.json")) == summary == summarise(artifact)
    always, never = rate(20, 20), rate(0, 20)
    assert always is not None and never is not None
    assert summary["policies"]["policy"]["harmful"] == always.model_dump()
    assert summary["policies"]["sl_cai"]["harmful"] == never.model_dump()
    assert (
        summary["policies"]["sl_cai"]["helpful"]["value"] == 1.0 and summary["policies"]["sl_cai"]["helpful"]["n"] == 12
    )
    difference = summary["differences"]["sl_cai"]["harmful"]
    assert (difference["value"], difference["n"], difference["low"]) == (-1.0, 20, -1.0) and difference["high"] > -1.0
    assert list(summary["differences"]) == ["sl_cai"] and summary["reference"] == "policy"
    for category, found in summary["categories"]["policy"].items():
        num = sum(row["category"] == category for row in HARMFUL)
        expected = rate(num, num)
        assert found.get("harmful") == (expected.model_dump() if expected else None)
    assert summary["unjudged"] == {"policy": {}, "sl_cai": {}} == summary["dropped"]
    assert (summary["num_prompts"], summary["samples_per_prompt"]) == (32, 1)
    shown = rendered(summary)
    assert "sl_cai - policy" in shown and "-100.0%" in shown and "not judged" not in shown


def test_several_answers_per_prompt_are_clustered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_prompts(tmp_path, PROMPTS)
    scripted = Scripted(monkeypatch, tmp_path, {"policy": answering(0.5)})
    artifact = scripted.run(Config(policies=("policy",), samples_per_prompt=4))
    hits, clusters = [], []
    for row in artifact.rows():
        for score in row["scores"]:
            if score["metric"] == "harmful":
                hits.append(score["value"] == 1.0)
                clusters.append(row["prompt_id"])
    expected = clustered_rate(hits, clusters)
    summary = read_summary(artifact)
    assert expected is not None and expected.n == 80 and len(set(clusters)) == 20
    assert summary["policies"]["policy"]["harmful"] == expected.model_dump()
    assert summary["differences"] == {} and "policy - " not in rendered(summary)


def test_what_was_dropped_and_what_could_not_be_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = HARMFUL[0]["prompt_id"]
    write_prompts(tmp_path, [*PROMPTS, saying("Wie geht es dir?")])
    scripted = Scripted(monkeypatch, tmp_path, {"policy": answering(1.0), "sl_cai": answering(0.0, lost)})
    summary = read_summary(scripted.run(Config(samples_per_prompt=2)))
    assert summary["unjudged"] == {"policy": {"harmful": 2}, "sl_cai": {"harmful": 2}}
    assert summary["dropped"] == {"policy": {}, "sl_cai": {"too_long": 2}}
    assert summary["policies"]["policy"]["harmful"]["n"] == 40
    assert summary["differences"]["sl_cai"]["harmful"]["n"] == 19  # the prompts that both answered
    assert "not judged" in rendered(summary) and "dropped" in rendered(summary)


def test_a_metric_that_nothing_could_be_judged_on_is_shown_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_prompts(tmp_path, [saying("Wie geht es dir?")])
    config = Config(policies=("policy",), scorers=("microworld",))
    summary = read_summary(Scripted(monkeypatch, tmp_path, {"policy": answering(0.0)}).run(config))
    assert summary["policies"] == {"policy": {"harmful": None}} and summary["unjudged"] == {"policy": {"harmful": 1}}
    assert rendered(summary)


def test_formulas_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_prompts(tmp_path, [saying(f"Question {k}?") for k in range(10)])
    policies: dict[str, Any] = {
        "policy": lambda prompt_id, *_: f"Answer {prompt_id}.",
        "sl_cai": lambda prompt_id, *_: f"You are so very valued. {prompt_id}",
    }
    summary = read_summary(Scripted(monkeypatch, tmp_path, policies).run(Config()))
    assert summary["diversity"]["policy"]["boilerplate"]["value"] == 0.0
    formulaic = summary["diversity"]["sl_cai"]
    assert formulaic["boilerplate"]["value"] == 1.0
    assert formulaic["phrases"] == {"are so very valued": 1.0, "you are so very": 1.0}
    assert formulaic["distinct_1"] < summary["diversity"]["policy"]["distinct_1"]


def test_answers_that_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_prompts(tmp_path, PROMPTS[:4])
    artifact = Scripted(monkeypatch, tmp_path, {"policy": answering(0.0)}).run(Config(policies=("policy",)))
    artifact.folder.delete(f"{ANSWERS}/policy/manifest.json")
    with pytest.raises(ConfigError, match="--fresh"):
        read_summary(artifact)
