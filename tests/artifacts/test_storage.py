"""Locations: what is appended to a URI goes to its path, and what is shown of it holds no keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.artifacts.storage import TEMPORARY_PREFIX, Storage, appended, name_of, shown
from cai_ray.errors import ConfigError
from tests.artifacts.stage_folders import ids, open_, opened, part

NAMES = st.text("abcxyz019-_.", min_size=1, max_size=12)


@given(st.lists(NAMES, min_size=1, max_size=4), st.sampled_from(["", "?endpoint_override=127.0.0.1:9&scheme=http"]))
def test_a_query_stays_behind_what_is_appended(names: list[str], query: str) -> None:
    storage = Storage(f"s3://bucket/runs{query}")
    for name in names:
        storage /= name
    assert storage.location == f"s3://bucket/runs/{'/'.join(names)}{query}"


def test_18_an_endpoint_in_the_query_is_no_part_of_the_path() -> None:
    folder = Storage("s3://bucket/runs?endpoint_override=127.0.0.1:9&scheme=http&region=x") / "my-run" / "revise"
    assert folder.path("manifest.json") == "bucket/runs/my-run/revise/manifest.json"
    assert folder.shown == "s3://bucket/runs/my-run/revise"


def test_18_stages_of_a_local_uri_with_a_query_lie_apart(tmp_path: Path) -> None:
    run = Storage(f"file://{tmp_path}/runs?x=1")
    for stage in ("revise", "evaluate"):
        (run / stage).make()
        (run / stage).write("manifest.json", stage.encode())
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["evaluate", "revise"]
    assert (run / "revise").read("manifest.json") == b"revise"


@pytest.mark.parametrize("location", ["runs", "/a/b?c", "runs/what?"])
def test_a_question_mark_in_a_local_path_is_a_letter(location: str) -> None:
    assert appended(location, "x") == f"{location}/x"
    assert shown(location) == location


def test_keys_are_not_shown() -> None:
    location = "s3://key:secret@bucket/runs?scheme=http&secret_key=hush"
    assert shown(location) == "s3://bucket/runs"
    assert name_of(f"{location}&sig=a/b") == "runs"


def test_writes_are_whole_and_leave_nothing_behind(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "a folder"))
    storage.make()
    storage.write("sub/x.json", b"1")
    storage.write("sub/x.json", b"2")
    assert storage.read("sub/x.json") == b"2"
    assert storage.names("sub") == ["sub/x.json"]
    assert [path.name for path in (tmp_path / "a folder").rglob("*") if path.name.startswith(".tmp")] == []
    storage.delete("sub/x.json")
    storage.delete("sub/x.json")
    assert not storage.exists("sub/x.json")


def test_an_unwritable_output_is_one_clear_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        open_(Storage(str(tmp_path / "file" / "run")))
    with pytest.raises(ConfigError, match="not a location"):
        open_(Storage("nosuch://bucket/run"))


def test_it_works_on_a_pyarrow_uri(tmp_path: Path) -> None:
    folder = Storage(f"file://{tmp_path}/run") / "revise"
    stage = opened(folder)
    part(folder, ["a"])
    assert stage.commit(ids("a")).manifest.rows_out == 1
    assert (tmp_path / "run" / "revise" / "manifest.json").exists()


def test_what_a_killed_writer_left_is_no_file_and_can_be_swept_away(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path))
    folder.write("a/kept.txt", b"whole")
    (tmp_path / "a" / f"{TEMPORARY_PREFIX}half").write_bytes(b"ha")
    assert folder.names("a") == ["a/kept.txt"] and folder.folders() == ["a"]
    folder.sweep_temporary("a")
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["kept.txt"]
