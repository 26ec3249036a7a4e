"""summary.json: written whole, read back, made where it is missing, refused where it is damaged."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from cai_ray.artifacts.artifact import SUMMARY, Artifact
from cai_ray.artifacts.storage import Storage
from cai_ray.artifacts.summaries.summary import Summary, first_mistake, read, summary_of, write
from cai_ray.errors import ConfigError
from cai_ray.row_ids import EXAMPLE_IDS
from cai_ray.rows import SFT_EXAMPLE
from tests.finished_stages import finished, spec_of


class Small(Summary):
    share: float | None
    nested: dict[str, dict[str, int]] = Field(default_factory=dict)
    extra: tuple[int, ...] | None = None


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return finished(spec_of(tmp_path, "stage", EXAMPLE_IDS), SFT_EXAMPLE, [])


def test_a_default_is_not_written_and_none_is(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path))
    write(folder, Small(share=None))
    assert folder.read(SUMMARY) == b'{\n  "share": null\n}'
    write(folder, Small(share=0.5, extra=()))
    assert json.loads(folder.read(SUMMARY)) == {"share": 0.5, "extra": []}
    assert read(folder, Small) == Small(share=0.5, extra=())


def test_a_number_that_is_none_stays_one(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path))
    write(folder, Small(share=math.nan))
    found = read(folder, Small).share
    assert found is not None and math.isnan(found)


def test_a_missing_summary_is_made_once(artifact: Artifact) -> None:
    made: list[Artifact] = []

    def summarise(source: Artifact) -> Small:
        made.append(source)
        return Small(share=1.0)

    assert summary_of(artifact, Small, summarise) == summary_of(artifact, Small, summarise) == Small(share=1.0)
    assert made == [artifact]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "Invalid JSON"),
        (b"[1]", "Input should be an object"),
        (b"{}", "share: Field required"),
        (b'{"share": 1, "shares": 2}', "shares: Extra inputs are not permitted"),
        (b'{"share": 1, "nested": {"a": {"b": "many"}}}', r"nested\.a\.b: Input should be a valid integer"),
    ],
)
def test_a_damaged_summary_is_refused_with_what_is_wrong(artifact: Artifact, content: bytes, message: str) -> None:
    artifact.folder.write(SUMMARY, content)
    with pytest.raises(ConfigError, match=rf"summary\.json cannot be read: {message}.* Delete the file"):
        summary_of(artifact, Small, lambda _: Small(share=1.0))


def test_a_mistake_is_told_in_200_characters() -> None:
    with pytest.raises(ValidationError) as raised:
        Small.model_validate({"share": 1, "x" * 500: 2})
    assert len(first_mistake(raised.value)) == 200
