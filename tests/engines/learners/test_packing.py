"""Flat arrays and padded passes: nothing is lost, nothing is mixed up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.engines.learners.packing import cut, pack, shares, unpack

ids = st.lists(st.integers(1, 999), min_size=1, max_size=9)
sequences = st.lists(st.tuples(ids, ids), min_size=1, max_size=12)


def packed_of(pairs: list[tuple[list[int], list[int]]]) -> tuple[list[tuple[float, ...]], object]:
    column = [tuple(float(1000 * n + k) for k in range(len(answer))) for n, (_, answer) in enumerate(pairs)]
    return column, pack([prompt for prompt, _ in pairs], [answer for _, answer in pairs], {"x": column})


@given(sequences)
def test_unpacking_is_the_inverse(pairs: list[tuple[list[int], list[int]]]) -> None:
    column, packed = packed_of(pairs)
    assert unpack(packed.columns["x"], packed.answer_lengths) == column  # type: ignore[attr-defined]


@given(sequences, st.integers(1, 4), st.integers(1, 40))
def test_every_answer_token_is_in_one_pass_behind_its_own_past(
    pairs: list[tuple[list[int], list[int]]], num_workers: int, tokens_per_pass: int
) -> None:
    column, packed = packed_of(pairs)
    flat = np.concatenate([np.array(row) for row in column])
    everything = tuple(range(len(pairs)))
    spread = shares(everything, packed.lengths, num_workers, tokens_per_pass)  # type: ignore[attr-defined]
    assert len(spread) == num_workers and len({len(passes) for passes in spread}) == 1
    seen: list[int] = []
    for share in (share for passes in spread for share in passes):
        found = cut(packed, share)  # type: ignore[arg-type]
        assert found.is_dummy == (not share)
        if found.is_dummy:
            continue
        seen += found.places.tolist()
        for row, before, target, place in zip(found.rows, found.before, found.targets, found.places, strict=True):
            n, k = divmod(int(flat[place]), 1000)
            prompt, answer = pairs[n]
            assert share[row] == n
            assert found.input_ids[row, : before + 1].tolist() == [*prompt, *answer[:k]]
            assert target == answer[k]
        assert found.answer_lengths.tolist() == [len(pairs[n][1]) for n in share]
        longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
        assert found.input_ids.size <= max(tokens_per_pass, longest)
    assert sorted(seen) == list(range(len(flat)))


def test_columns_may_be_padded_and_must_not_be_short() -> None:
    packed = pack([[1]], [[2, 3]], {"x": np.array([[0.5, 1.5, 9.0]])})
    assert packed.columns["x"].tolist() == [0.5, 1.5]
    with pytest.raises(ValueError, match="x of sequence 0 has 1 numbers for 2 answer tokens"):
        pack([[1]], [[2, 3]], {"x": [[0.5]]})


@pytest.mark.parametrize(("prompts", "answers", "what"), [([[]], [[1]], "prompt 0"), ([[1]], [[]], "answer 0")])
def test_what_has_no_tokens_is_refused(prompts: list[list[int]], answers: list[list[int]], what: str) -> None:
    with pytest.raises(ValueError, match=f"{what} has no tokens"):
        pack(prompts, answers, {})
