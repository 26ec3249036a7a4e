"""What a stage is given besides its own config.

Tested in tests/stages/ppo/test_models.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cai_ray.artifacts.allowance import Allowance
from cai_ray.artifacts.artifact import Artifact, StageSpec, find, inputs_of
from cai_ray.artifacts.lease import Lease
from cai_ray.artifacts.storage import Storage
from cai_ray.config import Config, ModelConfig
from cai_ray.constitution.principles import Constitution
from cai_ray.engines.cluster import ClusterConfig
from cai_ray.errors import ConfigError
from cai_ray.fingerprint import settings
from cai_ray.row_ids import RowIds

MODEL_FOLDER = "model"  # of a stage that trains one


@dataclass(frozen=True)
class Trained:
    """A model that a stage of the run trains."""

    stage: str  # its folder holds the model's
    base_name: str  # the recipe's model that it descends from
    base: ModelConfig  # template, context, engine and thinking are inherited from it
    folder: str = MODEL_FOLDER  # inside the stage's


@dataclass(frozen=True)
class Context:
    """One run: where it lives, its seed, its models, its constitution."""

    run: Storage
    seed: int
    models: Mapping[str, ModelConfig]  # paths resolved: "microworld" is a folder by now
    trained: Mapping[str, Trained]  # made by stages of this run
    constitution: Constitution | None
    cluster: ClusterConfig
    fingerprints: Mapping[str, str]  # stage -> fingerprint
    contents: Mapping[str, dict[str, str]] = field(default_factory=dict)  # stage -> input from outside, what it is
    lease: Lease | None = None  # this driver's, while it works on the run
    allowance: Allowance | None = None  # of the stage that is to be made

    def folder(self, stage: str) -> Storage:
        return self.run / stage

    def spec(self, stage: str, config: Config, row_ids: RowIds, *sources: Artifact) -> StageSpec:
        """Of the artifact that `stage` makes of `sources` by `config`."""
        return StageSpec(
            folder=self.folder(stage),
            stage=stage,
            fingerprint=self.fingerprints[stage],
            config=settings(config),
            inputs=inputs_of(*sources),
            row_ids=row_ids,
            contents=self.contents.get(stage),
            lease=self.lease,
            allowance=self.allowance,
        )

    def artifact(self, stage: str) -> Artifact:
        """The finished output of `stage`. Raises ConfigError when there is none."""
        found = find(self.folder(stage))
        if found is None:
            raise ConfigError(f"stage {stage!r} has no output in {self.run.shown}; run it first (--until {stage})")
        return found

    def model(self, name: str) -> ModelConfig:
        """Raises ConfigError when the recipe names no such model, or its stage has not trained it yet."""
        if name in self.trained:
            made = self.trained[name]
            folder = self.artifact(made.stage).folder / made.folder
            changes = {"path": folder.location, "revision": None, "tokenizer": None, "chat_template": None}
            return made.base.model_copy(update=changes)
        if name not in self.models:
            raise ConfigError(f"model {name!r} is not in the recipe's models ({', '.join(self.models)}); add it there")
        return self.models[name]

    def principles(self) -> Constitution:
        """Raises ConfigError when the recipe has no constitution."""
        if self.constitution is None:
            raise ConfigError("this stage needs a constitution; set `constitution` to a name or a YAML file")
        return self.constitution
