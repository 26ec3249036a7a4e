"""Data sets for other tools: what a stage wrote, in the layout that TRL calls conversational.

`<run>/exports/<name>/train/part-*.parquet` and `.../test/part-*.parquet`: `datasets.load_dataset("parquet",
data_dir=<folder>)` and stock TRL trainers read them unchanged. Rows held out of training, whatever their stage calls
them ("test", "eval"), are in `test`, the word that `datasets` knows. An export is whole once its `manifest.json` is
there, which is written last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cai_ray.artifacts.artifact import MANIFEST, Artifact
from cai_ray.artifacts.storage import Storage
from cai_ray.config import Config
from cai_ray.errors import ConfigError
from cai_ray.rows import MESSAGE

EXPORTS = "exports"  # folder of the run
Split = Literal["train", "test"]
# A stage's table -> the table to write, one row out for any number of rows in, and `split` among its columns.
Convert = Callable[[pa.Table], pa.Table]


class Export(Config):
    """A finished export, and its manifest."""

    name: str
    stage: str  # whose rows these are
    fingerprint: str  # of that stage
    made_from: str = ""  # the version of that stage's artifact: another attempt at it is exported anew
    num_rows: dict[Split, int]  # a split without rows has no files


def export_sft(examples: Artifact, folder: Storage) -> Export:
    """SFT examples to `folder`: messages, and the same parted into prompt and completion (the last answer).

    TRL's SFTTrainer goes by prompt and completion where it finds them, and then learns the completion only, as
    train_sft does. It knows no weights: `weight` (expected times per epoch) is there for the reader to sample by.
    """
    return _export("sft", examples, folder, sft_rows)


def export_preferences(preferences: Artifact, folder: Storage) -> Export:
    """Preference rows to `folder`: prompt, chosen and rejected as messages, and what is known of the label.

    Stock trainers take every pair as certain; `prob_chosen` in [0.5, 1] is the soft label.
    """
    return _export("preferences", preferences, folder, preference_rows)


def export_comparisons(preferences: Artifact, folder: Storage) -> Export:
    """Every single reading behind the labels to `folder`, one row per pair, principle, order and sample."""
    return _export("comparisons", preferences, folder, comparison_rows)


def sft_rows(examples: pa.Table) -> pa.Table:
    """Rows of SFT_EXAMPLE as they are exported."""
    messages = _flat(examples["messages"])
    lengths = pc.list_value_length(messages).to_numpy(zero_copy_only=False)
    is_last = np.zeros(int(lengths.sum()), dtype=bool)
    is_last[np.cumsum(lengths) - 1] = True  # messages end in an answer: no list is empty
    every = messages.flatten()
    return pa.table(
        {
            "example_id": examples["example_id"],
            "messages": messages,
            "prompt": _lists(every.filter(pa.array(~is_last)), lengths - 1),
            "completion": _lists(every.filter(pa.array(is_last)), np.ones_like(lengths)),
            "source": examples["source"],
            "revision_index": examples["revision_index"],
            "weight": examples["weight"],
            "split": examples["split"],
        }
    )


def preference_rows(preferences: pa.Table) -> pa.Table:
    """Rows of PREFERENCE as they are exported."""
    return pa.table(
        {
            "pair_id": preferences["pair_id"],
            "prompt": preferences["messages"],
            "chosen": _answers(preferences["chosen"]),
            "rejected": _answers(preferences["rejected"]),
            "prob_chosen": preferences["prob_chosen"],
            "order_flip_rate": preferences["order_flip_rate"],
            "label_source": preferences["label_source"],
            "kind": preferences["kind"],
            "category": preferences["category"],
            "split": preferences["split"],
        }
    )


def comparison_rows(preferences: pa.Table) -> pa.Table:
    """The readings of PREFERENCE rows, one row each; pairs without readings (human labels) have none."""
    comparisons = _flat(preferences["comparisons"])
    parents = pc.list_parent_indices(comparisons)
    readings = comparisons.flatten()
    columns = {"pair_id": preferences["pair_id"].take(parents)}
    columns |= {field.name: pc.struct_field(readings, field.name) for field in readings.type}
    return pa.table(columns | {"split": preferences["split"].take(parents)})


def _flat(column: pa.ChunkedArray) -> pa.Array:
    """One array that begins at its own start, whatever it was sliced from."""
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _lists(messages: pa.Array, lengths: np.ndarray) -> pa.Array:
    """Consecutive messages as lists of these lengths."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), messages).cast(pa.list_(MESSAGE))


def _answers(texts: pa.ChunkedArray) -> pa.Array:
    """Each text as a conversation of one assistant message."""
    contents = _flat(texts)
    roles = pa.repeat(pa.scalar("assistant"), len(contents))
    messages = pa.StructArray.from_arrays([roles, contents], fields=list(MESSAGE))
    return _lists(messages, np.ones(len(contents), dtype=np.int32))


def _export(name: str, source: Artifact, folder: Storage, convert: Convert) -> Export:
    """Write each file of `source` as at most one file per split; nothing is done when that is done already.

    Raises ConfigError when there is no row to export.
    """
    stage, version = source.manifest, source.version
    if folder.exists(MANIFEST):
        done = Export.model_validate_json(folder.read(MANIFEST))
        if done.made_from == version and done.name == name:
            return done
        folder.delete(MANIFEST)
    for split in ("train", "test"):
        folder.delete_folder(split)  # of other rows, or of a writer that was killed
    num_rows: dict[Split, int] = {}
    for number, table in enumerate(source.tables()):
        for split, rows in by_split(convert(table)):
            _write(folder, f"{split}/part-{number:05d}.parquet", rows)
            num_rows[split] = num_rows.get(split, 0) + rows.num_rows
    if not num_rows:
        raise ConfigError(
            f"{source.folder.shown} has no row for the export {name!r} "
            f"(rows out {stage.rows_out}, dropped {stage.rows_dropped or 0}); see its dropped rows"
        )
    export = Export(name=name, stage=stage.stage, fingerprint=stage.fingerprint, made_from=version, num_rows=num_rows)
    folder.write(MANIFEST, export.model_dump_json(indent=2).encode())
    return export


def by_split(rows: pa.Table) -> Iterator[tuple[Split, pa.Table]]:
    is_train = pc.equal(rows["split"], "train")
    parts: tuple[tuple[Split, pa.Table], ...] = (
        ("train", rows.filter(is_train)),
        ("test", rows.filter(pc.invert(is_train))),
    )
    return ((split, part.drop_columns("split")) for split, part in parts if part.num_rows)


def _write(folder: Storage, name: str, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    folder.write(name, sink.getvalue())
