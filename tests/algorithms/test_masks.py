from __future__ import annotations

import pytest
import torch
from hypothesis import given

from cai_ray.algorithms.masks import at_last_token, check_right_padded, over_tokens
from tests.answer_batches import lengths, mask_of


@given(answers=lengths)
def test_a_score_lands_on_the_last_token_and_nowhere_else(answers: list[int]) -> None:
    mask = mask_of(answers)
    scores = torch.arange(1.0, len(answers) + 1)
    placed = at_last_token(scores, mask)
    for i, length in enumerate(answers):
        expected = [0.0] * mask.shape[1]
        expected[length - 1] = i + 1.0
        assert placed[i].tolist() == expected


def test_over_tokens() -> None:
    assert over_tokens(torch.tensor([2.0, 3.0]), mask_of([1, 2], 0)).tolist() == [[2.0, 0.0], [3.0, 3.0]]


def test_an_answer_without_tokens_has_no_place_for_a_score() -> None:
    with pytest.raises(ValueError, match="sequence 1 has no token"):
        at_last_token(torch.zeros(2), torch.tensor([[True], [False]]))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.tensor([[True, True], [False, True]]), "row 1 .* after padding"),
        (torch.ones(2, 3), "must be bool"),
        (torch.ones(3, dtype=torch.bool), "num_sequences, length"),
    ],
)
def test_masks_that_are_not_right_padded_are_refused(mask: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_right_padded(mask)


def test_empty_and_full_rows_are_right_padded() -> None:
    check_right_padded(torch.tensor([[False, False], [True, True], [True, False]]))
