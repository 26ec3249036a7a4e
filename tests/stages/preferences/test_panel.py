"""A panel's labels by hand: averaged by weight, flagged where the judges part, dropped where one could not judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.derived import derive
from cai_ray.artifacts.storage import Storage
from cai_ray.artifacts.summaries.labels import LabelSummary
from cai_ray.artifacts.summaries.summary import summary_of
from cai_ray.dropped import DropReason, DropRow
from cai_ray.row_ids import PAIR_IDS
from cai_ray.rows import PREFERENCE
from cai_ray.stages.preferences.label_summary import summarise, table
from cai_ray.stages.preferences.labels_config import Config, JudgeConfig
from cai_ray.stages.preferences.panel import JUDGES_PART, averaged
from tests.finished_stages import finished, spec_of

PANEL = (JudgeConfig(model="strict", weight=3.0), JudgeConfig(model="kind"))


def row(number: int, prob_a: float, bounds: tuple[float, float] | None = None) -> dict[str, Any]:
    """One judge's own row, both orders read alike."""
    is_a = prob_a > 0.5
    reading = {"principle_id": "p", "logprob_a": -1.0, "logprob_b": -1.0, "prob_a": prob_a, "rationale": None}
    low, high = (None, None) if bounds is None else bounds if is_a else (1 - bounds[1], 1 - bounds[0])
    return {
        "pair_id": f"pair {number}",
        "prompt_id": f"prompt {number}",
        "messages": [{"role": "user", "content": "Q"}],
        "kind": "red_team",
        "category": None,
        "split": "train",
        "chosen": "A" if is_a else "B",
        "rejected": "B" if is_a else "A",
        "chosen_is_a": is_a,
        "prob_chosen": max(prob_a, 1 - prob_a),
        "prob_low": low,
        "prob_high": high,
        "order_flip_rate": 0.0,
        "label_source": "ai",
        "comparisons": [{**reading, "swapped": swapped} for swapped in (False, True)],
        "num_prompt_tokens": 10,
        "num_cached_tokens": 5,
        "num_output_tokens": 1,
    }


def labels(folder: Path, *judges: list[dict[str, Any]], **settings: Any) -> Artifact:
    """The panel's rows of its judges' own; a pair that is None was dropped."""
    made = []
    for number, rows in enumerate(judges):
        dropped = {f"pair {k}": DropRow(DropReason.UNPARSABLE, "no verdict") for k, one in enumerate(rows) if not one}
        spec = spec_of(Storage(str(folder / str(number))), "labels", PAIR_IDS)
        made.append(finished(spec, PREFERENCE, [one for one in rows if one], dropped=dropped))
    config = Config(models=PANEL, **settings)
    outcomes = list(averaged(made, config))
    return derive(spec_of(Storage(str(folder / "panel")), "label_comparisons", PAIR_IDS), [outcomes], PREFERENCE)


def test_averages_flags_ties_and_drops(tmp_path: Path) -> None:
    strict = [row(0, 0.9), row(1, 0.4), row(2, 0.6), row(3, 0.5), row(4, 0.7)]
    kind = [row(0, 0.7), row(1, 0.9), row(2, 0.2), {}, row(4, 0.5)]
    made = labels(tmp_path, strict, kind)
    found = {one["pair_id"]: one for one in made.rows()}
    assert made.manifest.rows_dropped == {"tie": 1, "unparsable": 1}
    assert {gone["row_id"]: gone["detail"] for gone in made.dropped()}["pair 3"] == "judge kind: no verdict"
    assert [found[f"pair {k}"]["prob_chosen"] for k in (0, 1, 4)] == pytest.approx([0.85, 0.525, 0.65])
    assert [found[f"pair {k}"]["chosen"] for k in (0, 1, 4)] == ["A", "A", "A"]
    assert [found[f"pair {k}"]["flags"] for k in (0, 1, 4)] == [[], [JUDGES_PART], []], (
        "a judge in doubt favours nobody"
    )
    assert [one["judge"] for one in found["pair 0"]["comparisons"]] == ["strict", "strict", "kind", "kind"]
    assert found["pair 0"]["num_prompt_tokens"] == 20 and found["pair 0"]["prob_low"] is None


def test_intervals_of_sampled_judges_are_averaged(tmp_path: Path) -> None:
    made = labels(tmp_path, [row(0, 0.2, (0.1, 0.4))], [row(0, 0.6, (0.5, 0.8))], tie_margin=0.0)
    (found,) = made.rows()
    assert not found["chosen_is_a"] and found["prob_chosen"] == pytest.approx(0.7)
    assert (found["prob_low"], found["prob_high"]) == pytest.approx((0.5, 0.8))


def test_how_far_they_agree_is_told(tmp_path: Path) -> None:
    strict = [row(k, 0.9 if k % 2 else 0.1) for k in range(20)]
    kind = [row(k, 0.8 if k % 2 or k < 4 else 0.3) for k in range(20)]
    summary = summary_of(labels(tmp_path, strict, kind), LabelSummary, summarise)
    panel = summary.panel
    assert panel is not None and panel.parted is not None and panel.parted.value == pytest.approx(0.1)
    assert panel.alpha is not None and 0.7 < panel.alpha < 0.9
    (two,) = panel.pairwise
    assert two.agreement is not None and two.agreement.value == pytest.approx(0.9)
    shown = table(summary)
    assert "Krippendorff's alpha of the judges" in list(shown.columns[0].cells)


def test_a_panel_is_two_judges_each_once() -> None:
    for names in (("a",), ("a", "a")):
        with pytest.raises(ValidationError, match="two judges or more, each once"):
            Config(models=tuple(JudgeConfig(model=name) for name in names))
