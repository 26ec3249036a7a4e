"""Whole runs on object stores: the same files as on disk, and no row lost or doubled when calls fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cai_ray.artifacts.artifact import find
from cai_ray.artifacts.storage import Storage
from cai_ray.exits import EXIT_RETRYABLE
from tests import stores
from tests.field.endpoint_runs import command, endpoint_recipe
from tests.field.server import serving
from tests.runs import cli, start, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
# A part for every row, so that it does not matter which rows came out together.
ONE_BY_ONE = {"revise": {"scaling": {"rows_per_task": 1, "rows_per_part": 1}}}
NUM_PROMPTS = 12


def files(output: str, stage: str) -> dict[str, str]:
    """The committed files of a stage and their hashes."""
    artifact = find(Storage(output) / "run" / stage)
    assert artifact is not None
    return {file.name: file.sha256 for file in artifact.manifest.files}


@contextmanager
def place(kind: str, folder: Path) -> Iterator[str]:
    if kind == "s3":
        with stores.s3() as faults:
            yield faults.uri
    else:
        with stores.gcs() if kind == "gcs" else stores.azure(folder) as uri:
            yield uri


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    folder = tmp_path_factory.mktemp("disk")
    with serving() as server:
        recipe = endpoint_recipe(folder, server, NUM_PROMPTS, **ONE_BY_ONE)
        assert command(recipe, "--until", "revise").returncode == 0
    return {stage: files(str(folder), stage) for stage in ("load_prompts", "revise")}


@pytest.mark.parametrize("kind", ["s3", "gcs", "azure"])
def test_a_run_makes_the_files_that_it_makes_on_disk(
    kind: str, tmp_path: Path, on_disk: dict[str, dict[str, str]]
) -> None:
    with serving() as server, place(kind, tmp_path / "store") as output:
        recipe = endpoint_recipe(tmp_path, server, NUM_PROMPTS, **ONE_BY_ONE, output=output)
        first = command(recipe, "--until", "revise")
        assert first.returncode == 0, first.stderr
        assert {stage: files(output, stage) for stage in on_disk} == on_disk
        again = command(recipe, "--until", "revise")
        assert again.returncode == 0 and "Nothing to do" in again.stdout, again.stderr
        assert server.num_asked == NUM_PROMPTS
    assert "secret" not in first.stdout + first.stderr and "sig=" not in first.stdout + first.stderr


@pytest.mark.parametrize("share", [0.05, pytest.param(0.4, marks=pytest.mark.long)])
def test_calls_that_fail_cost_no_row(share: float, tmp_path: Path, on_disk: dict[str, dict[str, str]]) -> None:
    with serving() as server, stores.s3() as faults:
        recipe = endpoint_recipe(tmp_path, server, NUM_PROMPTS, **ONE_BY_ONE, output=faults.uri)
        faults.share = share
        ended = command(recipe, "--until", "revise")
        faults.share = 0.0
        assert ended.returncode == 0, ended.stderr
        assert faults.num_failed > 0
        assert {stage: files(faults.uri, stage) for stage in on_disk} == on_disk
        assert server.num_asked == NUM_PROMPTS


@pytest.mark.long
def test_a_store_that_stays_away_ends_the_run_with_75_and_it_goes_on(
    tmp_path: Path, on_disk: dict[str, dict[str, str]]
) -> None:
    with serving(delay_s=1.0) as server, stores.s3() as faults:
        recipe = endpoint_recipe(tmp_path, server, NUM_PROMPTS, **ONE_BY_ONE, output=faults.uri)
        run = start(cli(recipe, "--until", "revise"), tmp_path / "log")
        records = Storage(faults.uri) / "run" / "revise"
        wait_for(lambda: records.names("records"), 90, "the first record", 0.2)
        faults.is_away = True
        code = run.wait(180)
        faults.is_away = False
        assert code == EXIT_RETRYABLE, (tmp_path / "log").read_text()
        assert "has not answered for a minute" in (tmp_path / "log").read_text()
        ended = command(recipe, "--until", "revise")
        assert ended.returncode == 0, ended.stderr
        assert {stage: files(faults.uri, stage) for stage in on_disk} == on_disk
