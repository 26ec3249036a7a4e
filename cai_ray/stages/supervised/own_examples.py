"""Sets of examples that others have made.  records -> SFT example.  Pure.

Every record ends exactly once: as an example, dropped, or left out because the run's prompts hold its text for tests.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from functools import partial
from typing import Any, Literal

from pydantic import Field

from cai_ray.artifacts.derived import Outcome, outcome
from cai_ray.artifacts.identity import Input
from cai_ray.config import Config
from cai_ray.dropped import DropReason, DropRow
from cai_ray.fingerprint import names_and_sizes
from cai_ray.lookup import InputPath
from cai_ray.prompt_layouts.examples import EXAMPLES, Example, ExampleLayout
from cai_ray.prompt_layouts.locations import FileFormat
from cai_ray.prompt_layouts.readings import read_by
from cai_ray.row_ids import prompt_id_of, text_key
from cai_ray.seeding import digest
from cai_ray.stages.held_out import BARRED

SOURCE = "own"  # the rows' `source`


class ExampleSetConfig(Config):
    """One set of conversations whose last answer is learned."""

    path: InputPath = Field(
        min_length=1, description='File, folder, glob, pyarrow URI or "hf://org/name[:config[:split]]".'
    )
    format: FileFormat = Field("auto", description="File format; auto goes by the suffix.")
    layout: ExampleLayout = Field("auto", description="How a record holds its example; auto looks at the columns.")
    name: str | None = Field(None, min_length=1, description="Names the examples' ids; null: the path's last part.")
    columns: dict[str, str | None] = Field(
        default_factory=dict, description="Field (messages, prompt, completion, ...) -> column, where the names differ."
    )
    weight: float = Field(1.0, gt=0, description="Expected times per epoch of each example.")
    split: Literal["train", "test"] = Field("train", description='"test": all of it is for evaluation only.')
    limit: int | None = Field(None, ge=1, description="Read this many records, the first ones.")

    @property
    def source(self) -> str:
        """The name on the examples' ids."""
        last = self.path.rstrip("/").rsplit("/", 1)[-1]
        return self.name or last.removesuffix(".gz").rsplit(".", 1)[0] or last


def own_examples(
    sets: Sequence[ExampleSetConfig], eval_fraction: float, held_out: Container[bytes], seed: int
) -> Iterator[Outcome]:
    """The end of every record. Held out are those of `split` test and a share of the prompts, by their text.

    `held_out`: the `text_key` of prompts that are for tests alone. Raises ConfigError for a set that cannot be read.
    """
    seen: set[bytes] = set()
    for source in sets:
        records = read_by(source.path, source.format, source.limit, EXAMPLES, source.layout, source.columns)
        for number, found in records:
            example_id = f"{source.source}:{number}"
            yield outcome(example_id, partial(_example, source, example_id, found, eval_fraction, held_out, seed, seen))


def _example(
    source: ExampleSetConfig,
    example_id: str,
    found: Example | DropRow,
    eval_fraction: float,
    held_out: Container[bytes],
    seed: int,
    seen: set[bytes],
) -> dict[str, Any]:
    """A row of SFT_EXAMPLE. Raises DropRow; adds what tells the example from others to `seen`."""
    if isinstance(found, DropRow):
        raise found
    prompt = found[:-1]
    text = text_key(prompt)
    key = digest(text.hex(), found[-1]["content"], num_bytes=8)
    if key in seen:
        raise DropRow(DropReason.DUPLICATE, "an earlier record is the same conversation")
    seen.add(key)
    if source.split == "train" and text in held_out:
        raise BARRED
    share = int.from_bytes(digest("own examples", seed, text.hex(), num_bytes=8), "big") / 2**64
    return {
        "example_id": example_id,
        "prompt_id": prompt_id_of(prompt, source.source),
        "messages": found,
        "source": SOURCE,
        "revision_index": None,
        "weight": source.weight,
        "split": "eval" if source.split == "test" or share < eval_fraction else "train",
    }


def input_identity(sets: Sequence[ExampleSetConfig]) -> dict[str, Any]:
    """For the fingerprint: name and size of each local file."""
    return {source.source: names_and_sizes(source.path) for source in sets}


def input_files(sets: Sequence[ExampleSetConfig]) -> list[Input]:
    """What the examples are read from."""
    return [Input(source.path, f"examples {source.source}", source.format) for source in sets]
