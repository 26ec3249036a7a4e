"""Training pairs on disk: written by the driver before training, read by every worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from cai_ray.artifacts.artifact import Artifact, OpenStage
from cai_ray.artifacts.parts import read_table, remove_part, write_part
from cai_ray.artifacts.storage import Storage
from cai_ray.dropped import DROPPED, DropRow
from cai_ray.errors import ConfigError
from cai_ray.rows import TRAINING_PAIR
from cai_ray.seeding import rng_for
from cai_ray.stages.preferences.comparisons import Encode, PairOptions, comparisons, times_seen, training_pair

if TYPE_CHECKING:
    from datasets import Dataset

PAIRS_PER_PART = 5_000
LEARNED_COLUMNS = (
    "pair_id", "prompt_id", "prob_chosen", "label_source", "weight", "split",
    "prompt_tokens", "chosen_tokens", "rejected_tokens",
)  # fmt: skip
_LABEL_COLUMNS = ("pair_id", "prompt_id", "messages", "chosen", "rejected", "prob_chosen", "split")


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


@dataclass(frozen=True)
class WrittenPairs:
    """What `write_pairs` did.

    Attributes:
        input_ids: every comparison that was read, string array.
        num_train: training examples, each pair as often as it is seen.
        num_eval: pairs.
    """

    files: PairFiles
    input_ids: pa.Array
    num_train: int
    num_eval: int


def pair_ids(pairs: pa.Table) -> pa.Array:
    """The comparisons that training pairs answer."""
    return pairs["pair_id"]


def write_pairs(
    opened: OpenStage, options: PairOptions, labels: Artifact, encode: Encode, max_length: int, seed: int
) -> WrittenPairs:
    """Write each comparison's end into the open stage, in place of what an earlier attempt wrote.

    Raises ConfigError when no pair is left to train on.
    """
    for part in opened.parts:
        remove_part(opened.folder, part)
    ids: list[str] = []
    names: list[str] = []
    num_train = num_eval = 0
    found = comparisons(options, labels.rows(_LABEL_COLUMNS), seed)
    for batch in _batches(found):
        rows: list[dict[str, Any]] = []
        dropped: list[dict[str, Any]] = []
        for comparison in batch:
            try:
                rows.append(training_pair(comparison, options, encode, max_length, seed))
            except DropRow as drop:
                dropped.append(_dropped(opened.plan.stage, comparison.pair_id, drop))
        batch_ids = [row["pair_id"] for row in rows] + [row["row_id"] for row in dropped]
        part = write_part(
            opened.folder,
            pa.Table.from_pylist(rows, TRAINING_PAIR),
            pa.Table.from_pylist(dropped, DROPPED),
            batch_ids,
        )
        ids += batch_ids
        names += [part.rows.name] if part.rows else []
        for row in rows:
            num_eval += row["split"] == "eval"
            num_train += times_seen(row["pair_id"], row["weight"], seed) if row["split"] == "train" else 0
    if not num_train:
        raise ConfigError(
            f"{opened.plan.stage}: of {len(ids)} comparisons {num_eval} are for evaluation and none is left to train "
            f"on; see {opened.folder.location}/dropped, lower eval_fraction, or label more pairs"
        )
    # Absolute: a worker's working directory is another one.
    folder = Storage(opened.folder.path()) if opened.folder.is_local else opened.folder
    files = PairFiles(folder, tuple(sorted(names)), seed, options.targets == "soft", options.eval_pairs)
    return WrittenPairs(files, pa.array(ids, pa.string()), num_train, num_eval)


def _dropped(stage: str, row_id: str, drop: DropRow) -> dict[str, Any]:
    return {
        "row_id": row_id,
        "stage": stage,
        "reason": drop.reason.value,
        "detail": drop.detail,
        "attempts": drop.attempts,
    }


def _batches(found: Iterator[Any]) -> Iterator[list[Any]]:
    while batch := list(islice(found, PAIRS_PER_PART)):
        yield batch
