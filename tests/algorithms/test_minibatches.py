from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.algorithms.minibatches import minibatches, worker_shares
from cai_ray.errors import ConfigError

many_lengths = st.lists(st.integers(1, 64), min_size=1, max_size=60)


def pass_cost(share: tuple[int, ...], lengths: list[int]) -> int:
    return len(share) * max((lengths[i] for i in share), default=0)


@given(lengths=many_lengths, seed=st.integers(0, 2**31), data=st.data())
def test_an_epoch_is_a_partition_with_even_tokens(lengths: list[int], seed: int, data: st.DataObject) -> None:
    num = data.draw(st.integers(1, len(lengths)))
    found = minibatches(lengths, num, seed)
    assert len(found) == num and all(found)
    assert sorted(i for minibatch in found for i in minibatch) == list(range(len(lengths)))
    tokens = [sum(lengths[i] for i in minibatch) for minibatch in found]
    assert max(tokens) - min(tokens) <= max(lengths)
    assert minibatches(lengths, num, seed) == found


def test_another_seed_is_another_partition() -> None:
    lengths = [8] * 64
    found = {minibatches(lengths, 4, seed) for seed in range(20)}
    assert len(found) == 20


def test_the_partition_is_what_it_was() -> None:
    """A resumed run must see the minibatches of the run that was killed."""
    assert minibatches([5, 3, 8, 2, 7, 1], 2, 11) == minibatches((5, 3, 8, 2, 7, 1), 2, 11) == ((2, 5, 3), (0, 1, 4))


@given(lengths=many_lengths, max_tokens=st.integers(64, 300), data=st.data())
def test_shares_hold_every_index_once_within_the_budget_and_as_many_passes_on_every_worker(
    lengths: list[int], max_tokens: int, data: st.DataObject
) -> None:
    num_workers = data.draw(st.integers(1, min(5, len(lengths))))
    minibatch = tuple(data.draw(st.permutations(range(len(lengths)))))
    shares = worker_shares(minibatch, lengths, num_workers=num_workers, max_tokens=max_tokens)
    assert len(shares) == num_workers
    assert len({len(passes) for passes in shares}) == 1
    flat = [share for passes in shares for share in passes]
    assert sorted(i for share in flat for i in share) == sorted(minibatch)
    assert all(pass_cost(share, lengths) <= max_tokens for share in flat)
    assert all(flat) or len(flat) > len(minibatch)
    assert all(any(passes) for passes in shares)
    again = worker_shares(tuple(sorted(minibatch)), lengths, num_workers=num_workers, max_tokens=max_tokens)
    assert again == shares


def test_buckets_of_similar_length_save_padding() -> None:
    lengths = [10, 100] * 32
    shares = worker_shares(tuple(range(64)), lengths, num_workers=2, max_tokens=1000)
    cost = sum(pass_cost(share, lengths) for passes in shares for share in passes)
    assert cost <= 1.1 * sum(lengths)


def test_passes_that_run_together_cost_about_the_same() -> None:
    lengths = [16 + (37 * i) % 241 for i in range(128)]
    shares = worker_shares(tuple(range(128)), lengths, num_workers=4, max_tokens=2048)
    for together in zip(*shares, strict=True):
        costs = [pass_cost(share, lengths) for share in together]
        assert max(costs) <= 1.25 * min(costs)


def test_three_long_answers_on_two_workers_leave_one_pass_empty() -> None:
    shares = worker_shares((0, 1, 2), [9, 9, 9], num_workers=2, max_tokens=10)
    assert shares == (((0,), ()), ((1,), (2,)))


def test_what_cannot_work_is_refused_with_its_fix() -> None:
    with pytest.raises(ConfigError, match="num_workers=3 for a minibatch of 2 answers"):
        worker_shares((0, 1), [1, 1], num_workers=3, max_tokens=8)
    with pytest.raises(ConfigError, match="sequence 1 has 9 tokens, a forward pass holds max_tokens=8"):
        worker_shares((0, 1), [1, 9], num_workers=1, max_tokens=8)
    with pytest.raises(ConfigError, match="num_minibatches=3 with 2 answers"):
        minibatches([1, 1], 3, 0)
    with pytest.raises(ConfigError, match="sequence 1 has no tokens"):
        minibatches([1, 0], 1, 0)
