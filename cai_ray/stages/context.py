"""What a stage is given besides its own config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cai_ray.config import ModelConfig
from cai_ray.constitution import Constitution
from cai_ray.engines.artifacts import Artifact, find
from cai_ray.engines.cluster import ClusterConfig
from cai_ray.engines.storage import Storage
from cai_ray.errors import ConfigError


@dataclass(frozen=True)
class Context:
    """One run: where it lives, its seed, its models, its constitution."""

    run: Storage
    seed: int
    models: Mapping[str, ModelConfig]  # paths resolved: "microworld" is a folder by now
    constitution: Constitution | None
    cluster: ClusterConfig
    fingerprints: Mapping[str, str]  # stage -> fingerprint

    def folder(self, stage: str) -> Storage:
        return self.run / stage

    def artifact(self, stage: str) -> Artifact:
        """The finished output of `stage`. Raises ConfigError when there is none."""
        found = find(self.folder(stage))
        if found is None:
            raise ConfigError(f"stage {stage!r} has no output in {self.run.location}; run it first (--until {stage})")
        return found

    def model(self, name: str) -> ModelConfig:
        """Raises ConfigError when the recipe names no such model."""
        if name not in self.models:
            raise ConfigError(f"model {name!r} is not in the recipe's models ({', '.join(self.models)}); add it there")
        return self.models[name]

    def principles(self) -> Constitution:
        """Raises ConfigError when the recipe has no constitution."""
        if self.constitution is None:
            raise ConfigError("this stage needs a constitution; set `constitution` to a name or a YAML file")
        return self.constitution
