"""A step of a run: what a stage says of itself, so that a run can check it, fingerprint it and start it.

Each stage's file ends with the function that makes its step. Tested in tests/pipeline/test_steps.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.identity import Input
from cai_ray.artifacts.storage import Storage
from cai_ray.artifacts.summaries.summary import Made, summary_of
from cai_ray.config import StageConfig
from cai_ray.row_ids import RowIds
from cai_ray.stages.context import MODEL_FOLDER, Context


@dataclass(frozen=True)
class Step:
    """One stage of a run.

    Attributes:
        asks: models it samples or scores with.
        scores_with: classifiers and embedders: models that need no prompt format.
        trains: the model it starts from; `makes`: the name of the one it trains.
        makes_besides: names of further models it makes of that -> their folders inside its own.
        reads: stages whose artifacts it takes.
        identity: of input from outside the run, as the fingerprint knows it.
        files: the same input, to be recorded by its content.
        is_view: shows other stages and is made anew whenever they are, so that it is never refused.
        exports: name of the folder -> what writes it, beside the stages, for other tools.
        minds_time: a training that ends by itself, between two steps, when its allowance's time is up.
        summary: shown at the end; writes what is missing of the stage's summary.
        units: how its rows are told apart, where dropped ones can be asked again.
        leaves_unasked: what it leaves out was never tried, and so is no part of what dropped rows are a share of.
        why_dropped: what so many dropped rows have in common, for a person; "" where that says nothing.
    """

    stage: str
    config: StageConfig
    run: Callable[[Context], Artifact]
    asks: tuple[str, ...] = ()
    scores_with: tuple[str, ...] = ()
    trains: str | None = None
    makes: str | None = None
    makes_besides: Mapping[str, str] = field(default_factory=dict)
    reads: tuple[str, ...] = ()
    needs_constitution: bool = False
    identity: Callable[[], dict[str, Any]] = dict
    files: Callable[[], list[Input]] = list
    is_view: bool = False
    minds_time: bool = False
    exports: Mapping[str, Callable[[Artifact, Storage], object]] = field(default_factory=dict)
    summary: Callable[[Artifact], Table | None] | None = None
    units: RowIds | None = None
    leaves_unasked: bool = False
    why_dropped: Callable[[Artifact], str] = lambda artifact: ""

    @property
    def made(self) -> dict[str, str]:
        """Every model that it makes -> its folder inside the step's own."""
        return ({self.makes: MODEL_FOLDER} if self.makes else {}) | dict(self.makes_besides)

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that must be there before this step."""
        return (*self.asks, *self.scores_with, *((self.trains,) if self.trains else ()))


def shown(
    kind: type[Made], summarise: Callable[[Artifact], Made], table: Callable[[Made], Table | None]
) -> Callable[[Artifact], Table | None]:
    """A step's `summary`: what it is, what makes it from the stage's rows, and what makes it a table."""
    return lambda artifact: table(summary_of(artifact, kind, summarise))
