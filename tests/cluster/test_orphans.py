"""What a killed writer leaves in a stage folder: a resumed run counts none of it and keeps what was committed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cai_ray.artifacts.storage import TEMPORARY_PREFIX
from cai_ray.exits import EXIT_RETRYABLE, exit_code
from tests import faults
from tests.runs import (
    check_adds_up,
    engine,
    num_rows,
    records,
    records_folder,
    requests,
    run,
    write_jsonl,
    write_recipe,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]
NUM_PROMPTS = 80


@pytest.fixture
def interrupted(micro_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe whose engine gave up in mid-run; from here on the engine works."""
    path = write_jsonl(tmp_path / "prompts.jsonl", requests(NUM_PROMPTS))
    recipe = write_recipe(tmp_path, micro_model, path, models=engine(max_restarts=0, rows_in_flight=8))
    faults.use_script(monkeypatch, faults.DiesAfter(5 * 50, str(records_folder(recipe)), num_records=4))
    with pytest.raises(Exception) as caught:  # Ray wraps the worker's error in types of its own making
        run(recipe)
    assert exit_code(caught.value) == EXIT_RETRYABLE
    faults.use_script(monkeypatch, faults.echo)
    return recipe


def test_orphans_are_swept_and_damaged_parts_made_again(interrupted: Path) -> None:
    folder = interrupted.parent / "run" / "revise"
    committed = records(interrupted)
    assert num_rows(committed) < NUM_PROMPTS
    cut_short, lost_record, torn_record, *whole = sorted(committed)
    assert whole
    before = {name: (folder / f"part-{name}.parquet").read_bytes() for name in whole}

    part = folder / f"part-{cut_short}.parquet"
    part.write_bytes(part.read_bytes()[:-100])
    (folder / "records" / f"{lost_record}.json").unlink()
    torn = folder / "records" / f"{torn_record}.json"
    torn.write_bytes(torn.read_bytes()[:20])
    orphan = folder / f"part-{'0' * 32}.parquet"
    orphan.write_bytes((folder / f"part-{lost_record}.parquet").read_bytes())
    half_written = [folder / f"{TEMPORARY_PREFIX}1", folder / "records" / f"{TEMPORARY_PREFIX}2"]
    for file in half_written:
        file.write_bytes(b"PAR1 and then the power went")

    run(interrupted)
    artifact = check_adds_up(interrupted)
    assert artifact.manifest.rows_out == NUM_PROMPTS
    assert artifact.manifest.attempts == 2
    for name, content in before.items():
        assert (folder / f"part-{name}.parquet").read_bytes() == content
    on_disk = {file.name for file in folder.iterdir() if file.suffix == ".parquet"}
    assert on_disk == {file.name for file in artifact.manifest.files}
    assert not any(file.exists() for file in (orphan, *half_written))


def test_nothing_is_asked_again_once_all_is_committed(interrupted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(interrupted)
    first = check_adds_up(interrupted)
    manifest = (interrupted.parent / "run" / "revise" / "manifest.json").read_bytes()
    faults.use_script(monkeypatch, faults.DiesAfter(0))
    assert run(interrupted).manifest == first.manifest
    assert (interrupted.parent / "run" / "revise" / "manifest.json").read_bytes() == manifest
    assert json.loads(manifest)["attempts"] == 2
