from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.algorithms.scores import ScoreConfig, ScoreState, observed, shaped_scores

batches = st.lists(st.lists(st.floats(-50, 50), max_size=6), min_size=1, max_size=6)


def doubles(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@given(batches=batches)
def test_running_moments_are_those_of_all_scores_at_once(batches: list[list[float]]) -> None:
    state = ScoreState()
    for batch in batches:
        state = observed(state, doubles(batch))
    flat = [x for batch in batches for x in batch]
    assert state.count == len(flat)
    if flat:
        assert state.mean == pytest.approx(statistics.fmean(flat), abs=1e-9)
        std = statistics.pstdev(flat)
        assert state.std == pytest.approx(std if std > 1e-4 else 1.0, abs=1e-6) or abs(std - 1e-4) < 1e-6
    assert ScoreState.model_validate_json(state.model_dump_json()) == state


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ScoreConfig(), [1.0, 3.0, 5.0]),
        (ScoreConfig(normalise="standardise"), [-(1.5**0.5), 0.0, 1.5**0.5]),
        (ScoreConfig(normalise="scale"), [1 / (8 / 3) ** 0.5, 3 / (8 / 3) ** 0.5, 5 / (8 / 3) ** 0.5]),
        (ScoreConfig(normalise="standardise", clip=1.0), [-1.0, 0.0, 1.0]),
        (ScoreConfig(clip=2.0, truncated_penalty=0.5), [1.0, 2.0, 1.5]),
    ],
)
def test_normalise_then_clip_then_penalise(config: ScoreConfig, expected: list[float]) -> None:
    scores = doubles([1.0, 3.0, 5.0])
    truncated = torch.tensor([False, False, True])
    assert shaped_scores(scores, truncated, observed(ScoreState(), scores), config).tolist() == pytest.approx(expected)


def test_equal_scores_keep_their_unit() -> None:
    scores = doubles([2.0, 2.0])
    state = observed(ScoreState(), scores)
    shaped = shaped_scores(scores, torch.zeros(2, dtype=torch.bool), state, ScoreConfig(normalise="standardise"))
    assert shaped.tolist() == [0.0, 0.0]
    assert state.std == 1.0


def test_a_score_that_is_no_number_never_enters_the_state() -> None:
    with pytest.raises(ValueError, match="score 1 is inf"):
        observed(ScoreState(), doubles([0.0, float("inf")]))


def test_no_gradient_and_the_same_dtype() -> None:
    scores = torch.ones(2, requires_grad=True)
    shaped = shaped_scores(scores, torch.zeros(2, dtype=torch.bool), ScoreState(), ScoreConfig(truncated_penalty=1))
    assert shaped.dtype == torch.float32 and not shaped.requires_grad
