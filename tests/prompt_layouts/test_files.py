"""Every format streams its records; one bad record is one bad record, a bad file is one clear message."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai_ray.dropped import DropReason
from cai_ray.errors import ConfigError
from cai_ray.prompt_layouts import files
from cai_ray.prompt_layouts.files import BadRecord, parse_hub_id, read_records

ROWS: list[dict[str, Any]] = [
    {"prompt": "Hi", "n": "1"},
    {"prompt": "NA", "n": ""},
    {"prompt": 'Té, "tea"\n?', "n": "3"},
]


def records(path: Path | str, format: Any = "auto") -> list[Any]:
    numbered = list(read_records(str(path), format))
    assert [number for number, _ in numbered] == list(range(len(numbered)))
    return [record.reason if isinstance(record, BadRecord) else record for _, record in numbered]


def write_csv(path: Path, delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "n"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)
    return path


def write_jsonl(path: Path, rows: list[Any] = ROWS) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_each_format_gives_the_same_records(tmp_path: Path) -> None:
    jsonl = write_jsonl(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(jsonl.read_bytes()))
    (tmp_path / "c.json").write_text(json.dumps(ROWS, indent=1))
    (tmp_path / "d.json").write_bytes(jsonl.read_bytes())  # a common misnomer
    write_csv(tmp_path / "e.csv")
    write_csv(tmp_path / "f.tsv", "\t")
    (tmp_path / "g.csv.gz").write_bytes(gzip.compress((tmp_path / "e.csv").read_bytes()))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "h.parquet", row_group_size=2)
    for file in sorted(tmp_path.iterdir()):
        assert records(file) == ROWS, file.name
        assert records(f"file://{file}") == ROWS, file.name
    assert records(tmp_path) == ROWS * 8
    assert records(f"file://{tmp_path}") == ROWS * 8
    assert records(f"{tmp_path}/*.json") == ROWS * 2
    jsonl.rename(tmp_path / "a.data")
    assert records(tmp_path / "a.data", "jsonl") == ROWS


def test_lines_of_text_and_json_strings_are_prompts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeffHi\n\n  Tea? \n")
    assert records(tmp_path / "a.txt") == [{"text": "Hi"}, {"text": "Tea?"}]
    assert records(write_jsonl(tmp_path / "a.jsonl", ["Hi"])) == [{"text": "Hi"}]


def test_a_bad_line_is_one_bad_record(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"prompt": "Hi"}',
        b"",
        b'{"prompt": "caf\xe9"}',
        b"{broken",
        b"12",
        b"[" * 100_000,
        b'{"prompt": "Tea?"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    not_utf8, malformed = DropReason.NOT_UTF8, DropReason.MALFORMED
    assert records(tmp_path / "a.jsonl") == [
        {"prompt": "Hi"},
        not_utf8,
        malformed,
        malformed,
        malformed,
        {"prompt": "Tea?"},
    ]


def test_records_on_one_line_are_each_counted(tmp_path: Path) -> None:
    lines = (
        '{"prompt": "Hi"}{"prompt": "Tea?"}',
        '{"prompt": "Hi"} "Tea?"',
        '{"prompt": "Hi"}{"prom',
        '{"prompt": "Hi"},',
    )
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    bad = DropReason.MALFORMED
    assert records(tmp_path / "a.jsonl") == [{"prompt": "Hi"}, {"prompt": "Tea?"}, bad, bad, bad]


def test_a_single_record_of_lists_is_no_table(tmp_path: Path) -> None:
    record = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Tea?"}]}
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    assert records(tmp_path / "a.jsonl") == [record]


def test_no_detail_holds_text_of_the_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": secret}\n')
    ((_, bad),) = read_records(str(tmp_path / "a.jsonl"))
    assert isinstance(bad, BadRecord)
    assert "secret" not in bad.detail


def test_a_bad_csv_row_is_one_bad_record(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'prompt,n\nHi,1\ntoo,many,cells\nfew\n"x"y,1\ncaf\xe9,1\n\nTea?,2\nHi,2\n')
    assert records(tmp_path / "a.csv") == [
        {"prompt": "Hi", "n": "1"},
        DropReason.MALFORMED,
        DropReason.MALFORMED,
        DropReason.MALFORMED,
        DropReason.NOT_UTF8,
        {"prompt": "Tea?", "n": "2"},
        {"prompt": "Hi", "n": "2"},
    ]


def test_a_long_cell_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt\n" + "x" * 300_000)
    assert len(records(tmp_path / "a.csv")[0]["prompt"]) == 300_000


def test_parquet_text_that_is_not_utf8_is_one_bad_record(tmp_path: Path) -> None:
    binary = pa.array([b"Hi", b"caf\xe9", b"Tea?"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, binary.buffers())
    pq.write_table(pa.table({"prompt": text}), tmp_path / "a.parquet")
    assert records(tmp_path / "a.parquet") == [{"prompt": "Hi"}, DropReason.NOT_UTF8, {"prompt": "Tea?"}]


@settings(max_examples=50)
@given(
    rows=st.lists(
        st.dictionaries(st.text(max_size=3), st.text(max_size=20) | st.integers() | st.lists(st.booleans(), max_size=2))
        | st.integers(-999, 999)
        | st.text(max_size=5),
        min_size=1,
        max_size=8,
    ),
    indent=st.none() | st.integers(0, 2),
    chunk=st.integers(1, 12),
)
def test_a_json_array_is_cut_right_wherever_the_chunks_end(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], indent: int | None, chunk: int
) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=False), encoding="utf-8", errors="surrogatepass")
    expected = [
        {"text": row} if isinstance(row, str) else row if isinstance(row, dict) else "malformed" for row in rows
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_CHUNK_BYTES", chunk)
        assert records(path) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "holds no records"),
        ("a.jsonl", b"\n \n", "holds no records"),
        ("a.json", b"[]", "holds no records"),
        ("a.json", b"", "holds no records"),
        ("a.json", b'[{"prompt": "Hi"}, {"pro', "cannot be read as json after 1 records: the array breaks off"),
        ("a.csv", b"prompt,n\n", "holds no records"),
        ("a.csv", b"n,n\n1,2\n", "names a column twice"),
        ("a.parquet", b"PAR1 not really", "cannot be read as parquet after 0 records"),
        ("a.jsonl.gz", b"no gzip", "cannot be read as jsonl after 0 records"),
        ("a.jsonl.gz", gzip.compress(b'{"prompt": "Hi"}\n' * 99, mtime=0)[:-9], "cannot be read as jsonl"),
        ("a.docx", b"x", "unknown suffix '.docx'"),
        ("a.csv", b"prompt;n\nHi;1\n", "its cells are parted by ';'; write commas"),
        ("a.csv", b"prompt\tn\nHi\t1\n", "its cells are parted by '\\t'; name it .tsv"),
        ("a.tsv", b"prompt,n\nHi,1\n", "its cells are parted by ','; name it .csv"),
        ("a.json", b'{"prompt": {"0": "Hi", "1": "Tea?"}}', "one JSON object of columns"),
        ("a.json", b'{"prompt": ["Hi", "Tea?"], "n": [1, 2]}', "one JSON object of columns"),
    ],
)
def test_a_bad_file_is_one_clear_message(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        records(tmp_path / name)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none.jsonl", "does not exist"),
        ("*.jsonl", "matches no file"),
        (".", "a folder without a readable file"),
        ("nowhere://x/y.jsonl", "not a path that pyarrow can open"),
        ("hf://", "not a hub id"),
        ("hf://a:b:c:d", "not a hub id"),
    ],
)
def test_nothing_there_is_one_clear_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        records(path)
    assert message in str(caught.value)


def test_files_that_are_no_data_are_left_out_of_a_folder(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "b.jsonl")
    (tmp_path / "README.md").write_text("About")
    (tmp_path / ".hidden.jsonl").write_text("x")
    (tmp_path / "_SUCCESS.json").write_text("x")
    assert records(tmp_path) == ROWS


def test_hub_ids() -> None:
    assert parse_hub_id("hf://org/set") == ("org/set", None, "train")
    assert parse_hub_id("hf://org/set:one:test") == ("org/set", "one", "test")
    assert parse_hub_id("hf://org/set::test") == ("org/set", None, "test")


@pytest.mark.slow
def test_datasets_folders_and_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    table = datasets.Dataset.from_list(ROWS)
    table.save_to_disk(tmp_path / "saved")
    assert records(tmp_path / "saved") == ROWS
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(tmp_path / "dict")
    assert records(tmp_path / "dict" / "test") == ROWS
    with pytest.raises(ConfigError, match=r"holds several splits; name one: .*/dict/test, .*/dict/train"):
        records(tmp_path / "dict")
    # The loader takes a local folder for a hub id, so the same code path runs without a network.
    (tmp_path / "hub").mkdir()
    write_jsonl(tmp_path / "hub" / "train.jsonl")
    assert records(f"hf://{tmp_path / 'hub'}") == ROWS
    with pytest.raises(ConfigError, match="cannot be loaded from the hub"):
        records(f"hf://{tmp_path / 'absent'}")
