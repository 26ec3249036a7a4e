"""Training pairs on disk: written by the driver before training, read by every worker.

Tested in tests/stages/preferences/test_train_preference_model.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cai_ray.artifacts.artifact import Artifact, OpenStage
from cai_ray.artifacts.parts import remove_part, write_part
from cai_ray.artifacts.storage import Storage
from cai_ray.dropped import DROPPED, DropRow
from cai_ray.errors import ConfigError
from cai_ray.rows import TRAINING_PAIR
from cai_ray.stages.pair_files import PairFiles, times_seen
from cai_ray.stages.preferences.comparisons import Encode, PairOptions, comparisons, training_pair

if TYPE_CHECKING:
    pass

PAIRS_PER_PART = 5_000
_LABEL_COLUMNS = ("pair_id", "prompt_id", "messages", "chosen", "rejected", "prob_chosen", "split")


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
