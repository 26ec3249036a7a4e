"""Sets of pairs from outside the run: what a recipe says of them, and what their records say.

Tested in tests/stages/preferences/test_load_pairs.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from cai_ray.artifacts.identity import Input
from cai_ray.config import MICROWORLD, Config
from cai_ray.dropped import DropRow
from cai_ray.fingerprint import names_and_sizes
from cai_ray.lookup import InputPath
from cai_ray.prompt_layouts.locations import FileFormat
from cai_ray.prompt_layouts.pairs import JUDGED, PAIRS, JudgedLayout, PairLayout, ParsedPair
from cai_ray.prompt_layouts.readings import Reading, read_by
from cai_ray.prompt_layouts.records import Kind


class PairSource(Config):
    """One set of pairs, wherever it lies."""

    path: InputPath = Field(
        MICROWORLD,
        min_length=1,
        description='File, folder, glob, pyarrow URI, "hf://org/name[:config[:split]]", or "microworld".',
    )
    format: FileFormat = Field("auto", description="File format; auto goes by the suffix.")
    name: str | None = Field(None, min_length=1, description="Names the pairs' ids; null: the path's last part.")
    columns: dict[str, str | None] = Field(
        default_factory=dict, description="Field (prompt, chosen, rejected) -> column, where the names differ."
    )
    split: Literal["train", "test"] = Field("train", description='"test": all of it is for evaluation only.')
    limit: int | None = Field(None, ge=1, description="Read this many records, the first ones.")
    num_pairs: int = Field(2000, ge=1, description='Pairs to make; path "microworld" only.')

    @property
    def source(self) -> str:
        """The name on the pairs' ids."""
        last = self.path.rstrip("/").rsplit("/", 1)[-1]
        return self.name or last.removesuffix(".gz").rsplit(".", 1)[0] or last

    @model_validator(mode="after")
    def _microworld_only(self) -> Self:
        if self.path != MICROWORLD and self.num_pairs != type(self).model_fields["num_pairs"].default:
            raise ValueError(f'num_pairs is for path "{MICROWORLD}", not for {self.path!r}; use limit')
        return self


class HelpfulPairsConfig(PairSource):
    """One set of human comparisons."""

    weight: float = Field(1.0, gt=0, description="How often each pair is seen per epoch, on average.")


class PreferenceSetConfig(HelpfulPairsConfig):
    """One set of preferences of your own."""

    layout: JudgedLayout = Field("auto", description="How a record holds its pair; auto looks at the columns.")
    label_source: Literal["ai", "human"] = Field("human", description="Who chose; summaries keep the two apart.")


class PairSetConfig(PairSource):
    """One set of pairs to label; what it says of which answer is better is not read."""

    layout: PairLayout = Field("auto", description="How a record holds its pair; auto looks at the columns.")
    kind: Kind = Field("red_team", description='Of its prompts: "red_team" or "helpful".')
    test_fraction: float = Field(
        0.0, ge=0.0, le=1.0, description="Share of the prompts that goes to split test, by the hash of their text."
    )


def check_names(sources: Sequence[PairSource], where: str) -> None:
    """Raises ValueError where two sets would give their pairs the same ids."""
    names = [source.source for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two of {where} are called {name!r}, and pair ids need different ones; set `name`")


def read_pairs(source: PairSource) -> Iterator[tuple[int, ParsedPair | DropRow]]:
    """(record number, pair or why it is none) of a set that lies somewhere. Raises ConfigError, see `read_by`."""
    readings: dict[str, Reading[ParsedPair]] = JUDGED
    layout, columns = "chosen_rejected", {"prob_chosen": None, **source.columns}  # people's choices are certain
    if isinstance(source, PreferenceSetConfig):
        layout, columns = source.layout, source.columns
    elif isinstance(source, PairSetConfig):
        readings, layout, columns = PAIRS, source.layout, source.columns
    return read_by(source.path, source.format, source.limit, readings, layout, columns)


def pairs_identity(sources: Sequence[PairSource]) -> dict[str, Any]:
    """For the fingerprint: name and size of each local file."""
    return {source.source: names_and_sizes(source.path) for source in sources}


def pairs_files(sources: Sequence[PairSource], what: str) -> list[Input]:
    """What the pairs are read from."""
    return [
        Input(source.path, f"{what} {source.source}", source.format) for source in sources if source.path != MICROWORLD
    ]
