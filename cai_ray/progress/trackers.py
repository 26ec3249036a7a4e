"""Experiment trackers beside metrics.jsonl: curves, a table of samples, the report. Whatever `report_to` names.

One tracker run per stage of a run, found again when the run goes on: TensorBoard in `<stage>/tensorboard`, MLflow's by
a tag, W&B's by its id. Where they are and who is asked (MLFLOW_TRACKING_URI, WANDB_MODE, WANDB_API_KEY, ...) is theirs
to know by their own environment variables. The Trainers of SFT, preference model and DPO have callbacks of their own.
"""

from __future__ import annotations

import logging
import os
import tempfile
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

from cai_ray.artifacts.files import files_below, upload
from cai_ray.artifacts.storage import Storage
from cai_ray.errors import ConfigError
from cai_ray.seeding import stable_id

logger = logging.getLogger(__name__)
Name = Literal["tensorboard", "wandb", "mlflow"]
TENSORBOARD = "tensorboard"  # folder of a stage
PROJECT = "cai_ray"  # MLflow's experiment and W&B's project, where no environment variable names another
TAG = "cai_ray_run"
_PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX")}  # of these, one; others are called as they are
_INSTALL = {"mlflow": "mlflow-skinny"}
Row = Mapping[str, str | int | float | bool | None]


def refuse_missing(report_to: Iterable[Name]) -> None:
    """Raises ConfigError when a tracker of `report_to` is not installed."""
    for name in report_to:
        if not any(find_spec(package) for package in _PACKAGES.get(name, (name,))):
            install = _INSTALL.get(name, name)
            raise ConfigError(f"report_to names {name!r}, which is not installed; pip install {install}, or remove it")


def named_by(configs: Iterable[Any]) -> tuple[Name, ...]:
    """Every tracker that the stages of these configs report to, each once."""
    workers = (getattr(config, "workers", None) for config in configs)
    return tuple(dict.fromkeys(name for one in workers if one is not None for name in one.report_to))


def send_report(report_to: Sequence[Name], folder: Storage, page: str, markdown: str) -> None:
    """The report in its stage's `folder`, as it is now, to every tracker; `page` and `markdown`: its files."""
    if report_to:
        trackers = Trackers(report_to, folder)
        try:
            trackers.report(folder.read(page), folder.read(markdown).decode())
        finally:
            trackers.close()


class Tracker(Protocol):
    """What one stage tells one tracker."""

    def curves(self, step: int, values: Mapping[str, float]) -> None: ...

    def table(self, name: str, step: int, rows: Sequence[Row]) -> None: ...

    def report(self, html: bytes, markdown: str) -> None: ...

    def close(self) -> None: ...


class Trackers:
    """All that `report_to` names, for a stage's folder, which lies in its run's.

    Raises ConfigError where one cannot be used here. One that fails later is told of no more: it is no reason to stop.
    """

    def __init__(self, report_to: Sequence[Name], folder: Storage) -> None:
        self._all: dict[Name, Tracker] = {}
        for name in report_to:
            try:
                self._all[name] = _TRACKERS[name](folder)
            except Exception as error:
                raise ConfigError(
                    f"report_to names {name!r}, which cannot be used here ({error}); mend its environment variables, "
                    "or remove it"
                ) from error

    def curves(self, step: int, values: Mapping[str, Any]) -> None:
        """The finite numbers among `values`, at this step."""
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        self._tell(lambda one: one.curves(step, numbers))

    def table(self, name: str, step: int, rows: Sequence[Row]) -> None:
        self._tell(lambda one: one.table(name, step, rows))

    def report(self, html: bytes, markdown: str) -> None:
        self._tell(lambda one: one.report(html, markdown))

    def close(self) -> None:
        self._tell(lambda one: one.close())

    def _tell(self, say: Callable[[Tracker], None]) -> None:
        for name, one in list(self._all.items()):
            try:
                say(one)
            except Exception as error:
                logger.warning("%s takes no more: %s", name, error)
                del self._all[name]


def _run_and_stage(folder: Storage) -> tuple[str, str]:
    path = PurePosixPath(folder.path())
    return path.parent.name, path.name


class _TensorBoard:
    def __init__(self, folder: Storage) -> None:
        self._folder = folder
        self._scratch = None if folder.is_local else tempfile.TemporaryDirectory(prefix="cai_ray-tensorboard-")
        self._where = folder.path(TENSORBOARD) if self._scratch is None else self._scratch.name
        package = "torch.utils.tensorboard" if find_spec("tensorboard") else "tensorboardX"
        # Writers that begin in the same second would share a file, and the later one overwrites it.
        self._writer = import_module(package).SummaryWriter(self._where, filename_suffix=f".{uuid.uuid4().hex[:8]}")

    def curves(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def table(self, name: str, step: int, rows: Sequence[Row]) -> None:
        self._writer.add_text(name, _markdown(rows), step)
        self._upload()

    def report(self, html: bytes, markdown: str) -> None:
        self._writer.add_text("report", markdown)

    def close(self) -> None:
        self._writer.close()
        self._upload()
        if self._scratch is not None:
            self._scratch.cleanup()

    def _upload(self) -> None:
        self._writer.flush()
        if self._scratch is not None:
            for file in files_below(Path(self._where)):
                upload(Path(self._where), file, self._folder, TENSORBOARD)


class _MLflow:
    def __init__(self, folder: Storage) -> None:
        self._mlflow: Any = import_module("mlflow")
        run, stage = _run_and_stage(folder)
        client = self._mlflow.MlflowClient()
        project = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = client.get_experiment_by_name(project)
        experiment = known.experiment_id if known else client.create_experiment(project)
        own = stable_id("tracked", folder.shown)
        earlier = client.search_runs([experiment], f"tags.{TAG} = '{own}'", max_results=1)
        tags = {TAG: own, "mlflow.runName": f"{run}/{stage}"}
        self._id = earlier[0].info.run_id if earlier else client.create_run(experiment, tags=tags).info.run_id
        client.update_run(self._id, status="RUNNING")
        self._client = client

    def curves(self, step: int, values: Mapping[str, float]) -> None:
        metric, now = self._mlflow.entities.Metric, self._mlflow.utils.time.get_current_time_millis()
        self._client.log_batch(self._id, [metric(_plain(name), value, now, step) for name, value in values.items()])

    def table(self, name: str, step: int, rows: Sequence[Row]) -> None:
        columns = list(rows[0]) if rows else []
        data = {"columns": columns, "data": [[row[column] for column in columns] for row in rows]}
        self._client.log_dict(self._id, data, f"{name}/step-{step:06d}.json")

    def report(self, html: bytes, markdown: str) -> None:
        self._client.log_text(self._id, html.decode(), "report.html")

    def close(self) -> None:
        self._client.set_terminated(self._id)


class _Wandb:
    def __init__(self, folder: Storage) -> None:
        self._wandb: Any = import_module("wandb")
        run, stage = _run_and_stage(folder)
        self._name = f"{run}-{stage}"
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=stable_id("tracked", folder.shown),
            name=f"{run}/{stage}",
            group=run,
            resume="allow",
        )
        self._run.define_metric("*", step_metric="step")  # steps may come again after a resume

    def curves(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def table(self, name: str, step: int, rows: Sequence[Row]) -> None:
        columns = list(rows[0]) if rows else []
        table = self._wandb.Table(columns=columns, data=[[row[column] for column in columns] for row in rows])
        self._run.log({name: table, "step": step})

    def report(self, html: bytes, markdown: str) -> None:
        artifact = self._wandb.Artifact(self._name, type="report")
        with artifact.new_file("report.html", mode="wb") as file:
            file.write(html)
        self._run.log_artifact(artifact)

    def close(self) -> None:
        self._run.finish()


_TRACKERS: Mapping[Name, type[_TensorBoard] | type[_MLflow] | type[_Wandb]] = {
    "tensorboard": _TensorBoard,
    "mlflow": _MLflow,
    "wandb": _Wandb,
}


def _plain(name: str) -> str:
    """What MLflow takes as a metric's name."""
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name)


def _markdown(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    return " ".join(str(value).replace("|", "\\|").split())
