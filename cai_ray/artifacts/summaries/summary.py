"""`summary.json`, beside a stage's manifest: how it is written, read, and made where it is missing.

A field with a default is one that not every run of the stage has; it is left out of the file while it has that value.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar

from pydantic import Field, ValidationError

from cai_ray.artifacts.artifact import SUMMARY, Artifact
from cai_ray.artifacts.storage import Storage
from cai_ray.config import Config
from cai_ray.errors import ConfigError


class Summary(Config):
    """Base of every stage's summary."""


class RowsSummary(Summary):
    """The summary of a stage that has rows in and rows out, as its manifest counts them."""

    rows_in: int = Field(description="Units of work that the stage was given, >= 0.")
    rows_out: int = Field(description="Rows that came out, >= 0.")
    rows_dropped: dict[str, int] = Field(description="Reason -> units that were dropped for it, >= 1.")
    rows_left_out: dict[str, int] = Field(
        {}, description="Reason -> units that the recipe leaves out for it, >= 1; they are not dropped."
    )


Made = TypeVar("Made", bound=Summary)


def write(folder: Storage, summary: Summary) -> None:
    """Write it whole or not at all."""
    plain = summary.model_dump(exclude_defaults=True)  # and not JSON by pydantic, which makes null of NaN
    if isinstance(summary, RowsSummary):
        plain["rows_left_out"] = summary.rows_left_out  # has a default for files of older versions; always told now
    folder.write(SUMMARY, json.dumps(plain, indent=2).encode())


def read(folder: Storage, kind: type[Made]) -> Made:
    """The summary in a stage's folder. Raises ValidationError where the file holds no such summary."""
    return kind.model_validate_json(folder.read(SUMMARY))


def summary_of(artifact: Artifact, kind: type[Made], summarise: Callable[[Artifact], Made]) -> Made:
    """The stage's summary; where a crash came between the manifest and it, `summarise` makes it now.

    Raises ConfigError when there is a file that cannot be read.
    """
    if not artifact.folder.exists(SUMMARY):
        write(artifact.folder, summarise(artifact))
    try:
        return read(artifact.folder, kind)
    except ValidationError as error:
        raise ConfigError(
            f"{artifact.folder.shown}/{SUMMARY} cannot be read: {first_mistake(error)}. Delete the file; the next "
            "run writes it anew from the stage's rows"
        ) from error


def first_mistake(error: ValidationError) -> str:
    """ "harmful_rate.0.low: Field required", at most 200 characters: the first thing that is wrong with a file."""
    found = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, found["loc"]))
    return f"{where}: {found['msg']}"[:200] if where else found["msg"][:200]
