"""Model answers that people have labelled: refusals and degrees of harm, from the package pyrit (MIT).

The wheel is not installed.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.real_model.weights import cached_wheel

PACKAGE = "pyrit==1.1.0"
WHEEL_SHA256 = "84581036bace7ff2aa92712e1e3f472a3a3bccc77567d5fbe642540c0ba20b0a"
ROOT = "pyrit/datasets/scorer_evals"
REFUSALS = ("refusal.csv", "refusal_extra.csv")


@dataclass(frozen=True)
class Labelled:
    """One answer: `refused` is 0 or 1, or `harm` in [0, 1] the mean of the people who judged it."""

    objective: str
    answer: str
    category: str
    refused: bool | None = None
    harm: float | None = None


def wheel() -> Path:
    return cached_wheel(PACKAGE, WHEEL_SHA256)


def refusals(file: Path) -> list[Labelled]:
    """Answers to requests of all kinds, each with "does it refuse?"."""
    return [
        Labelled(row["objective"], row["assistant_response"], name, refused=row["human_score"].strip() in ("1", "1.0"))
        for name in REFUSALS
        for row in rows(file, f"{ROOT}/refusal_scorer/{name}")
        if row["data_type"] == "text" and row["human_score"].strip()
    ]


def harms(file: Path) -> list[Labelled]:
    """Answers by category with "how harmful is it?". Files that repeat another one's answers are left out."""
    found: dict[tuple[str, str], Labelled] = {}
    with zipfile.ZipFile(file) as opened:
        names = sorted(n for n in opened.namelist() if n.startswith(f"{ROOT}/harm/") and n.endswith(".csv"))
    for name in names:
        for row in rows(file, name):
            scores = [float(v) for key, v in row.items() if key and key.startswith("human_score") and v and v.strip()]
            if row["data_type"] == "text" and scores:
                key = (row["objective"], row["assistant_response"])
                category = row["harm_category"].lower()
                found.setdefault(key, Labelled(*key, category, harm=sum(scores) / len(scores)))
    return list(found.values())


def rows(file: Path, name: str) -> Iterator[dict[str, str]]:
    """The rows of a CSV in the wheel, whose first lines are comments and whose encoding is not always UTF-8."""
    with zipfile.ZipFile(file) as opened:
        data = opened.read(name)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
    lines = text.splitlines(keepends=True)
    while lines and lines[0].startswith("#"):
        lines.pop(0)
    yield from csv.DictReader(io.StringIO("".join(lines)))
