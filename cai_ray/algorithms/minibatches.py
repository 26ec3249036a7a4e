"""Who computes what, and when: minibatches of one optimiser step each, and their micro-batches per worker.

`minibatches` decides what is learned together and knows nothing of workers. `worker_shares` spreads one minibatch over
workers and forward passes, and changes speed and memory only, because losses are normalised by the whole minibatch
(policy_losses.loss_weights). Both are plain functions of lengths and a seed: every worker can work them out alone.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence

from cai_ray.errors import ConfigError

Indices = tuple[int, ...]


def minibatches(lengths: Sequence[int], num_minibatches: int, seed: int) -> tuple[Indices, ...]:
    """One epoch: every sequence in exactly one minibatch, drawn at random, all with about the same number of tokens.

    Sequences come in random order and go to the minibatch with the fewest tokens, so two minibatches differ by no more
    than the longest sequence.

    Args:
        lengths: tokens per sequence, prompt and answer, each >= 1.
        num_minibatches: optimiser steps per epoch, >= 1.
        seed: of this step and epoch (`seeding.seed_for`); another seed gives another partition.

    Returns:
        [num_minibatches] of indices into `lengths`, none empty.

    Raises:
        ConfigError: fewer sequences than minibatches.
    """
    if not 1 <= num_minibatches <= len(lengths):
        raise ConfigError(
            f"num_minibatches={num_minibatches} with {len(lengths)} answers per step: each minibatch needs one; "
            "lower num_minibatches or draw more prompts per step"
        )
    _check_lengths(lengths)
    order = list(range(len(lengths)))
    random.Random(seed).shuffle(order)
    return tuple(_spread(order, lengths, num_minibatches))


def worker_shares(
    minibatch: Indices, lengths: Sequence[int], *, num_workers: int, max_tokens: int
) -> tuple[tuple[Indices, ...], ...]:
    """Split one minibatch into forward passes of at most `max_tokens`, the same number of them on every worker.

    A pass has sequences of similar length and costs their number times the longest. As few passes as fit, of even
    cost; those that run at the same time on different workers cost about the same, as sharded weights make workers
    wait for one another.

    Args:
        minibatch: indices into `lengths`.
        lengths: tokens per sequence, each >= 1.
        num_workers: >= 1.
        max_tokens: of one forward pass, padding included.

    Returns:
        [num_workers][num_passes] of indices. A pass may be empty (only where there are fewer sequences than
        passes): the worker still takes part, with a dummy of weight 0, as collectives need every worker.

    Raises:
        ConfigError: fewer sequences than workers, or a sequence longer than max_tokens.
    """
    if not 1 <= num_workers <= len(minibatch):
        raise ConfigError(
            f"num_workers={num_workers} for a minibatch of {len(minibatch)} answers: each worker needs at least one; "
            "use fewer learners, fewer minibatches, or more prompts per step"
        )
    _check_lengths(lengths)
    longest = max(minibatch, key=lambda i: lengths[i])
    if lengths[longest] > max_tokens:
        raise ConfigError(
            f"sequence {longest} has {lengths[longest]} tokens, a forward pass holds max_tokens={max_tokens}; "
            "raise max_tokens to the longest prompt plus answer"
        )
    order = sorted(minibatch, key=lambda i: (-lengths[i], i))
    cut = _padded(order, lengths, num_workers, max_tokens)
    cut.sort(key=lambda share: (-_cost(share, lengths), share))
    shares: list[list[Indices]] = [[] for _ in range(num_workers)]
    for at, share in enumerate(cut):
        turn, worker = divmod(at, num_workers)
        # There and back again, so that the first worker does not get the dearest of every turn.
        shares[worker if turn % 2 == 0 else num_workers - 1 - worker].append(share)
    return tuple(tuple(passes) for passes in shares)


def _cost(share: Indices, lengths: Sequence[int]) -> int:
    """Tokens a forward pass over these sequences takes, padding included; 0 for none."""
    return len(share) * max((lengths[i] for i in share), default=0)


def _spread(order: Sequence[int], lengths: Sequence[int], num_bins: int) -> list[Indices]:
    """Each index in turn to the bin with the fewest tokens; ties go to the first bin."""
    bins: list[list[int]] = [[] for _ in range(num_bins)]
    loads = [(0, k) for k in range(num_bins)]
    for i in order:
        load, k = loads[0]
        bins[k].append(i)
        heapq.heapreplace(loads, (load + lengths[i], k))
    return [tuple(found) for found in bins]


def _padded(order: Sequence[int], lengths: Sequence[int], num_workers: int, max_tokens: int) -> list[Indices]:
    """Runs of the sorted sequences: as many as max_tokens asks for, then as even as that number allows."""
    num_passes = _round_up(len(_runs(order, lengths, max_tokens)), num_workers)
    low, high = lengths[order[0]], max_tokens
    while low < high:  # the smallest limit that needs no more passes
        middle = (low + high) // 2
        if len(_runs(order, lengths, middle)) <= num_passes:
            high = middle
        else:
            low = middle + 1
    found = _runs(order, lengths, low)
    while len(found) < num_passes:
        dearest = max(found, key=lambda share: (len(share) > 1, _cost(share, lengths)), default=())
        if len(dearest) < 2:
            found.append(())
            continue
        at = found.index(dearest)
        half = len(dearest) // 2
        found[at : at + 1] = [dearest[:half], dearest[half:]]
    return found


def _runs(order: Sequence[int], lengths: Sequence[int], limit: int) -> list[Indices]:
    """Cut sequences, longest first, into runs whose padded cost stays within `limit`."""
    runs: list[Indices] = []
    start = 0
    while start < len(order):
        num = limit // lengths[order[start]]
        runs.append(tuple(order[start : start + num]))
        start += num
    return runs


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _check_lengths(lengths: Sequence[int]) -> None:
    if min(lengths) < 1:
        raise ConfigError(f"sequence {min(range(len(lengths)), key=lengths.__getitem__)} has no tokens: leave it out")
