"""The micro model that comes along: whole, of this language, put where a build would put it, and as good as a build."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path

import pytest

from cai_ray.microworld import pretrain, shipped
from cai_ray.microworld.pretrain import PretrainConfig, build, ensure_model, fingerprint, self_check

NUM_PROMPTS = 480  # self_check's own 48 tell two good models apart by chance
TOLERANCE = {  # of a fresh build, in shares; the spread of three seeds, and of 240 answers each
    "initial_harmful_rate": 0.08,
    "initial_harmless_helpfulness": 0.08,
    "revised_harmful_rate": 0.12,
    "revised_harmless_helpfulness": 0.08,
}


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(folder, seed) of every build that was asked for; nothing is trained."""
    asked: list[tuple[str, int]] = []

    def note(path: Path, seed: int, config: PretrainConfig) -> Path:
        asked.append((path.name, seed))
        path.mkdir()
        return path

    monkeypatch.setattr(pretrain, "build", note)
    return asked


def test_the_weights_are_whole_and_of_this_language() -> None:
    """Where the second fails, the language or the training has changed: build seed 0 and put it here with its facts."""
    found = shipped.provenance()
    assert sorted(found["files"]) == sorted(path.name for path in shipped.WEIGHTS.iterdir())
    for name, known in found["files"].items():
        data = (shipped.WEIGHTS / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (known["bytes"], known["sha256"]), name
    assert found["fingerprint"] == fingerprint(PretrainConfig(), found["seed"])
    told = json.loads((shipped.WEIGHTS / "eval.json").read_text())
    assert found["scores"].items() <= told.items()
    assert told["config"] == PretrainConfig().model_dump() and told["seed"] == 0


def test_they_are_put_where_a_build_would_put_them(tmp_path: Path, built: list[tuple[str, int]]) -> None:
    path = ensure_model(tmp_path)
    assert path == tmp_path / "microworld" / fingerprint(PretrainConfig(), 0)[:16] and not built
    sizes = {file.name: file.stat().st_size for file in path.iterdir()}
    assert sizes == {name: known["bytes"] for name, known in shipped.provenance()["files"].items()}
    stamp = (path / "model.safetensors").stat().st_mtime_ns
    assert ensure_model(tmp_path) == path and (path / "model.safetensors").stat().st_mtime_ns == stamp
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, f"{path.name}.lock"]


def test_another_seed_or_config_or_a_fresh_one_is_built(tmp_path: Path, built: list[tuple[str, int]]) -> None:
    other = ensure_model(tmp_path, seed=1)
    longer = ensure_model(tmp_path, config=PretrainConfig(num_steps=1601))
    seed_0 = ensure_model(tmp_path)
    assert any(seed_0.iterdir()) and built == [(other.name, 1), (longer.name, 0)]
    assert ensure_model(tmp_path, fresh=True) == seed_0
    assert built[2:] == [(f"{seed_0.name}.fresh", 0)] and not any(seed_0.iterdir()), "the fresh one replaces it"


@pytest.mark.parametrize("damage", ["a byte", "cut", "gone", "no provenance"])
def test_a_damaged_file_is_one_message_and_a_build(
    damage: str,
    tmp_path: Path,
    built: list[tuple[str, int]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shutil.copytree(shipped.WEIGHTS.parent, tmp_path / "weights")
    monkeypatch.setattr(shipped, "WEIGHTS", tmp_path / "weights" / "seed0")
    file = shipped.WEIGHTS / "config.json"
    data = file.read_bytes()
    if damage == "a byte":
        file.write_bytes(data.replace(b"128", b"129"))
    elif damage == "cut":
        file.write_bytes(data[:-1])
    elif damage == "gone":
        file.unlink()
    else:
        (tmp_path / "weights" / shipped.PROVENANCE).write_text("{")
    with caplog.at_level(logging.WARNING):
        path = ensure_model(tmp_path / "cache")
    assert [name for name, _ in built] == [path.name] and not any(path.iterdir())
    (message,) = [record.getMessage() for record in caplog.records]
    assert "is damaged" in message and "building it anew" in message


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_fresh_build_is_as_good(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = {}
    for name, folder in {"shipped": ensure_model(tmp_path), "fresh": build(tmp_path / "fresh")}.items():
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        told = json.loads((folder / "eval.json").read_text())
        found[name] = self_check(model, AutoTokenizer.from_pretrained(folder), 0, NUM_PROMPTS)
        found[name]["loss_nats"] = told["loss_nats"]
    print(json.dumps(found, indent=2))
    for metric, tolerance in {**TOLERANCE, "loss_nats": 0.02}.items():
        assert found["fresh"][metric] == pytest.approx(found["shipped"][metric], abs=tolerance), metric
