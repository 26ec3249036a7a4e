"""Prompts and answers as flat arrays, and the padded passes that a model is given. Pure numpy.

Between driver and workers a step travels as a few flat arrays, one number per answer token, without padding. A worker
cuts its passes out of them; every position in a pass knows its place in the flat arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cai_ray.algorithms.minibatches import Indices, worker_shares

Ids = Sequence[int]
Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Packed:
    """Sequences one behind the other.

    tokens: [sum of lengths], prompt then answer of each sequence.
    prompt_lengths, answer_lengths: [num_sequences], each >= 1.
    columns: name -> [sum of answer_lengths], one number per answer token.
    """

    tokens: NDArray[np.int32]
    prompt_lengths: Integers
    answer_lengths: Integers
    columns: Mapping[str, Floats]

    @property
    def lengths(self) -> list[int]:
        """Tokens per sequence."""
        return list((self.prompt_lengths + self.answer_lengths).tolist())


@dataclass(frozen=True)
class Pass:
    """One right-padded forward pass.

    input_ids: [num_sequences, longest], padded with 0: causal models never look at what comes later.
    rows, before: [num_answer_tokens], where the output stands that speaks of each answer token.
    targets: [num_answer_tokens], those tokens.
    places: [num_answer_tokens], their positions in `Packed.columns`.
    answer_lengths: [num_sequences].
    is_dummy: counts nothing; its worker has no sequence left, and the others cannot run without it.
    """

    input_ids: Integers
    rows: Integers
    before: Integers
    targets: Integers
    places: Integers
    answer_lengths: Integers
    is_dummy: bool = False


def pack(prompts: Sequence[Ids], answers: Sequence[Ids], columns: Mapping[str, Sequence[Any]]) -> Packed:
    """Put sequences behind one another.

    Args:
        prompts, answers: token ids, each >= 1 token.
        columns: name -> per sequence one number per answer token, or more (padding, left out).

    Raises:
        ValueError: an empty prompt or answer, a column that is too short.
    """
    prompt_lengths = np.array([len(ids) for ids in prompts], np.int64)
    answer_lengths = np.array([len(ids) for ids in answers], np.int64)
    for what, lengths in (("prompt", prompt_lengths), ("answer", answer_lengths)):
        if not lengths.all():
            raise ValueError(f"{what} {int(np.argmin(lengths))} has no tokens: leave the sequence out")
    both = [ids for pair in zip(prompts, answers, strict=True) for ids in pair]
    return Packed(
        tokens=np.concatenate([np.asarray(ids, np.int32) for ids in both]),
        prompt_lengths=prompt_lengths,
        answer_lengths=answer_lengths,
        columns={name: _flat(name, rows, answer_lengths) for name, rows in columns.items()},
    )


def _flat(name: str, rows: Sequence[Any], lengths: Integers) -> Floats:
    found = []
    for at, (row, length) in enumerate(zip(rows, lengths.tolist(), strict=True)):
        values = np.asarray(row, np.float32)[:length]
        if len(values) < length:
            raise ValueError(f"{name} of sequence {at} has {len(values)} numbers for {length} answer tokens")
        found.append(values)
    return np.concatenate(found)


def unpack(values: Floats, answer_lengths: Integers) -> list[tuple[float, ...]]:
    """The inverse of a column: one tuple per sequence."""
    ends = np.cumsum(answer_lengths)
    numbers = values.tolist()
    return [tuple(numbers[end - n : end]) for end, n in zip(ends.tolist(), answer_lengths.tolist(), strict=True)]


def shares(
    indices: Indices, lengths: Sequence[int], num_workers: int, tokens_per_pass: int
) -> tuple[tuple[Indices, ...], ...]:
    """`worker_shares`, for any number of sequences of any length: [num_workers][num_passes] of indices.

    Fewer sequences than workers: a pass each as far as they go, and none for the rest. A sequence longer than
    `tokens_per_pass` has a pass of its own.
    """
    if len(indices) < num_workers:
        alone: list[tuple[Indices, ...]] = [((index,),) for index in indices]
        return tuple(alone + [((),)] * (num_workers - len(indices)))
    max_tokens = max(tokens_per_pass, max(lengths[i] for i in indices))
    return worker_shares(indices, lengths, num_workers=num_workers, max_tokens=max_tokens)


def cut(packed: Packed, share: Indices, dummy: int = 0) -> Pass:
    """The pass over the sequences `share`; over the sequence `dummy`, counting nothing, when there are none."""
    chosen = np.array(share or (dummy,), np.int64)
    prompts, answers = packed.prompt_lengths[chosen], packed.answer_lengths[chosen]
    starts = _starts(packed.prompt_lengths + packed.answer_lengths)[chosen]
    lengths = prompts + answers
    input_ids = np.zeros((len(chosen), int(lengths.max())), np.int64)
    for row, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        input_ids[row, :length] = packed.tokens[start : start + length]
    rows = np.repeat(np.arange(len(chosen)), answers)
    nth = np.arange(len(rows)) - np.repeat(_starts(answers), answers)  # of its answer
    before = np.repeat(prompts, answers) + nth - 1
    return Pass(
        input_ids=input_ids,
        rows=rows,
        before=before,
        targets=input_ids[rows, before + 1],
        places=np.repeat(_starts(packed.answer_lengths)[chosen], answers) + nth,
        answer_lengths=answers,
        is_dummy=not share,
    )


def _starts(lengths: Integers) -> Integers:
    """Where each sequence begins when they lie one behind the other."""
    return np.cumsum(lengths) - lengths
