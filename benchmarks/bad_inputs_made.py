"""Bad inputs, made by chance from good ones: recipes, constitutions, prompt files, replies of a server."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from random import Random
from typing import Any

import yaml

STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 10**30, 1e308, float("nan"), float("inf"), "", " ", "null", "no/such/file.yaml",
    "s3://bucket/key", "hf://", "http://127.0.0.1:9/v1", "\u0000", "\ud800", "é" * 300, "{{ x }}", "[INST]", [], {},
    [None], [[]], {"a": {"b": []}}, [1, "two", {"three": 3}], {"path": "microworld"}, {1: 2}, "2026-11-27",
)  # fmt: skip
MARKS = (
    "\t",
    ":",
    "- ",
    "&a ",
    "*a",
    "&b [*b]",
    "2026-13-45",
    "2026-11-27: ",
    "? [a] : ",
    '"\\ud800"',
    "[" * 2000,
    "9" * 5000,
    "!!python/object:os.system ",
    "|",
    ">",
    "#",
    '"',
    "'",
    "{",
    "]",
    "%",
    "\x00",
    "\r",
)
Damage = Callable[[Random, bytes], bytes]

# ------------------------------------------------------------------------------------------------------- YAML files


def damaged_yaml(rng: Random, text: str) -> bytes:
    """A YAML file with one to three mistakes in its tree, its text or its bytes."""
    if rng.random() < 0.6:
        tree = yaml.safe_load(text)
        for _ in range(rng.randint(1, 3)):
            tree = _changed(rng, tree)
        try:
            return yaml.safe_dump(tree, allow_unicode=True, sort_keys=False).encode("utf-8", "surrogatepass")
        except (yaml.YAMLError, RecursionError):
            pass  # a tree that YAML cannot write; the text is damaged in its place
    if rng.random() < 0.6:
        lines = text.splitlines()
        for _ in range(rng.randint(1, 3)):
            _damage_line(rng, lines)
        return "\n".join(lines).encode()
    return rng.choice(BYTES)(rng, text.encode())


def _damage_line(rng: Random, lines: list[str]) -> None:
    at = rng.randrange(len(lines)) if lines else 0
    line = lines[at] if lines else ""
    column = rng.randint(0, len(line))
    made = rng.choice(
        (
            [],
            [line, line],
            ["  " + line],
            [line.lstrip()],
            [line[:column] + rng.choice(MARKS) + line[column:]],
            [line[:column]],
            [f"{line.partition(':')[0]}: {rng.choice(MARKS)}"],
        )
    )
    lines[at : at + 1] = made


def _changed(rng: Random, tree: Any) -> Any:
    """The tree with one place of it replaced, removed, renamed, or given something beside it."""
    if rng.random() < 0.02:
        return rng.choice(STRANGE)
    places = list(_places(tree))
    if not places:
        return rng.choice(STRANGE)
    holder, key = rng.choice(places)
    what = rng.choice(("replace", "replace", "remove", "rename", "add", "wrap"))
    if what == "replace":
        holder[key] = deepcopy(rng.choice(STRANGE))
    elif what == "wrap":
        holder[key] = rng.choice(([holder[key]], {"value": holder[key]}))
    elif what == "add" and isinstance(holder, dict):
        other, name = rng.choice(places)
        holder[str(name)] = deepcopy(other[name])
    elif what == "rename" and isinstance(holder, dict):
        holder[str(key)[:-1] or "x"] = holder.pop(key)
    else:
        del holder[key]
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """(holder, key) of every value in the tree."""
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        holder = waiting.pop()
        if isinstance(holder, dict | list):
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            found += [(holder, key) for key in keys]
            waiting += [holder[key] for key in keys]
    return found


# ------------------------------------------------------------------------------------------------------------ bytes


def _cut(rng: Random, data: bytes) -> bytes:
    return data[: rng.randint(0, len(data))]


def _flipped(rng: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _inserted(rng: Random, data: bytes) -> bytes:
    at = rng.randint(0, len(data))
    piece = rng.choice(
        (b'"', b"'", b"\x00", b"\xff\xfe", b"\n\n", b"\r", b"\\", b"{", b"]", b",", b"\xed\xa0\x80", b"\t")
    )
    return data[:at] + piece + data[at:]


BYTES: tuple[Damage, ...] = (
    _cut,
    _flipped,
    _inserted,
    lambda rng, data: data.decode("utf-8", "replace").encode("utf-16"),
    lambda rng, data: data.decode("utf-8", "replace").encode("latin-1", "replace"),
    lambda rng, data: gzip.compress(data),
    lambda rng, data: b"\xef\xbb\xbf" + data,
    lambda rng, data: data.replace(b"\n", b"\r\n"),
    lambda rng, data: b"",
)

# ----------------------------------------------------------------------------------------------------- prompt files

LAYOUTS: tuple[Callable[[str], dict[str, Any]], ...] = (
    lambda text: {"prompt": text},
    lambda text: {"text": text, "category": "tools", "id": text},
    lambda text: {"goal": text, "target": "Sure"},
    lambda text: {"Behavior": text, "SemanticCategory": "x", "FunctionalCategory": "standard", "BehaviorID": text},
    lambda text: {"transcript": f"\n\nHuman: {text}\n\nAssistant: Yes.\n\nHuman: And then?"},
)
NESTED: tuple[Callable[[str], dict[str, Any]], ...] = (
    lambda text: {"messages": [{"role": "user", "content": text}]},
    lambda text: {"conversations": [{"from": "human", "value": text}]},
)
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet", ".jsonl.gz", ".csv.gz")


@dataclass(frozen=True)
class PromptFile:
    """A file of prompts. `num_records`: how many records any reader must count in it; None: damage hides it."""

    suffix: str
    data: bytes
    num_records: int | None


def prompt_file(rng: Random) -> PromptFile:
    """A file of up to 30 records in any format; four in five have strange values or damage."""
    suffix = rng.choice(SUFFIXES)
    format = suffix.removesuffix(".gz")
    layout = rng.choice(LAYOUTS if format in (".csv", ".tsv") else (*LAYOUTS, *NESTED))
    records = [layout(f"How do I mend chair number {number}?") for number in range(rng.randint(1, 30))]
    if format != ".parquet" and rng.random() < 0.5:
        for _ in range(rng.randint(1, 4)):
            record = rng.choice(records)
            record[rng.choice(list(record))] = rng.choice(STRANGE)
    data = _WRITERS[format](records)
    num_records: int | None = len(records)
    if rng.random() < 0.6:
        data, num_records = rng.choice(BYTES)(rng, data), None
        if format in (".jsonl", ".txt"):  # there a record is a line that is not blank, whatever is in it
            num_records = sum(bool(line.strip()) for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"))
    if suffix.endswith(".gz"):
        data = gzip.compress(data)
        if rng.random() < 0.2:
            data, num_records = _cut(rng, data), None
    elif rng.random() < 0.1:
        suffix, num_records = rng.choice(SUFFIXES), None  # not what its name says
    return PromptFile(suffix, data, num_records)


def _json_lines(records: list[dict[str, Any]]) -> bytes:
    return "\n".join(json.dumps(record) for record in records).encode()


def _json_array(records: list[dict[str, Any]]) -> bytes:
    return json.dumps(records).encode()


def _text_lines(records: list[dict[str, Any]]) -> bytes:
    return "\n".join(f"Line {number}: {json.dumps(record)}" for number, record in enumerate(records)).encode()


def _table(delimiter: str) -> Callable[[list[dict[str, Any]]], bytes]:
    def write(records: list[dict[str, Any]]) -> bytes:
        text = io.StringIO()
        table = csv.DictWriter(text, list(records[0]), delimiter=delimiter, lineterminator="\n")
        table.writeheader()
        table.writerows(records)
        return text.getvalue().encode("utf-8", "surrogatepass")

    return write


def _parquet(records: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(records), sink)
    return bytes(sink.getvalue())


_WRITERS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    ".jsonl": _json_lines,
    ".json": _json_array,
    ".txt": _text_lines,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".parquet": _parquet,
}

# ---------------------------------------------------------------------------------------------------------- replies


@dataclass(frozen=True)
class ServerReply:
    """What a server answers."""

    status: int
    content_type: str
    body: bytes


def good_reply() -> dict[str, Any]:
    """A chat completion with log-probabilities."""
    top = [{"token": token, "logprob": -1.0, "bytes": None} for token in ("A", "B")]
    message = {"role": "assistant", "content": "Glue it.", "reasoning_content": None}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": {"content": [{"token": "A", "logprob": -1.0, "bytes": None, "top_logprobs": top}]},
        "finish_reason": "stop",
    }
    usage = {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    reply: dict[str, Any] = {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    }
    return reply


def server_reply(rng: Random) -> ServerReply:
    """A good reply made wrong in some places, or no such thing."""
    reply: Any = good_reply()
    for _ in range(rng.randint(0, 3)):
        reply = _changed(rng, reply)
    body = json.dumps(reply, default=str).encode()
    if rng.random() < 0.02:
        body = body[:-1] + b', "more": "' + b"x" * 2_000_000 + b'"}'
    if rng.random() < 0.25:
        body = rng.choice(BYTES)(rng, body)
    status = rng.choice((200, 200, 200, 200, 200, 200, 201, 204, 400, 401, 403, 404, 413, 422, 429, 500, 502, 503))
    kind = rng.choice(("application/json",) * 6 + ("text/html", "", "application/json; charset=utf-16"))
    return ServerReply(status, kind, body)
