"""The arithmetic of the proof; syncs with a real engine are in tests/cluster/test_weight_sync.py."""

from __future__ import annotations

import pytest

from cai_ray.engines.rollouts.sync import fit
from cai_ray.engines.weights.store import NONE_YET, WeightStore


def test_one_token_less_than_a_context_is_compared() -> None:
    prompt, response = (1, 2, 3), (4, 5, 6, 7)
    [(sequence, logprobs)] = fit([(prompt, response)], [(-1.0, -2.0, -3.0, -4.0)], max_model_len=6)
    assert sequence == (prompt, (4, 5))
    assert logprobs == (-1.0, -2.0)


def test_sequences_without_room_or_tokens_are_left_out() -> None:
    sequences = [((1,) * 9, (2,)), ((1,), ()), ((1,), (2,))]
    assert fit(sequences, [(-1.0,), (), (-3.0,)], max_model_len=8) == [(((1,), (2,)), (-3.0,))]


def test_nothing_to_compare_is_no_proof() -> None:
    with pytest.raises(ValueError, match="no sequence"):
        fit([((1,), ())], [()], max_model_len=8)
    with pytest.raises(ValueError, match="sequence 0: 2 response tokens, 1 log-probabilities"):
        fit([((1,), (2, 3))], [(-1.0,)], max_model_len=8)


def test_half_a_sync_counts_nothing() -> None:
    store = WeightStore()
    assert store.newest() == NONE_YET
    store.begin(1)
    assert store.newest() == NONE_YET
    store.begin(1)
    store.commit()
    assert (store.newest().serial, store.newest().version) == (1, 1)
    store.begin(2)
    assert store.newest().version == 1


def test_a_version_that_is_synced_twice_is_seen_twice() -> None:
    store = WeightStore()
    for _ in range(2):
        store.begin(3)
        store.commit()
    assert (store.newest().serial, store.newest().version) == (2, 3)
