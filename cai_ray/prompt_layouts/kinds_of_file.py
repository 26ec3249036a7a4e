"""What a file is, by its first bytes, whatever its name says.

Tested in tests/prompt_layouts/test_files.py.
"""

from __future__ import annotations

import codecs

HEAD_BYTES = 512
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PAR1", "a Parquet file; name it .parquet or set format: parquet"),
    (b"\x1f\x8b", "compressed by gzip; name it .gz"),
    (b"PK\x03\x04", "a ZIP archive (a spreadsheet is one, too); unpack it, or save it as CSV"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd; unpack it"),
    (b"BZh", "compressed by bzip2; unpack it"),
    (b"\xfd7zXZ\x00", "compressed by xz; unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
    (b"ARROW1", "an Arrow file; save it as Parquet"),
    (b"\xff\xff\xff\xff", "an Arrow stream; save it as Parquet"),
    (b"Obj\x01", "an Avro file; save it as Parquet"),
    (b"ORC", "an ORC file; save it as Parquet"),
    (b"SQLite format 3\x00", "an SQLite data base; export its table"),
    (b"\x89HDF\r\n", "an HDF5 file; save it as Parquet"),
    (b"\x80\x02", "a Python pickle; save it as JSONL"),
    (b"\x80\x04", "a Python pickle; save it as JSONL"),
    (b"\x80\x05", "a Python pickle; save it as JSONL"),
    (b"%PDF", "a PDF; save its text"),
    (b"\xd0\xcf\x11\xe0", "an old office document; save it as CSV"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (codecs.BOM_UTF32_LE, "text in UTF-32; write it in UTF-8"),
    (codecs.BOM_UTF16_LE, "text in UTF-16; write it in UTF-8"),
    (codecs.BOM_UTF16_BE, "text in UTF-16; write it in UTF-8"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file; run `git lfs pull`"),
)
_TEXT_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"<!doctype html", "an HTML page (a failed download?); fetch the file again"),
    (b"<html", "an HTML page (a failed download?); fetch the file again"),
    (b"<?xml", "an XML document; save its records as JSONL"),
)


def foreign_kind(head: bytes) -> str | None:
    """What a file that begins with `head` is, and what to do; None where it may be text in UTF-8."""
    if head[512 - 255 : 512 - 250] == b"ustar":
        return "a tar archive; unpack it"
    for magic, what in _MAGIC:
        if head.startswith(magic):
            return what
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()[:32].lower()
    for magic, what in _TEXT_MAGIC:
        if start.startswith(magic):
            return what
    if len(head) >= 8 and (not any(head[1:64:2]) or not any(head[0:64:2])):
        return "text in UTF-16 without a mark; write it in UTF-8"
    return None
