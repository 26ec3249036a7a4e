"""Training examples as token ids on their way from the driver to the workers: `tokens/train.parquet`, `eval.parquet`.

Left to one side once the training stage is committed: the examples themselves are its rows.

Tested in tests/stages/supervised/test_train_sft.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cai_ray.artifacts.storage import Storage
from cai_ray.engines.models.answer_tokens import TrainingTokens

FOLDER = "tokens"
SPLITS = ("train", "eval")
TOKEN_ROW = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("weight", pa.float64(), nullable=False),  # expected times per epoch
        pa.field("input_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("labels", pa.list_(pa.int32()), nullable=False),  # -100: not learned
    ]
)


def token_row(example_id: str, weight: float, tokens: TrainingTokens) -> dict[str, Any]:
    return {"example_id": example_id, "weight": weight, "input_ids": tokens.input_ids, "labels": tokens.labels}


class TokenFiles:
    """Writes both files, part by part, over what an earlier attempt wrote."""

    def __init__(self, folder: Storage) -> None:
        self._folder = folder
        self._writers: dict[str, tuple[Any, pq.ParquetWriter]] = {}

    def __enter__(self) -> TokenFiles:
        self._folder.filesystem.create_dir(self._folder.path(FOLDER), recursive=True)
        for split in SPLITS:
            stream = self._folder.filesystem.open_output_stream(self._folder.path(f"{FOLDER}/{split}.parquet"))
            self._writers[split] = stream, pq.ParquetWriter(stream, TOKEN_ROW, compression="zstd")
        return self

    def __exit__(self, *error: object) -> None:
        for stream, writer in self._writers.values():
            writer.close()
            stream.close()

    def write(self, rows: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Rows of TOKEN_ROW, each with its split."""
        by_split: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        for split, row in rows:
            by_split[split].append(row)
        for split, own in by_split.items():
            if own:
                self._writers[split][1].write_table(pa.Table.from_pylist(own, TOKEN_ROW))


def read_tokens(folder: Storage, split: str) -> pa.Table:
    """Rows of TOKEN_ROW, in the order they were written."""
    with folder.filesystem.open_input_file(folder.path(f"{FOLDER}/{split}.parquet")) as file:
        return pq.ParquetFile(file).read()


def delete_tokens(folder: Storage) -> None:
    folder.delete_folder(FOLDER)
