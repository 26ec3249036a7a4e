"""A run's data and models to the hub: what is there, whether it may go, and a repository for each.

The data set goes to `org/name`, each model that the run trained to `org/name-<model>` (`org/name-sl_cai`). A
repository is one commit, made when all its files are there.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow.fs as pafs

from cai_ray.artifacts.artifact import Artifact, find
from cai_ray.artifacts.storage import Storage
from cai_ray.errors import ConfigError
from cai_ray.pipeline.kept_recipe import earlier_recipe
from cai_ray.pipeline.recipe import Recipe
from cai_ray.pipeline.run import constitution_of, folder_of
from cai_ray.pipeline.steps import steps
from cai_ray.publishing import cards, data_sets
from cai_ray.publishing.hub import check_token, push
from cai_ray.publishing.licences import permits, refusal, spelt
from cai_ray.publishing.sources import hub_id, licence_of_model, licences_of
from cai_ray.stages.context import MODEL_FOLDER
from cai_ray.stages.report.write_report import MARKDOWN
from cai_ray.stages.report.write_report import STAGE as REPORT

What = Literal["data", "models"]
CARD = "README.md"
_REPO = re.compile(r"hf://([\w.-]+/[\w.-]+)")


@dataclass(frozen=True)
class Terms:
    """What a person says of licences.

    Attributes:
        licences: source, or "models.NAME" -> its licence, in place of what recipe and card say.
        allowed: licences that may be published though they are not known to permit it.
        left_out: sources whose rows stay here.
    """

    licences: Mapping[str, str] = field(default_factory=dict)
    allowed: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()


def publish(recipe: Recipe, target: str, private: bool, terms: Terms, only: What | None = None) -> Iterator[str]:
    """Push what the run has; the URL of each repository once it is there.

    Raises ConfigError, and has pushed nothing, where the run has no report, the hub takes no token, or a licence is in
    the way; ConfigError or StorageAway where the hub says so, and the repositories before that are there.
    """
    if (match := _REPO.fullmatch(target)) is None:
        raise ConfigError(f"{target!r} is no place on the hub; write hf://org/name")
    repo, all_steps = match[1], steps(recipe)
    about = _about(recipe, any(step.needs_constitution for step in all_steps))
    artifacts = {step.stage: made for step in all_steps if (made := find(folder_of(recipe) / step.stage)) is not None}
    data = None if only == "models" else _checked_data(recipe, artifacts, terms)
    trained = {step.makes: artifacts[step.stage] for step in all_steps if step.makes and step.stage in artifacts}
    models = {} if only == "data" else {name: _checked_model(recipe, name, terms) for name in trained}
    check_token()
    if data is not None:
        yield _push_data(repo, artifacts, data, terms, about, f"{recipe.name}: data", private)
    for name, (licence, base) in models.items():
        with _on_local_disk(trained[name]) as folder:
            names = [record.name.removeprefix(f"{MODEL_FOLDER}/") for record in trained[name].manifest.model_files]
            files: dict[str, Path | bytes] = {own: folder / own for own in names}
            own_card = (folder / CARD).read_text("utf-8") if (folder / CARD).exists() else ""
            card = cards.model_card(own_card, licence, base, repo if data is not None else None, about)
            message = f"{recipe.name}: {name}"
            yield push(f"{repo}-{name}", "model", files | {CARD: card.encode()}, message, private, ())


def _about(recipe: Recipe, is_constitutional: bool) -> str:
    """What all cards say of the run. Raises ConfigError where it has no report."""
    run = folder_of(recipe)
    if not (run / REPORT).exists(MARKDOWN):
        raise ConfigError(
            f"{run.shown} has no report yet, which the cards show; finish the run (cai-ray run), or report on what "
            "there is (cai-ray report)"
        )
    constitution = constitution_of(recipe) if is_constitutional else None
    return cards.about_run(earlier_recipe(run) or {}, constitution, (run / REPORT).read(MARKDOWN).decode())


@dataclass(frozen=True)
class _Data:
    """Rows that may go: where each comes from, how many of each source, and the sources' licences."""

    origins: data_sets.Origins
    num_rows: Mapping[str, int]
    licences: Mapping[str, str | None]


def _checked_data(recipe: Recipe, artifacts: Mapping[str, Artifact], terms: Terms) -> _Data | None:
    """None where there is no row to publish. Raises ConfigError for rows that must not be."""
    origins = data_sets.Origins(artifacts)
    counts = origins.counted(artifacts)
    if unknown := terms.left_out - counts.keys():
        raise ConfigError(f"--leave-out {min(unknown)!r} is no source of this run; it has {', '.join(sorted(counts))}")
    kept = {source: count for source, count in counts.items() if source not in terms.left_out}
    licences = licences_of(recipe, terms.licences)
    if refused := refusal(kept, licences, terms.allowed):
        raise ConfigError(refused)
    return _Data(origins, kept, licences) if kept else None


def _push_data(
    repo: str, artifacts: Mapping[str, Artifact], data: _Data, terms: Terms, about: str, message: str, private: bool
) -> str:
    with tempfile.TemporaryDirectory(prefix="cai_ray-publish-") as folder:
        written = data_sets.write(artifacts, data.origins, terms.left_out, Path(folder))
        card = cards.data_card(repo.rpartition("/")[2], written, data.num_rows, data.licences, about)
        files: dict[str, Path | bytes] = {name: file for one in written for name, file in one.files.items()}
        folders = tuple(f"{kind.name}/" for kind in data_sets.KINDS)
        return push(repo, "dataset", files | {CARD: card.encode()}, message, private, folders)


def _checked_model(recipe: Recipe, name: str, terms: Terms) -> tuple[str, str | None]:
    """(licence, hub id) of the recipe's model that the trained model `name` descends from; no id of a local one.

    Raises ConfigError for a licence that is not known, or not known to permit it.
    """
    base = _base(recipe, name)
    model = recipe.asked_models[base]
    licence = licence_of_model(base, model, terms.licences)
    if licence is None:
        raise ConfigError(
            f"the licence of models.{base} ({model.path}), which {name} descends from, is not known; say it with "
            f"--license models.{base}=LICENCE, or publish the data alone with --only data"
        )
    if not permits(licence) and spelt(licence) not in {spelt(one) for one in terms.allowed}:
        raise ConfigError(
            f"models.{base} ({model.path}), which {name} descends from, is under {licence}, not known to permit that; "
            f"read it, then --allow-license '{spelt(licence)}', or publish the data alone with --only data"
        )
    return licence, hub_id(model)


def _base(recipe: Recipe, name: str) -> str:
    """The recipe's model that a trained one descends from."""
    trains = {step.makes: step.trains for step in steps(recipe) if step.makes and step.trains}
    while name in trains:
        name = trains[name]
    return name


@contextmanager
def _on_local_disk(artifact: Artifact) -> Iterator[Path]:
    """The folder of a trained model; fetched first where the run lies elsewhere."""
    folder: Storage = artifact.folder / MODEL_FOLDER
    if folder.is_local:
        yield Path(folder.path())
        return
    with tempfile.TemporaryDirectory(prefix="cai_ray-publish-") as target:
        pafs.copy_files(folder.path(), target, source_filesystem=folder.filesystem)
        yield Path(target)
