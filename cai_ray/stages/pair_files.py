"""Training pairs as files: what a stage that trains on pairs reads of them, and how often each is seen.

Tested in tests/stages/preferences/test_train_preference_model.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import pyarrow.compute as pc

from cai_ray.artifacts.parts import read_table
from cai_ray.artifacts.storage import Storage
from cai_ray.seeding import rng_for

if TYPE_CHECKING:
    from datasets import Dataset


def times_seen(pair_id: str, weight: float, seed: int) -> int:
    """How often a pair of this weight is in the training set: floor(weight), and once more with the rest's chance."""
    whole = int(weight)
    return whole + (rng_for(seed, "pair weight", pair_id).random() < weight - whole)


LEARNED_COLUMNS = (
    "pair_id", "prompt_id", "prob_chosen", "label_source", "weight", "split",
    "prompt_tokens", "chosen_tokens", "rejected_tokens",
)  # fmt: skip


@dataclass(frozen=True)
class PairFiles:
    """Where a stage's pairs are; picklable.

    Attributes:
        names: Parquet files in `folder`, in a fixed order.
        seed: decides how often a pair of fractional weight is seen, and which pairs the eval loss is of.
        is_soft: the loss aims at the labels' probabilities, not at 1.
        eval_pairs: most pairs that the eval loss is taken over while training.
    """

    folder: Storage
    names: tuple[str, ...]
    seed: int
    is_soft: bool
    eval_pairs: int

    def pairs(self, split: Literal["train", "eval"]) -> pa.Table:
        """The split's pairs, each once: what is learned of them, without their texts."""
        tables = [read_table(self.folder, name, LEARNED_COLUMNS) for name in self.names]
        return pa.concat_tables(tables).filter(pc.field("split") == split)

    def answers(self) -> Iterator[tuple[list[int], list[int]]]:
        """(prompt ids, answer ids) of the chosen training answers; a whole conversation is what follows its start."""
        pairs = self.pairs("train")
        for prompt, chosen in zip(pairs["prompt_tokens"].to_pylist(), pairs["chosen_tokens"].to_pylist(), strict=True):
            yield (prompt, chosen) if prompt else (chosen[:1], chosen[1:])

    def order(self, pairs: pa.Table) -> list[int]:
        """Positions in `pairs`, each as often as the pair is seen in an epoch."""
        drawn = zip(pairs["pair_id"].to_pylist(), pairs["weight"].to_pylist(), strict=True)
        times = [times_seen(pair_id, weight, self.seed) for pair_id, weight in drawn]
        return [position for position, count in enumerate(times) for _ in range(count)]

    def targets(self, pairs: pa.Table) -> list[float]:
        """What the loss aims at, in [0.5, 1]."""
        return pairs["prob_chosen"].to_pylist() if self.is_soft else [1.0] * pairs.num_rows

    def whole(self, split: Literal["train", "eval"]) -> Dataset | None:
        """Token ids of whole conversations, for a score model; None when the split is empty."""
        return self._dataset(split, {"chosen_ids": "chosen_tokens", "rejected_ids": "rejected_tokens"})

    def completions(self, split: Literal["train", "eval"]) -> Dataset | None:
        """Token ids of prompts and answers apart, for a policy; None when the split is empty."""
        return self._dataset(
            split, {"prompt_ids": "prompt_tokens", "chosen_ids": "chosen_tokens", "rejected_ids": "rejected_tokens"}
        )

    def _dataset(self, split: Literal["train", "eval"], columns: dict[str, str]) -> Dataset | None:
        """With our column under each of the trainer's names."""
        from datasets import Dataset

        pairs = self.pairs(split)
        if not pairs.num_rows:
            return None
        named = {name: pairs[column] for name, column in columns.items()}
        rows = Dataset(pa.table({**named, "prob_chosen": self.targets(pairs)}))
        if split == "train":
            return rows.select(self.order(pairs))
        if len(rows) <= self.eval_pairs:
            return rows
        return rows.select(sorted(rng_for(self.seed, "eval loss", "pairs").sample(range(len(rows)), self.eval_pairs)))
