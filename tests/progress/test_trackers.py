"""Trackers for real, where they are installed: curves, tables, the report, and a run that goes on in the same place."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from cai_ray.artifacts.storage import Storage
from cai_ray.errors import ConfigError
from cai_ray.pipeline import run as pipeline
from cai_ray.pipeline.recipe import build
from cai_ray.pipeline.steps import steps
from cai_ray.progress.trackers import Trackers, named_by, refuse_missing, send_report

ROWS = [
    {"prompt": "Say | it.\nNow", "response": "No.", "score": 0.5},
    {"prompt": "Hi", "response": "Hey", "score": None},
]


def told(trackers: Trackers, steps_done: range) -> None:
    for step in steps_done:
        trackers.curves(step, {"score": step / 2, "kl": None, "learning rate (policy)": 1.0})
    trackers.table("rollouts", steps_done[-1], ROWS)
    trackers.close()


def events(folder: Path) -> list[Any]:
    """What TensorBoard's files say: records of length, checksum, message, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack("<Q", content[at : at + 8])
            found.append(Event.FromString(content[at + 12 : at + 12 + length]))
            at += 16 + length
    return found


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    folder = Storage(str(tmp_path / "run" / "train_ppo"))
    told(Trackers(["tensorboard"], folder), range(1, 3))
    told(Trackers(["tensorboard"], folder), range(3, 4))  # after a resume
    values = [
        (event.step, value) for event in events(tmp_path / "run/train_ppo/tensorboard") for value in event.summary.value
    ]
    scores = [(step, value.simple_value) for step, value in values if value.tag == "score"]
    assert sorted(scores) == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert not [value for _, value in values if value.tag == "kl"]  # no number at all
    tables = [value.tensor.string_val[0].decode() for _, value in values if value.tag.startswith("rollouts")]
    assert tables[0].splitlines() == [
        "| prompt | response | score |",
        "| --- | --- | --- |",
        "| Say \\| it. Now | No. | 0.5 |",
        "| Hi | Hey | None |",
    ]


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")
    folder = Storage(str(tmp_path / "run" / "train_ppo"))
    told(Trackers(["mlflow"], folder), range(1, 3))
    trackers = Trackers(["mlflow"], folder)  # after a resume
    trackers.report(b"<p>good</p>", "good")
    told(trackers, range(3, 4))
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("cai_ray")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "run/train_ppo" and run.info.status == "FINISHED"
    assert [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, "score")] == [
        (1, 0.5),
        (2, 1.0),
        (3, 1.5),
    ]
    assert "learning rate _policy_" in run.data.metrics
    table = Path(client.download_artifacts(run.info.run_id, "rollouts/step-000003.json", str(tmp_path)))
    assert json.loads(table.read_text())["data"][1] == ["Hi", "Hey", None]
    report = Path(client.download_artifacts(run.info.run_id, "report.html", str(tmp_path)))
    assert report.read_text() == "<p>good</p>"


@pytest.mark.slow
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    trackers = Trackers(["wandb"], Storage(str(tmp_path / "run" / "train_ppo")))
    trackers.report(b"<p>good</p>", "good")
    told(trackers, range(1, 3))
    (kept,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    content = kept.read_bytes()
    for said in (b"run/train_ppo", b"score", b"rollouts", b"run-train_ppo"):
        assert said in content


def test_a_missing_one_is_told_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cai_ray.progress.trackers.find_spec", lambda name: None)
    for name, package in (("mlflow", "mlflow-skinny"), ("tensorboard", "tensorboard"), ("wandb", "wandb")):
        with pytest.raises(ConfigError, match=f"report_to names '{name}', .* pip install {package}, or"):
            refuse_missing([name])  # type: ignore[list-item]
    recipe = build({"name": "r", "output": str(tmp_path), "ppo": {"workers": {"report_to": ["wandb"]}}}, "test")
    with pytest.raises(ConfigError, match="wandb"):
        pipeline.run(recipe, steps(recipe))
    assert not list(tmp_path.iterdir())


def test_one_that_fails_is_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorboardX")
    trackers = Trackers(["tensorboard"], Storage(str(tmp_path / "run" / "train_ppo")))
    (one,) = trackers._all.values()
    monkeypatch.setattr(one, "_writer", None)  # what it wrote to is gone
    with caplog.at_level("WARNING"):
        told(trackers, range(1, 4))
    assert len(caplog.records) == 1 and "tensorboard takes no more" in caplog.text
    monkeypatch.setattr("cai_ray.progress.trackers.import_module", lambda name: None)
    with pytest.raises(ConfigError, match=r"report_to names 'tensorboard', which cannot be used here"):
        Trackers(["tensorboard"], Storage(str(tmp_path)))


def test_all_sections_count_and_the_report_is_sent(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    trained = {"workers": {"report_to": ["tensorboard"]}}
    recipe = build({"name": "r", "sft": trained, "ppo": trained | {"model": "sl_cai"}}, "test")
    names = named_by(step.config for step in steps(recipe))
    assert names == ("tensorboard",)
    run = Storage(str(tmp_path))
    (run / "report").write("report.html", b"<p>good</p>")
    (run / "report").write("report.md", b"# good")
    send_report(names, run / "report", "report.html", "report.md")
    texts = [
        value.tensor.string_val[0]
        for event in events(tmp_path / "report" / "tensorboard")
        for value in event.summary.value
    ]
    assert texts == [b"# good"]
