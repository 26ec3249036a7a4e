"""Everything that a report shows, gathered from the files of a run.

Tested in tests/stages/report/test_write_report.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from cai_ray.constitution.principles import Constitution, ConstitutionError
from cai_ray.constitution.source import load, resolve
from cai_ray.stages.report.policies import PolicyFacts, policies_of
from cai_ray.stages.report.preferences import LabelFacts, SourceFacts, labels_of, preference_model_of
from cai_ray.stages.report.rounds import RoundFacts, rounds_of
from cai_ray.stages.report.source import RECIPE, RunSource
from cai_ray.stages.report.stages import StageFacts, stages_of
from cai_ray.stages.report.training import TrainingFacts, training_of


@dataclass(frozen=True)
class Facts:
    """What is known of a run; a section is None or empty where its stage is missing."""

    name: str
    title: str
    seed: int
    stages: list[StageFacts]
    price_per_hour: float | None
    policies: PolicyFacts | None
    rounds: RoundFacts | None
    labels: LabelFacts | None
    preference_model: list[SourceFacts]
    training: list[TrainingFacts]
    recipe: str  # YAML, every default spelt out; "" when the run has none
    constitution: Constitution | None
    constitution_problem: str  # why there is none
    label_draws: dict[str, int]  # principle id -> pairs that it was drawn for
    versions: dict[str, str]
    finished_at: str  # of the last stage; "" when none finished
    problems: list[str]

    @property
    def duration_s(self) -> float:
        return round(sum(stage.duration_s for stage in self.stages), 3)

    @property
    def cost(self) -> float | None:
        """Hours of all finished stages at the price per hour."""
        return None if self.price_per_hour is None else round(self.duration_s / 3600 * self.price_per_hour, 4)

    def stage(self, name: str) -> StageFacts | None:
        return next((stage for stage in self.stages if stage.stage == name), None)


def gather(source: RunSource, stages: Sequence[str], title: str | None, price_per_hour: float | None) -> Facts:
    """Read the run. `stages`: those that the recipe has, in order."""
    recipe = source.json(RECIPE)
    name = str(recipe.get("name") or source.run.shown.rstrip("/").rpartition("/")[2])
    constitution, problem = _constitution(recipe)
    labels = labels_of(source)
    finished = [artifact.manifest for stage in stages if (artifact := source.artifact(stage)) is not None]
    return Facts(
        name=name,
        title=title or f"Constitutional AI: {name}",
        seed=recipe.get("seed", 0),
        stages=stages_of(source, stages),
        price_per_hour=price_per_hour,
        policies=policies_of(source),
        rounds=rounds_of(source),
        labels=labels,
        preference_model=preference_model_of(source),
        training=training_of(source, stages),
        recipe=yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True) if recipe else "",
        constitution=constitution,
        constitution_problem=problem,
        label_draws={one.principle_id: one.num_pairs for one in labels.principles} if labels else {},
        versions={name: version for manifest in finished for name, version in manifest.versions.items()},
        finished_at=max((manifest.finished_at for manifest in finished), default=""),
        problems=source.problems,
    )


def _constitution(recipe: dict[str, Any]) -> tuple[Constitution | None, str]:
    """The constitution as its file is now."""
    name = recipe.get("constitution")
    if not name:
        return None, "The recipe names no constitution."
    try:
        return load(resolve(name)), ""
    except (ConstitutionError, OSError) as error:
        return None, f"The constitution cannot be read any more: {error}"
