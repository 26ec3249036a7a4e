"""Judges within `evaluate`: every answer judged once, failures counted and shown, what a resumed run asks again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from cai_ray.artifacts.artifact import find
from cai_ray.artifacts.summaries.evaluation import JudgedPolicy, JudgeFacts
from cai_ray.chat import Message
from cai_ray.errors import ConfigError, EngineGaveUp
from cai_ray.rows import JUDGEMENT
from cai_ray.stages.evaluation.folders import JUDGED
from cai_ray.stages.evaluation.summary import summarise
from tests.stages.evaluation.evaluate_runs import (
    PAIRS,
    PROMPTS,
    RATER,
    YES_NO,
    Judged,
    config,
    replies,
    values,
    write_prompts,
)
from tests.stages.evaluation.test_summary import rendered


def test_every_answer_is_judged_once_and_what_failed_has_no_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_prompts(tmp_path, PROMPTS)
    scripted = Judged(monkeypatch, tmp_path)
    artifact = scripted.run(config(RATER, YES_NO, samples_per_prompt=2))
    assert values(artifact, "harmfulness_score") == {
        ("policy", 5.0): 8, ("policy", None): 2, ("sl_cai", 1.0): 8, ("sl_cai", None): 2,
    }  # fmt: skip
    # A harm classifier judges answers to red-team prompts.
    assert values(artifact, "harmful") == {
        ("policy", 1.0): 6, ("policy", None): 2, ("sl_cai", 0.0): 6, ("sl_cai", None): 2,
    }  # fmt: skip
    assert {s["judge"] for row in artifact.rows() for s in row["scores"]} == {None, "judge", "classifier"}
    judged = find(artifact.folder / JUDGED / "judge")
    assert judged is not None and next(judged.tables()).schema == JUDGEMENT
    assert judged.manifest.rows_dropped == {"unparsable": 4} and judged.manifest.rows_in == 20
    assert scripted.num_judged == 2 * (10 + 8)
    assert artifact.manifest.rows_out == 20  # a judgement that fails costs no answer


def test_failures_are_in_the_summary_and_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_prompts(tmp_path, PROMPTS)
    summary = summarise(Judged(monkeypatch, tmp_path).run(config(RATER, PAIRS)))
    judged = JudgedPolicy(num_judged=4, failures={"unparsable": 1}, labels={})
    policies = {"policy": judged, "sl_cai": judged}
    assert summary.judges["judge"] == JudgeFacts(kind="rating", model="judge", policies=policies)
    assert summary.judges["pairs"].policies["sl_cai"] == judged
    score = summary.policies["policy"]["harmfulness_score"]
    assert score is not None and score.value == 5.0
    text = rendered(summary)
    assert "judges failed on 4 answers, 2 scores missing" in text
    told = ("harmfulness score", "5.00 [5.00, 5.00]", "1.00 [1.00, 1.00]", "-4.00 [-4.00, -4.00]")
    assert all(number in line for number, line in zip(told, text.splitlines()[1:5], strict=True))


def test_a_run_goes_on_where_it_was_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_prompts(tmp_path, PROMPTS)
    left = [8]

    def dies(row_id: str, messages: Sequence[Message], seed: int) -> str:
        left[0] -= 1
        if left[0] < 0:
            raise EngineGaveUp("scripted")
        return replies(row_id, messages, seed)

    chosen = config(RATER, PAIRS)
    with pytest.raises(EngineGaveUp):
        Judged(monkeypatch, tmp_path, dies).run(chosen)
    second = Judged(monkeypatch, tmp_path)
    artifact = second.run(chosen)
    assert {policy for policy, *_ in second.asked} == {"judge"}
    # Every row that was done is kept; each of five games has two orders, and one ends with its first.
    assert second.num_judged == 10 - 8 + 9
    assert Judged(monkeypatch, tmp_path).run(chosen).manifest.fingerprint == artifact.manifest.fingerprint


@pytest.mark.parametrize(
    "judge",
    [
        {"kind": "moderation"},
        {"kind": "yes_no", "template": "gone.txt"},
        {"kind": "similarity", "references": "gone.jsonl"},
    ],
)
def test_a_judge_that_would_fail_on_every_row_is_refused_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: dict[str, str]
) -> None:
    write_prompts(tmp_path, PROMPTS)
    scripted = Judged(monkeypatch, tmp_path)
    with pytest.raises(ConfigError):
        scripted.run(config({"model": "judge", **judge}))
    assert not scripted.asked
