"""What an input is: its content, whatever its time and place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs as arrow_fs

from cai_ray.artifacts import identity
from cai_ray.artifacts.identity import UNKNOWN, Input, changes, contents, file_identity, hub_commit
from cai_ray.errors import ConfigError
from tests.object_store import object_store

LOCAL = arrow_fs.LocalFileSystem()
MIB = 2**20


def of(path: Path) -> str:
    return file_identity(LOCAL, str(path))


@settings(deadline=None)
@given(before=st.binary(max_size=200), after=st.binary(max_size=200))
def test_a_file_is_its_content(tmp_path_factory: pytest.TempPathFactory, before: bytes, after: bytes) -> None:
    folder = tmp_path_factory.mktemp("f")
    (folder / "a.bin").write_bytes(before)
    (folder / "b.bin").write_bytes(after)
    assert (of(folder / "a.bin") == of(folder / "b.bin")) == (before == after)


def test_its_time_does_not_count_and_a_restored_time_hides_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("one")
    first, stamp = of(file), file.stat().st_mtime_ns
    os.utime(file, (1, 1))
    assert of(file) == first
    file.write_text("two")
    os.utime(file, ns=(stamp, stamp))
    assert of(file) != first


def test_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(identity, "digest", lambda _, path: read.append(path) or (0, "0" * 64))
    (tmp_path / "a.bin").write_bytes(b"1")
    assert of(tmp_path / "a.bin") == of(tmp_path / "a.bin")
    assert len(read) == 1


@pytest.mark.parametrize("place", [0, 33 * MIB, 64 * MIB])
def test_a_large_file_is_known_by_blocks_from_head_to_tail(tmp_path: Path, place: int) -> None:
    weights = tmp_path / "model.safetensors"
    with weights.open("wb") as stream:
        stream.truncate(64 * MIB + 2**16)
    first = of(weights)
    assert first.startswith(f"{64 * MIB + 2**16} bytes")
    with weights.open("r+b") as stream:
        stream.seek(place)
        stream.write(bytes([1]) * 2 * MIB if place == 33 * MIB else b"1")
        stream.truncate(64 * MIB + 2**16)
    assert of(weights) != first


def test_a_large_text_is_read_whole(tmp_path: Path) -> None:
    text = tmp_path / "prompts.jsonl"
    text.write_bytes(b"a" * (65 * MIB))
    first = of(text)
    with text.open("r+b") as stream:
        stream.seek(33 * MIB + 7)
        stream.write(b"b")
    assert of(text) != first


def test_of_five_gigabytes_of_weights_four_megabytes_are_read(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    with weights.open("wb") as stream:
        stream.truncate(5 * 2**30)
    assert of(weights).startswith(f"{5 * 2**30} bytes, sampled")
    assert identity.LOCAL_BLOCKS * identity.LOCAL_BLOCK_BYTES <= 4 * MIB


# --- What a path stands for ---------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("one", "two"):
        (folder / f"{name}.jsonl").write_text(f'{{"prompt": "{name}"}}\n')
    return folder


def names(path: str) -> list[str]:
    return list(contents(Input(path, "prompts")))


def test_names_are_paths_below_the_source(data: Path) -> None:
    both = ["one.jsonl (prompts)", "two.jsonl (prompts)"]
    assert names(str(data)) == names(f"{data}/*.jsonl") == names(data.as_uri()) == both
    assert names(str(data / "one.jsonl")) == names((data / "one.jsonl").as_uri()) == both[:1]
    assert names(f"{data.parent}/*/one.jsonl") == ["data/one.jsonl (prompts)"]


def test_every_way_to_name_a_file_gives_the_same_identity(data: Path) -> None:
    ways = [str(data), f"{data}/*.jsonl", data.as_uri()]
    assert len({tuple(contents(Input(way, "prompts")).items()) for way in ways}) == 1
    moved = data.rename(data.parent / "elsewhere")
    assert contents(Input(str(moved), "p")) == contents(Input(f"{moved}/*", "p"))


def test_a_saved_data_set_is_all_its_files(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_list([{"prompt": "x"}]).save_to_disk(str(tmp_path / "saved"))
    assert {name.split(" ")[0] for name in names(str(tmp_path / "saved"))} >= {"state.json", "dataset_info.json"}


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.jsonl does not exist"):
        names(str(tmp_path / "gone.jsonl"))


def test_a_packed_file_is_hashed_as_it_lies(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(b"no gzip at all")
    assert of(file).startswith("sha256")


# --- Stores and hubs ----------------------------------------------------------------------------------


def test_an_object_is_its_etag(data: Path) -> None:
    with object_store(data) as uri:
        source = Input(uri.format("one.jsonl"), "prompt set one")
        [(name, first)] = contents(source).items()
        assert name == "one.jsonl (prompt set one)"
        assert first.startswith("etag ")
        (data / "one.jsonl").write_text('{"prompt": "eno"}\n')
        [(_, second)] = contents(source).items()
        assert first != second


def test_a_store_without_etags_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    store = arrow_fs._MockFileSystem()

    def write(content: bytes) -> str:
        with store.open_output_stream("a") as stream:
            stream.write(content)
        return file_identity(store, "a")

    assert write(b"one") == write(b"one") != write(b"two")
    monkeypatch.setattr(identity, "SMALL_BYTES", 0)
    assert write(bytes(3 * MIB)).startswith(f"{3 * MIB} bytes")


def test_a_hub_repository_is_its_commit_or_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub_commit.cache_clear()
    assert hub_commit("org/name", "model", "a" * 40) == f"commit {'a' * 40}"
    assert hub_commit("org/name", "dataset", None) == UNKNOWN
    refs = tmp_path / "datasets--org--set" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("b" * 40)
    assert contents(Input("hf://org/set:config:test", "prompt set s")) == {
        "hf://org/set:config:test (prompt set s)": f"commit {'b' * 40}"
    }
    hub_commit.cache_clear()


# --- Comparing ----------------------------------------------------------------------------------------


def test_changes_name_the_file_and_what_changed() -> None:
    before = {"a.jsonl (prompts)": f"sha256 {'ab12' * 16}", "b (x)": "etag 1", "hf://s (x)": "commit 1"}
    now = {"a.jsonl (prompts)": f"sha256 {'cd34' * 16}", "c (x)": "etag 2", "hf://s (x)": UNKNOWN}
    assert changes(before, now) == [
        "a.jsonl (prompts): content changed (sha256 ab12ab12.. -> sha256 cd34cd34..)",
        "b (x): is no longer there (etag 1)",
        "c (x): was not there before (etag 2)",
    ]
    assert changes(before, now, {"b (x)": "other.yaml"})[1].startswith("other.yaml:")
    assert changes(before, before) == []
