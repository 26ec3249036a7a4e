"""Every record of a file is in exactly one count, or the file is refused with one message that says what it is."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cai_ray.errors import ConfigError
from cai_ray.prompt_layouts.files import BadRecord, read_records
from tests.field.load_prompts_runs import load_prompts, manifest_of, write_recipe

NUM = 60


def table(broken: dict[int, str], delimiter: str = ",") -> str:
    """A header and NUM records; `broken`: what stands in a record's second cell instead."""
    rows = [f"{k}{delimiter}{broken.get(k, f'Which hat suits day {k}?')}\n" for k in range(NUM)]
    return f"id{delimiter}prompt\n" + "".join(rows)


QUOTES = {
    "never closed": ({10: '"Which hat suits day 10?'}, "a quote opened on line 12 is never closed"),
    "opened late": ({49: '"Which hat suits day 49?'}, "a quote opened on line 51 is never closed"),
    "the last record": ({59: '"Which hat suits day 59?'}, "a quote opened on line 61 is never closed"),
    "met by a quoted cell": ({10: '"Which hat?', 30: '"Which hat suits day 30?"'}, "line 12 spans 21 lines"),
    "closed later": ({10: '"Which hat?', 30: 'Which hat suits day 30?"'}, "line 12 spans 21 lines"),
    "closed on the next line": ({10: '"Which hat?', 11: 'Which coat?"'}, "line 12 spans 2 lines"),
}


@pytest.mark.parametrize("case", QUOTES)
@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tsv", "\t"), ("csv.gz", ",")])
def test_a_quote_that_takes_records_with_it_is_one_message(
    case: str, suffix: str, delimiter: str, tmp_path: Path
) -> None:
    broken, message = QUOTES[case]
    content = table(broken, delimiter).encode()
    file = tmp_path / f"hats.{suffix}"
    file.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    code, output = load_prompts(write_recipe(tmp_path, {"path": str(file)}))
    assert code == 2 and message in " ".join(output.split()), output


def test_a_stray_quote_on_its_own_line_is_one_dropped_record(tmp_path: Path) -> None:
    broken = {3: '"Which "hat" today?"', 9: 'Which 5" hat?', 12: '"Two\nlines, even three,\nare one cell"'}
    (tmp_path / "hats.csv").write_text(table(broken))
    assert load_prompts(write_recipe(tmp_path, {"path": "hats.csv"}))[0] == 0
    manifest = manifest_of(tmp_path)
    assert (manifest.rows_in, manifest.rows_out, manifest.rows_dropped) == (NUM, NUM - 1, {"malformed": 1})


def parquet(rows: int = 3) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"prompt": [f"Which hat {k}?" for k in range(rows)]}), sink)
    return sink.getvalue()


def zipped() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("hats.csv", "prompt\nWhich hat?\n")
    return sink.getvalue()


LINES = b'{"prompt": "Which hat?"}\n{"prompt": "Which coat?"}\n'
ARRAY = b'[{"prompt": "Which hat?"}, {"prompt": "Which coat?"}]'
FOREIGN: list[tuple[str, bytes, str]] = [
    ("a.csv", parquet(), "Parquet"),
    ("a.jsonl", parquet(), "Parquet"),
    ("a.jsonl", gzip.compress(LINES, mtime=0), "gzip"),
    ("a.parquet", gzip.compress(LINES, mtime=0), "gzip"),
    ("a.csv", zipped(), "ZIP"),
    ("a.jsonl", bz2.compress(LINES), "bzip2"),
    ("a.jsonl", b"<!DOCTYPE html>\n<html>\nNot found\n</html>\n", "HTML"),
    ("a.csv", b"\n<html><body>Sign in</body></html>", "HTML"),
    ("a.json", b"<?xml version='1.0'?><a/>", "XML"),
    ("a.jsonl", LINES.decode().encode("utf-16"), "UTF-16"),
    ("a.csv", "prompt\nWhich hat?\n".encode("utf-16-le"), "UTF-16"),
    ("a.tsv", "prompt\nWhich hat?\n".encode("utf-16-be"), "UTF-16"),
    ("a.jsonl.gz", gzip.compress(parquet(), mtime=0), "Parquet"),
    ("a.jsonl.gz", LINES, "gzip"),
    ("a.csv.gz", gzip.compress(b"prompt\nWhich hat?\n" * 999, mtime=0)[:-20], "cannot be read"),
    ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "LFS"),
    ("a.parquet", LINES, "first bytes"),
    ("a.parquet", parquet()[:-30], "cannot be read"),
    ("a.jsonl", ARRAY, "JSON array"),
    ("a.jsonl", ARRAY.replace(b", {", b",\n{"), "JSON array"),
    ("a.jsonl", ARRAY.replace(b"[{", b"[\n{"), "JSON array"),
    ("a.json", b'{\n  "prompt": "Which hat?"\n}\n', "several lines"),
    ("a.json", ARRAY + b"\n" + ARRAY, "behind the closing bracket"),
    ("a.json", ARRAY[:-1], "breaks off"),
    ("a.jsonl", LINES.replace(b"\n", b"\r"), "CR alone"),
    ("a.txt", b"Which hat?\rWhich coat?\r", "CR alone"),
    ("a.csv", b"", "no records"),
]


@pytest.mark.parametrize(("name", "content", "what"), FOREIGN)
def test_a_file_that_is_not_what_its_name_says_is_one_message(
    name: str, content: bytes, what: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=what) as caught:
        list(read_records(str(tmp_path / name)))
    assert name in str(caught.value) and "\n" not in str(caught.value)


# --- Files that are written, damaged and counted -------------------------------------------------------------------

Row = dict[str, str]


def as_table(delimiter: str) -> Callable[[list[Row]], bytes]:
    def write(rows: list[Row]) -> bytes:
        text = io.StringIO()
        writer = csv.DictWriter(text, ["id", "prompt"], delimiter=delimiter, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()

    return write


def as_lines(rows: list[Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_array(rows: list[Row]) -> bytes:
    return json.dumps(rows, ensure_ascii=False).encode()


def as_parquet(rows: list[Row]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


WRITERS = {"csv": as_table(","), "tsv": as_table("\t"), "jsonl": as_lines, "json": as_array, "parquet": as_parquet}
# What a record's text is: no line ends, so that a damaged file's lines still say how many records it has.
TEXTS = st.text(st.sampled_from("abc ,;\t'\u00e9\u4e2d{}[]:"), min_size=1, max_size=12)


def replaced(content: bytes, position: int, cut: int, put: bytes) -> bytes:
    return content[:position] + put + content[position + cut :]


@settings(max_examples=400, deadline=None)
@example(  # closed behind the number of a later record
    texts=[":"] * 3, suffix="csv", is_compressed=False, damages=[(0.0, b'"'), (0.75, b'"')], end=b"\n"
)
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=12),
    suffix=st.sampled_from(sorted(WRITERS)),
    is_compressed=st.booleans(),
    damages=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.sampled_from([b'"', b'""', b"\xff", b"\0", b"{", b"]", b"x"])),
        max_size=2,
    ),
    end=st.sampled_from([b"\n", b"\r\n"]),
)
def test_records_written_are_read_or_bad_or_the_file_is_refused(
    texts: list[str], suffix: str, is_compressed: bool, damages: list[tuple[float, bytes]], end: bytes
) -> None:
    rows = [{"id": str(number), "prompt": f"q{text}"} for number, text in enumerate(texts)]
    content = WRITERS[suffix](rows)
    if suffix == "jsonl":
        content = content.replace(b"\n", end)
    head = content.index(b"\n") + 1 if suffix in ("csv", "tsv") else 0
    for where, put in damages:
        content = replaced(content, head + int(where * (len(content) - head)), 0, put)
    counted = read_back(content, suffix, is_compressed)
    assert counted is None or counted == len(rows)
    if not damages:
        assert counted == len(rows)


@settings(max_examples=150, deadline=None)
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=12),
    suffix=st.sampled_from(["parquet", "json", "csv.gz", "jsonl.gz"]),
    share=st.floats(0, 0.999),
)
def test_a_file_that_breaks_off_is_refused(texts: list[str], suffix: str, share: float) -> None:
    rows = [{"id": str(number), "prompt": f"q{text}"} for number, text in enumerate(texts)]
    content = WRITERS[suffix.removesuffix(".gz")](rows)
    content = gzip.compress(content) if suffix.endswith(".gz") else content
    assert read_back(content[: int(share * len(content))], suffix, False) is None


def read_back(content: bytes, suffix: str, is_compressed: bool) -> int | None:
    """How many records were read, bad ones too; None where the file was refused."""
    with tempfile.TemporaryDirectory() as folder:
        zips = is_compressed and suffix != "parquet"
        file = Path(folder) / (f"a.{suffix}.gz" if zips else f"a.{suffix}")
        file.write_bytes(gzip.compress(content) if zips else content)
        try:
            found: list[Any] = [record for _, record in read_records(str(file))]
        except ConfigError:
            return None
    assert all(isinstance(record, dict | BadRecord) for record in found)
    return len(found)
