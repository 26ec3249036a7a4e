"""Licences: which permit to pass rows on, and what a person is told of those that do not."""

from __future__ import annotations

import pytest

from cai_ray.publishing.licences import permits, refusal, spelt


@pytest.mark.parametrize(
    ("licence", "may"),
    [
        *[(name, True) for name in ("MIT", "MIT License", "Apache 2.0", "cc-by-4.0", "CC BY-SA 4.0", "cc-by-nc-4.0")],
        *[(name, True) for name in ("cc0-1.0", "odc-by", "gpl-3.0", "bsd-3-clause", "mit + cc-by-4.0")],
        *[(name, False) for name in ("cc-by-nd-4.0", "cc-by-nc-nd-4.0", "other", "llama3.1", "gemma", "proprietary")],
        *[(name, False) for name in ("", "mit + cc-by-nd-4.0", "mitre", "unknown")],
    ],
)
def test_what_permits_it(licence: str, may: bool) -> None:
    assert permits(licence) is may


def test_spelling() -> None:
    assert spelt(" Apache 2.0 License ") == "apache-2.0"


def test_a_refusal_names_source_rows_licence_and_what_to_do() -> None:
    counts = {"good": 3, "bad": 1200, "what": 5}
    told = refusal(counts, {"good": "MIT", "bad": "CC BY-ND 4.0", "what": None})
    assert told is not None and told.splitlines()[1:] == [
        "  - 1,200 rows of 'bad', under CC BY-ND 4.0, not known to permit it; read it, then "
        "--allow-license 'cc-by-nd-4.0', or leave them out with --leave-out bad",
        "  - 5 rows of 'what', whose licence is not known; say it with --license what=LICENCE, or leave them out with "
        "--leave-out what",
    ]
    assert refusal(counts, {"good": "MIT", "bad": "CC BY-ND 4.0", "what": "odbl"}, ["cc by-nd 4.0"]) is None
    assert refusal({"good": 3}, {"good": "MIT", "what": None}) is None  # nothing of it is published
