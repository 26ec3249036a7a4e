"""What a recipe says of its prompt sets: the section `prompts`.

Tested in tests/stages/inputs/test_load_prompts.py.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal

from pydantic import Field, field_validator, model_validator

from cai_ray.config import MICROWORLD, StageConfig
from cai_ray.config import Config as BaseConfig
from cai_ray.lookup import InputPath
from cai_ray.prompt_layouts.layouts import LayoutName
from cai_ray.prompt_layouts.locations import FileFormat
from cai_ray.prompt_layouts.records import Kind


class SourceOptions(BaseConfig):
    """What can be said about one prompt set, wherever it lies."""

    layout: LayoutName = Field("auto", description="How a record holds its prompt; auto looks at the columns.")
    format: FileFormat = Field("auto", description="File format; auto goes by the suffix.")
    name: str | None = Field(None, min_length=1, description="The rows' `source`; null: the file's stem.")
    kind: Kind | None = Field(
        None, description='"red_team": critique and revise; "helpful": only answer; null: as the set says, or red_team.'
    )
    license: str | None = Field(None, description="Licence of the set, kept on every row.")
    split: Literal["train", "test"] = Field("train", description="The rows' split, where test_fraction is 0.")
    test_fraction: float = Field(
        0.0, ge=0.0, le=1.0, description="Share of the prompts that goes to split test, by the hash of prompt_id."
    )
    columns: dict[str, str | None] = Field(
        default_factory=dict,
        description="Field (prompt, category, id, ...) -> column, where the guess is wrong; null: no such column.",
    )
    include_categories: tuple[str, ...] = Field((), description="Keep these categories only; empty: all.")
    exclude_categories: tuple[str, ...] = Field((), description="Leave these categories out.")
    functional_categories: tuple[Literal["standard", "contextual", "copyright"], ...] = Field(
        ("standard",), min_length=1, description="HarmBench: behaviours to keep."
    )
    cut_final_answer: bool = Field(
        False, description="Cut an assistant turn at the end (ShareGPT), in place of dropping the row."
    )
    num_prompts: int = Field(512, ge=1, description='Prompts to make; path "microworld" only.')
    harmful_fraction: float = Field(0.625, ge=0.0, le=1.0, description='Share of harmful ones; "microworld" only.')
    harmless_kind: Kind = Field("red_team", description='Kind of the harmless ones; "microworld" only.')
    microworld_seed: int | None = Field(None, description='Seed of the prompts; null: the run\'s. "microworld" only.')


_MICROWORLD_FIELDS = ("num_prompts", "harmful_fraction", "harmless_kind", "microworld_seed")


class PromptSourceConfig(SourceOptions):
    """One prompt set."""

    path: InputPath = Field(
        min_length=1,
        description='File, folder, glob, pyarrow URI, "hf://org/name[:config[:split]]", or "microworld".',
    )
    weight: float | None = Field(
        None, gt=0.0, description="Share in the mixture, any scale; null for every source: take all of each."
    )
    limit: int | None = Field(None, ge=1, description="Most prompts from this source: the first ones.")

    @property
    def source(self) -> str:
        """The name on the rows."""
        return self.name or _default_name(self.path)

    @model_validator(mode="after")
    def _microworld_only(self) -> PromptSourceConfig:
        if self.path != MICROWORLD:
            for key in _MICROWORLD_FIELDS:
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f'{key} is for path "{MICROWORLD}", not for {self.path!r}; remove it')
        return self


class Config(StageConfig, SourceOptions):
    """`path` and the options beside it for one prompt set, or `sources` for a mixture; neither: the micro world."""

    path: InputPath | None = Field(None, description="One prompt set, short for `sources` of one; see there.")
    sources: tuple[PromptSourceConfig, ...] = Field((), description="Several prompt sets, mixed by weight.")
    limit: int | None = Field(None, ge=1, description="Most prompts in all.")
    near_duplicate_jaccard: float | None = Field(
        None, gt=0.0, le=1.0, description="Drop prompts whose 5-word shingles overlap this much; null: keep them."
    )

    @field_validator("path")
    @classmethod
    def _not_blank(cls, path: str | None) -> str | None:
        if path is not None and not path.strip():
            raise ValueError("path is empty; name a file, a folder, a URI or hf://org/name")
        return path

    @model_validator(mode="after")
    def _one_way(self) -> Config:
        if self.sources:
            options = {"path": None} | {
                key: info.get_default(call_default_factory=True) for key, info in _OPTIONS.items()
            }
            clash = [key for key, default in options.items() if getattr(self, key) != default]
            if clash:
                raise ValueError(f"{', '.join(clash)} given beside sources; set it inside the source it is meant for")
        names = [source.source for source in self.all_sources()]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two sources are called {name!r}, and row ids need different ones; set `name`")
        weighted = [source.weight is not None for source in self.sources]
        if any(weighted) and not all(weighted):
            raise ValueError("some sources have a weight and some have none; give it to all or to none")
        return self

    def all_sources(self) -> tuple[PromptSourceConfig, ...]:
        """The sources, the short form spelt out."""
        if self.sources:
            return self.sources
        options = {key: getattr(self, key) for key in _OPTIONS}
        return (PromptSourceConfig(path=self.path or MICROWORLD, **options),)


_OPTIONS = SourceOptions.model_fields


def _default_name(path: str) -> str:
    """ "data/harmless-test.jsonl.gz" -> "harmless-test"; "data/*.csv" -> "data"; "hf://org/set:x" -> "org/set"."""
    if path.startswith("hf://"):
        return path.removeprefix("hf://").split(":")[0]
    parts = [part for part in PurePosixPath(path.split("://")[-1]).parts if not set(part) & set("*?[")]
    last = parts[-1] if parts else "prompts"
    return last.removesuffix(".gz").rsplit(".", 1)[0] or last
