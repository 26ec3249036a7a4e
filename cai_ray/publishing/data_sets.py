"""A run's rows as a data set of the hub: one configuration per kind of row, in Parquet files.

The files depend on the rows alone, byte for byte, so that a second push of the same run sends nothing.
Tested in tests/publishing/test_publish.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cai_ray.artifacts.artifact import Artifact
from cai_ray.stages.exports import Convert, by_split, comparison_rows, preference_rows, sft_rows
from cai_ray.stages.inputs import expand_prompts, load_prompts
from cai_ray.stages.preferences import label_comparisons
from cai_ray.stages.revision import revise
from cai_ray.stages.supervised import train_sft

SHARD_BYTES = 256 << 20  # of Arrow memory; a fifth of it or less on disk


class Kind(NamedTuple):
    """One configuration."""

    name: str
    stages: tuple[str, ...]  # the first that there is
    told: str
    key: str | None = None  # column "<set>:<record>" of rows whose prompt is no row of the run
    convert: Convert = lambda rows: rows


KINDS = (
    Kind("prompts", (expand_prompts.STAGE, load_prompts.STAGE), "the requests that everything began with"),
    Kind("revisions", (revise.STAGE,), "answers, and each round's principle, critique and revision"),
    Kind("sft", (train_sft.STAGE,), "what SL-CAI learned from", "example_id", sft_rows),
    Kind("preferences", (label_comparisons.STAGE,), "labelled pairs of answers", "pair_id", preference_rows),
    Kind("comparisons", (label_comparisons.STAGE,), "each single reading of a pair", "pair_id", comparison_rows),
)


@dataclass
class Written:
    """One configuration on local disk."""

    kind: Kind
    files: dict[str, Path] = field(default_factory=dict)  # name in the repository -> file
    num_rows: Counter[str] = field(default_factory=Counter)  # by split


def found(artifacts: Mapping[str, Artifact]) -> list[tuple[Kind, Artifact]]:
    """The configurations that a run has."""
    of_kind = ((kind, next((artifacts[name] for name in kind.stages if name in artifacts), None)) for kind in KINDS)
    return [(kind, artifact) for kind, artifact in of_kind if artifact is not None]


class Origins:
    """The source of each row: its own column, that of its prompt, or the set that its id names."""

    def __init__(self, artifacts: Mapping[str, Artifact]) -> None:
        prompts = next((artifact for kind, artifact in found(artifacts) if kind.name == "prompts"), None)
        tables = list(prompts.tables(["prompt_id", "source"])) if prompts else []
        empty = pa.table({"prompt_id": pa.array([], pa.string()), "source": pa.array([], pa.string())})
        every = pa.concat_tables([empty, *tables], promote_options="permissive").combine_chunks()
        self._ids, self._sources = every["prompt_id"].combine_chunks(), every["source"].combine_chunks()

    def of(self, kind: Kind, rows: pa.Table) -> pa.ChunkedArray:
        """[num_rows] names of sources."""
        if kind.key is None:
            return rows["source"]
        by_prompt = self._sources.take(pc.index_in(rows["prompt_id"].combine_chunks(), value_set=self._ids))
        sets = pc.replace_substring_regex(rows[kind.key].combine_chunks(), r":\d+$", "")
        return pc.coalesce(by_prompt, sets)

    def counted(self, artifacts: Mapping[str, Artifact]) -> Counter[str]:
        """Source -> rows of it in all configurations; a pair counts once, however many readings it has."""
        counts: Counter[str] = Counter()
        for kind, artifact in {id(artifact): (kind, artifact) for kind, artifact in found(artifacts)}.values():
            columns = ["source"] if kind.key is None else ["prompt_id", kind.key]
            for rows in artifact.tables(columns):
                counts.update({one["values"]: one["counts"] for one in self.of(kind, rows).value_counts().to_pylist()})
        return counts


def write(
    artifacts: Mapping[str, Artifact], origins: Origins, left_out: Collection[str], folder: Path
) -> list[Written]:
    """Write every configuration under `folder`, without the rows of the sources that are `left_out`."""
    every = (_write(kind, artifact, origins, left_out, folder) for kind, artifact in found(artifacts))
    return [made for made in every if made.files]


def _write(kind: Kind, artifact: Artifact, origins: Origins, left_out: Collection[str], folder: Path) -> Written:
    made = Written(kind)
    waiting: dict[str, list[pa.Table]] = {}
    for split, rows in _splits(kind, artifact, origins, left_out):
        tables = waiting.setdefault(split, [])
        tables.append(rows)
        made.num_rows[split] += rows.num_rows
        if sum(table.nbytes for table in tables) >= SHARD_BYTES:
            _shard(made, split, tables, folder)
    for split, tables in waiting.items():
        if tables:
            _shard(made, split, tables, folder)
    return made


def _splits(
    kind: Kind, artifact: Artifact, origins: Origins, left_out: Collection[str]
) -> Iterator[tuple[str, pa.Table]]:
    for rows in artifact.tables():
        if left_out:
            is_out = pc.is_in(origins.of(kind, rows), value_set=pa.array(sorted(left_out), pa.string()))
            rows = rows.filter(pc.invert(is_out))
        yield from by_split(kind.convert(rows))


def _shard(made: Written, split: str, tables: list[pa.Table], folder: Path) -> None:
    number = sum(name.startswith(f"{made.kind.name}/{split}-") for name in made.files)
    name = f"{made.kind.name}/{split}-{number:05d}.parquet"
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.concat_tables(tables), file, compression="zstd")
    made.files[name] = file
    tables.clear()


def configs(written: Sequence[Written]) -> list[dict[str, object]]:
    """The card's `configs`, which `datasets.load_dataset(repo, name)` goes by."""
    first = next((one.kind.name for one in written if one.kind.name == "preferences"), written[0].kind.name)
    return [
        {
            "config_name": one.kind.name,
            **({"default": True} if one.kind.name == first else {}),
            "data_files": [
                {"split": split, "path": f"{one.kind.name}/{split}-*.parquet"} for split in sorted(one.num_rows)
            ],
        }
        for one in written
    ]
