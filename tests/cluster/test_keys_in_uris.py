"""Keys in the URIs of `output` and `prompts`: the run works with them, and nothing that it leaves or says has them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from cai_ray.artifacts.storage import Storage
from tests import stores
from tests.field.endpoint_runs import command, endpoint_recipe
from tests.field.server import serving

pytestmark = pytest.mark.slow
CANARY = "canary-3f9a"


def read(storage: Storage) -> dict[str, bytes]:
    below = pafs.FileSelector(storage.path(), recursive=True)
    files = [info.path for info in storage.filesystem.get_file_info(below) if info.is_file]
    return {path: storage.filesystem.open_input_stream(path).read() for path in files}


def test_no_key_of_a_uri_is_left_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray_folder = tempfile.mkdtemp(prefix="r")  # short: sockets lie below it
    monkeypatch.setenv("RAY_TMPDIR", ray_folder)
    with serving() as server, stores.s3() as faults:
        output = faults.uri.replace("key:secret@", f"{CANARY}-id:{CANARY}-key@")
        asked = output.replace("/runs?", "/asked/prompts.jsonl?")
        recipe = endpoint_recipe(tmp_path, server, 8, output=output, report={}, prompts={"path": asked})
        Storage(output.replace("/runs?", "/asked?")).write("prompts.jsonl", (tmp_path / "prompts.jsonl").read_bytes())
        done = command(recipe)
        assert done.returncode == 0, done.stderr
        refused = command(recipe, "--set", "seed=6")
        wrong = command(recipe, "--set", f"output={output}&secret_key={CANARY}&x=1")
        assert (refused.returncode, wrong.returncode) == (2, 2)
        left = read(Storage(output))
    assert {"recipe.json", "report.html", "manifest.json"} <= {Path(name).name for name in left}
    left |= {str(path): path.read_bytes() for path in Path(ray_folder).rglob("*") if path.is_file()}
    assert not [name for name, content in left.items() if CANARY.encode() in content]
    told = [done.stdout, done.stderr, refused.stdout, refused.stderr, wrong.stdout, wrong.stderr]
    assert not [text for text in told if CANARY in text]
