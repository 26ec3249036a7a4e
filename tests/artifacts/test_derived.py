"""The pure pass: each unit ends once, whatever the outcomes, however they are cut into parts, and killed anywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai_ray.artifacts.artifact import Artifact, StageSpec, find, open_stage
from cai_ray.artifacts.derived import Outcome, batched, counted, derive, outcome, write_outcomes
from cai_ray.artifacts.storage import Storage
from cai_ray.dropped import DropReason, DropRow
from cai_ray.errors import ConservationError
from cai_ray.row_ids import RowIds

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string())])
FOLDERS = count()


class Killed(BaseException):
    """As a signal would."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return Storage(str(tmp_path_factory.mktemp("derived")))


def spec(root: Storage) -> StageSpec:
    """Of a folder that nothing was written to."""
    return StageSpec(root / str(next(FOLDERS)), "stage", "f", {}, {}, RowIds(("id",)))


def row(name: str) -> dict[str, Any]:
    return {"id": name, "text": f"text of {name}"}


def contents(artifact: Artifact) -> tuple[Any, ...]:
    """All that a reader can see of an artifact, but when it was made."""
    manifest = artifact.manifest.model_dump(exclude={"started_at", "finished_at", "duration_s", "attempts"})
    return manifest, list(artifact.rows()), list(artifact.dropped())


@st.composite
def some_outcomes(draw: st.DrawFn) -> list[Outcome]:
    names = draw(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=6), unique=True, max_size=12))
    found = []
    for name in names:
        drop = st.builds(DropRow, st.sampled_from(DropReason), st.text(max_size=5), st.integers(1, 9))
        counters = st.dictionaries(st.sampled_from(["tokens", "flag.x"]), st.integers(0, 9))
        found.append(Outcome(name, draw(st.one_of(st.just(row(name)), drop)), draw(counters)))
    return found


@settings(max_examples=60, deadline=None)
@given(outcomes=some_outcomes(), size=st.integers(1, 13), survives=st.integers(0, 13), other_size=st.integers(1, 13))
def test_every_unit_ends_once_and_a_killed_pass_leaves_no_trace(
    root: Storage, outcomes: list[Outcome], size: int, survives: int, other_size: int
) -> None:
    whole = derive(spec(root), batched(outcomes, size), SCHEMA)
    ends = [one["id"] for one in whole.rows()] + [one["row_id"] for one in whole.dropped()]
    assert sorted(ends) == sorted(one.row_id for one in outcomes)
    assert {one["id"]: one for one in whole.rows()} == {one.row_id: one.row for one in outcomes if one.drop is None}
    reasons = {one["row_id"]: (one["reason"], one["detail"], one["attempts"]) for one in whole.dropped()}
    drops = {one.row_id: one.drop for one in outcomes if one.drop is not None}
    assert reasons == {name: (drop.reason, drop.detail, drop.attempts) for name, drop in drops.items()}
    manifest = whole.manifest
    assert (manifest.rows_in, manifest.rows_out, manifest.num_dropped) == (
        len(outcomes),
        len(outcomes) - len(drops),
        len(drops),
    )
    assert manifest.rows_dropped == Counter(str(drop.reason) for drop in drops.values())
    summed: Counter[str] = Counter()
    for one in outcomes:
        summed.update(one.counters)
    assert manifest.counters == summed, "and what is counted as 0 is there too"

    def dies() -> Iterator[list[Outcome]]:
        for number, batch in enumerate(batched(outcomes, other_size)):
            if number == survives:
                raise Killed
            yield batch
        raise Killed

    killed = spec(root)
    with pytest.raises(Killed):
        derive(killed, dies(), SCHEMA)
    assert find(killed.folder) is None
    again = derive(killed, batched(outcomes, size), SCHEMA)
    assert contents(again) == contents(whole)
    files = {file.name for file in (*again.manifest.files, *again.manifest.dropped_files)}
    left = killed.folder.names("", ".parquet") + killed.folder.names("dropped", ".parquet")
    assert set(left) == files, "nothing of the killed attempt lies about"


def test_a_finished_artifact_asks_for_no_outcome(root: Storage) -> None:
    where = spec(root)
    made = derive(where, batched([Outcome("a", row("a"))]), SCHEMA)

    def never() -> Iterator[list[Outcome]]:
        raise AssertionError("asked")
        yield []

    assert derive(where, never(), SCHEMA) == made


@pytest.mark.parametrize(
    ("names", "units", "problem"),
    [
        (["a"], ["a", "b"], "1 input ids came out nowhere"),
        (["a", "b"], ["a"], "1 ids came out that never went in"),
        (["a", "b", "a"], None, "1 ids repeat in the input"),
    ],
)
def test_what_does_not_add_up_is_not_committed(
    root: Storage, names: list[str], units: list[str] | None, problem: str
) -> None:
    where = spec(root)
    with pytest.raises(ConservationError, match=problem):
        derive(where, batched((Outcome(name, row(name)) for name in names), 2), SCHEMA, units)
    assert find(where.folder) is None


def test_what_a_pass_wrote_can_be_asked(root: Storage) -> None:
    opened = open_stage(spec(root))
    assert not isinstance(opened, Artifact)
    lost = Outcome("b", DropRow(DropReason.TIE, "why"), {"tokens": 2})
    written = write_outcomes(opened, [[Outcome("a", row("a"), {"tokens": 1})], [], [lost]], SCHEMA)
    assert sorted(written.row_ids) == ["a", "b"]
    assert [part.num_rows for part in written.parts] == [1, 0]
    assert (written.counters, written.gone_by_reason) == ({"tokens": 3}, {"tie": 1})


def test_an_outcome_is_a_row_or_why_there_is_none() -> None:
    def fails() -> dict[str, Any]:
        raise DropRow(DropReason.EMPTY, "no text")

    made, lost = outcome("a", lambda: row("a")), outcome("b", fails)
    assert (made.row, made.drop) == (row("a"), None)
    assert lost.drop is not None and lost.drop.reason == "empty"
    with pytest.raises(DropRow, match="no text"):
        lost.row  # noqa: B018


def test_counters_of_what_all_outcomes_are_made_from_count_once() -> None:
    ends = [Outcome(name, row(name), {"flag.x": 0}) for name in "ab"]
    assert [dict(one.counters) for one in counted(ends, {"tokens": 7, "cached": 0})] == [
        {"flag.x": 0, "tokens": 7, "cached": 0},
        {"flag.x": 0},
    ]
    assert list(counted([], {"tokens": 7})) == []
