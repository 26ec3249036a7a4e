"""The summary of a stage's labels, by hand on a few rows of the micro world."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.summaries.labels import LabelSummary, OracleSummary, PrincipleSummary
from cai_ray.artifacts.summaries.summary import summary_of
from cai_ray.dropped import DropReason, DropRow
from cai_ray.metrics.intervals import Estimate
from cai_ray.metrics.readings import Reading
from cai_ray.microworld.language import answer, sample_request
from cai_ray.row_ids import PAIR_IDS
from cai_ray.rows import PREFERENCE
from cai_ray.stages.preferences.label_summary import averages, oracle_verdict, summarise, table
from tests.finished_stages import finished, spec_of
from tests.screen import check_fits, on_screen

REQUEST = sample_request(random.Random(1), harmful=True, multi_turn=False)
ASK = list(REQUEST.messages)
REFUSAL = answer(random.Random(2), REQUEST.task, "refuse")
HELP = answer(random.Random(3), REQUEST.task, "comply")


def preference(number: int, readings: Sequence[Reading], prob_a: float, **changes: Any) -> dict[str, Any]:
    """A row whose stored A is the refusal, the better answer."""
    answers = (REFUSAL, HELP)
    chosen, rejected = answers if prob_a > 0.5 else answers[::-1]
    row = {
        "pair_id": f"p{number}/0-1",
        "prompt_id": f"p{number}",
        "messages": ASK,
        "kind": "red_team",
        "category": None,
        "split": "train",
        "chosen": chosen,
        "rejected": rejected,
        "chosen_is_a": prob_a > 0.5,
        "prob_chosen": max(prob_a, 1 - prob_a),
        "order_flip_rate": None,
        "label_source": "ai",
        "comparisons": [{**r._asdict(), "logprob_a": -1.0, "logprob_b": -1.0, "rationale": None} for r in readings],
        "num_prompt_tokens": 1,
        "num_cached_tokens": 1,
        "num_output_tokens": 1,
    }
    return row | changes


def readings(kind: tuple[float, float], legal: tuple[float, float]) -> list[Reading]:
    """Two principles in both orders: each a pair of P(A), as stored and swapped."""
    return [
        Reading("kind", False, kind[0]),
        Reading("legal", False, legal[0]),
        Reading("kind", True, kind[1]),
        Reading("legal", True, legal[1]),
    ]


def artifact(folder: Path, rows: list[dict[str, Any]]) -> Artifact:
    lost = {"lost/0-1": DropRow(DropReason.TIE, "why")}
    return finished(spec_of(folder, "label_comparisons", PAIR_IDS), PREFERENCE, rows, dropped=lost)


ROWS = [
    preference(0, readings((0.9, 0.7), (0.8, 0.8)), 0.8),
    preference(1, readings((0.9, 0.3), (0.4, 0.2)), 0.45),
    preference(2, readings((0.7, 0.7), (0.9, 0.7)), 0.75),
    preference(3, readings((0.6, 0.8), (0.3, 0.3)), 0.5 + 1e-6),
]


def value(found: Estimate | None) -> float:
    assert found is not None
    return found.value


def test_numbers_by_hand(tmp_path: Path) -> None:
    summary = summarise(artifact(tmp_path, ROWS))
    assert (summary.rows_in, summary.rows_out, summary.rows_dropped) == (5, 4, {"tie": 1})
    found = (summary.order_flip_rate, summary.extremity, summary.position_bias, summary.principle_agreement)
    flips, extremity, bias, agreement = (one.value for one in found if one is not None)
    assert flips == pytest.approx(1 / 8)  # of eight questions, kind flips on pair 1
    assert extremity == pytest.approx((0.6 + 0.1 + 0.5 + 2e-6) / 4)
    shown_first = [0.9, 0.3, 0.8, 0.2, 0.9, 0.7, 0.4, 0.8, 0.7, 0.3, 0.9, 0.3, 0.6, 0.2, 0.3, 0.7]
    assert bias == pytest.approx(sum(shown_first) / 16 - 0.5)
    assert agreement == 2 / 4  # kind and legal differ on pairs 1 and 3

    kind, legal = summary.principles
    assert (kind.principle_id, legal.principle_id) == ("kind", "legal")
    assert value(kind.order_flip_rate) == 1 / 4 and value(legal.order_flip_rate) == 0.0
    assert value(kind.oracle_agreement) == 1.0 and value(legal.oracle_agreement) == 2 / 4
    assert value(kind.label_agreement) == 3 / 4

    oracle = summary.oracle
    assert list(oracle) == ["one reading", "both orders", "all principles", "all readings", "label"]
    assert value(oracle["one reading"].agreement) == 1.0
    assert value(oracle["one reading"].brier) == pytest.approx((0.01 + 0.01 + 0.09 + 0.16) / 4)
    assert value(oracle["label"].agreement) == 3 / 4
    assert value(oracle["label"].overconfidence) == pytest.approx((0.8 + 0.55 + 0.75 + 0.5 + 1e-6) / 4 - 3 / 4)
    assert oracle["label"].calibration.num == 4 == oracle["label"].num_decided
    for estimate in (summary.extremity, oracle["label"].agreement, kind.order_flip_rate):
        assert estimate is not None and estimate.low <= estimate.value <= estimate.high and estimate.n == 4


def test_the_summary_is_kept_and_shown(tmp_path: Path) -> None:
    made = artifact(tmp_path, ROWS)
    first = summary_of(made, LabelSummary, summarise)
    # A panel is told of where there is one.
    assert json.loads((tmp_path / "summary.json").read_text()) == first.model_dump(mode="json", exclude={"panel"})
    assert summary_of(made, LabelSummary, summarise) == first
    shown = on_screen(table(first))
    for told in (
        "Labels of 4 pairs",
        "order flips the verdict",
        "dropped: tie",
        "agrees with the oracle: label",
        "75.0%",
        "4: 25% / 75% / 100%",
    ):
        assert told in shown


def test_elsewhere_there_is_no_oracle(tmp_path: Path) -> None:
    question = [{"role": "user", "content": "What is the capital of France?"}]
    summary = summarise(artifact(tmp_path, [{**row, "messages": question} for row in ROWS]))
    assert summary.oracle == {} and summary.principles[0].oracle_agreement is None
    assert summary.order_flip_rate is not None and summary.order_flip_rate.n == 4
    shown = on_screen(table(summary))
    assert "agrees with the oracle" not in shown and "4: 25% / 75% / -" in shown


def test_no_label_at_all(tmp_path: Path) -> None:
    summary = summarise(artifact(tmp_path, []))
    assert summary.order_flip_rate is None and summary.principles == () and summary.oracle == {}
    assert table(summary).row_count == 1


def test_the_oracle_decides_only_what_is_clear() -> None:
    assert oracle_verdict(ASK, REFUSAL, HELP) is True
    assert oracle_verdict(ASK, HELP, REFUSAL) is False
    assert oracle_verdict(ASK, REFUSAL, REFUSAL) is None
    assert oracle_verdict([{"role": "user", "content": "Hello!"}], REFUSAL, HELP) is None


def test_averages_are_those_that_add_something() -> None:
    both = [Reading("a", False, 0.9), Reading("a", True, 0.3)]
    assert averages(both) == {"one reading": 0.9, "both orders": pytest.approx(0.6)}
    assert averages(both[:1]) == {"one reading": 0.9}
    ensemble = [Reading("a", True, 0.9), Reading("b", False, 0.5)]  # one drawn order each
    assert averages(ensemble) == {"one reading": 0.9, "all principles": pytest.approx(0.7)}
    thoughts = [Reading("a", swapped, prob) for swapped in (False, True) for prob in (1.0, 0.0, 0.5)]
    assert averages([*thoughts[:3], *thoughts[3:5], thoughts[5]._replace(prob_a=1.0)]) == {
        "one reading": 1.0,
        "all samples": pytest.approx(0.5),
        "both orders": pytest.approx(3.5 / 6),
    }


def test_the_table_fits_80_columns() -> None:
    widest = Estimate(value=-0.1234, low=-0.5, high=0.4567, n=999_999)
    told = OracleSummary(num_decided=99_999, agreement=widest, brier=widest, overconfidence=widest, calibration=None)
    principle = PrincipleSummary(
        principle_id="a-principle-with-quite-a-long-name",
        num_pairs=999_999,
        order_flip_rate=Estimate(value=1.0, low=1.0, high=1.0, n=1),
        extremity=None,
        position_bias=None,
        label_agreement=None,
        oracle_agreement=Estimate(value=1.0, low=1.0, high=1.0, n=1),
    )
    summary = LabelSummary(
        rows_in=1_000_000,
        rows_out=999_999,
        rows_dropped={reason.value: 99_999 for reason in DropReason},
        order_flip_rate=widest,
        extremity=widest,
        position_bias=widest,
        principle_agreement=widest,
        principles=(principle,),
        oracle={name: told for name in ("one reading", "all principles", "all readings", "label")},
        counters={},
        duration_s=1.0,
    )
    check_fits(table(summary))
