"""Several judges of the same thing: alpha, pairs of judges, and the answers on which they part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cai_ray.artifacts.artifact import Artifact
from cai_ray.row_ids import EVALUATION_IDS
from cai_ray.rows import EVALUATION, JUDGEMENT
from cai_ray.stages.evaluation.agreement import MOST_PARTED, judge_agreement
from tests.finished_stages import finished, spec_of


def judged(folder: Path, ratings: dict[str, dict[str, list[float | None]]]) -> Artifact:
    """An evaluation whose judges gave these values: judge -> metric -> per answer; None: it could not be read."""
    judges = [{"name": name, "model": "m", "kind": "rating"} for name in ratings]
    evaluation = finished(spec_of(folder, "evaluate", EVALUATION_IDS, judges=judges), EVALUATION, [])
    for name, metrics in ratings.items():
        num = max(len(values) for values in metrics.values())
        rows = []
        for k in range(num):
            scores = [
                {"metric": metric, "value": values[k], "judge": name}
                for metric, values in metrics.items()
                if values[k] is not None
            ]
            key = {"policy": "a/b", "prompt_id": f"p{k:02}", "sample_index": 0}
            if scores:
                rows.append({**key, "scores": scores, "labels": [], "reply": None})
        finished(spec_of(folder / "judged" / name, "evaluate", EVALUATION_IDS), JUDGEMENT, rows)
    return evaluation


def test_three_raters(tmp_path: Path) -> None:
    # Krippendorff (2011), section C's way of counting, by hand: see `test_agreement.py` of metrics for its data.
    found = judge_agreement(
        judged(
            tmp_path,
            {
                "one": {"harm_score": [1, 2, 3, 4, 5], "tone_score": [1, 1, 1, 1, 1]},
                "two": {"harm_score": [1, 2, 3, 4, 4]},
                "three": {"harm_score": [1, 2, 5, 4, None]},
            },
        )
    )
    (one,) = found  # nobody else judged the tone
    assert (one.metric, one.num_answers) == ("harm_score", 4)  # the fifth was not judged by all
    assert one.parted is not None and one.parted.value == 0.25
    assert [(part.prompt_id, part.values) for part in one.parted_most] == [("p02", {"one": 3, "two": 3, "three": 5})]
    pairs = {(two.first, two.second): two for two in one.pairwise}
    assert list(pairs) == [("one", "two"), ("one", "three"), ("two", "three")]
    assert pairs["one", "two"].alpha == 1 and pairs["one", "two"].same.value == 1  # type: ignore[union-attr]
    apart = pairs["one", "three"]
    assert apart.same is not None and apart.same.value == 0.75
    assert apart.difference is not None and apart.difference.value == 0.5
    # Observed: one pair differs by 2, so (2 x 4) / 8 = 1; expected over 1 1 2 2 3 5 4 4: 31.0 / 7.
    assert apart.alpha == pytest.approx(1 - 1 / (31 / 7))


def test_shares_part_at_half_and_few_are_named(tmp_path: Path) -> None:
    values: list[float | None] = [0.0] * 30
    others: list[float | None] = [1.0] * 30
    (one,) = judge_agreement(judged(tmp_path, {"a": {"harmful": values}, "b": {"harmful": others}}))
    assert one.parted is not None and one.parted.value == 1 and len(one.parted_most) == MOST_PARTED
    assert one.alpha is not None and one.alpha < 0
    json.dumps(one.model_dump())


def test_nothing_to_agree_about(tmp_path: Path) -> None:
    assert judge_agreement(judged(tmp_path / "one", {"a": {"harmful": [1.0]}})) == ()
    (same,) = judge_agreement(judged(tmp_path / "two", {"a": {"harm_score": [3]}, "b": {"harm_score": [3]}}))
    assert same.alpha is None and same.num_answers == 1
    (none,) = judge_agreement(
        judged(tmp_path / "three", {"a": {"harm_score": [3, None]}, "b": {"harm_score": [None, 3]}})
    )
    assert (none.num_answers, none.alpha, none.parted) == (0, None, None)
