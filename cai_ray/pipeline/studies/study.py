"""The file of a study, and the runs that it is made of.

A study has a cell per model and form. Each cell is a run as any other, `<study>-<model>-<form>`: it asks every prompt
in every format, and its rows are the study's. Before the forms `ablated` and `reverse` comes the run
`<study>-<model>-direction`, which makes both. Tested in tests/pipeline/studies/test_study.py.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import yaml
from pydantic import Field, ValidationError, field_validator

from cai_ray import shelf
from cai_ray.config import Config, ModelConfig
from cai_ray.engines.cluster import ClusterConfig
from cai_ray.errors import ConfigError
from cai_ray.lookup import FOLDER, InputFile
from cai_ray.pipeline.recipe import Recipe, apply_overrides, build
from cai_ray.stages.abliteration import abliterate
from cai_ray.stages.abliteration.config import REVERSE
from cai_ray.stages.abliteration.config import Config as AbliterateConfig
from cai_ray.stages.context import MODEL_FOLDER
from cai_ray.stages.evaluation.multiple_choice import Config as MultipleChoiceConfig
from cai_ray.stages.evaluation.self_critique import Config as SelfCritiqueConfig
from cai_ray.stages.prompt_sources import Config as PromptsConfig

Form = Literal["as_is", "ablated", "reverse"]
AS_IS: Form = "as_is"
MADE: dict[str, str] = {"ablated": MODEL_FOLDER, "reverse": REVERSE}  # form -> its folder in the stage that makes it
DIRECTION = "direction"  # in place of a form: the run that makes the others
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class Study(Config):
    """Everything a study is made of."""

    name: str = Field(pattern=_NAME, description="Its runs and its report lie under `output` by this name.")
    output: str = Field("runs", min_length=1, description="A local folder.")
    seed: int = Field(0, ge=0, lt=2**31)
    folder: str = Field("", description="Where relative names are looked up first; empty: the file's folder.")
    models: dict[str, ModelConfig] = Field(min_length=1, description="The models that are studied, by name.")
    judges: dict[str, ModelConfig] = Field(default_factory=dict, description="Models that self_critique.judges name.")
    forms: tuple[Form, ...] = Field(get_args(Form), min_length=1)
    constitution: InputFile = Field("microworld")
    cluster: ClusterConfig = ClusterConfig()
    prompts: PromptsConfig = Field(description="What every cell is asked; kind helpful: benign look-alikes.")
    direction_prompts: PromptsConfig | None = Field(None, description="For abliterate; null: the same prompts.")
    abliterate: AbliterateConfig = AbliterateConfig()
    self_critique: SelfCritiqueConfig = SelfCritiqueConfig()
    multiple_choice: MultipleChoiceConfig | None = Field(None, description="What is left of the cells' ability.")
    at_once: int = Field(1, ge=1, description="Models whose cells run at the same time on the cluster.")

    @field_validator("models")
    @classmethod
    def _names_are_folders(cls, models: dict[str, ModelConfig]) -> dict[str, ModelConfig]:
        for name in models:
            if not name.replace("_", "").replace("-", "").replace(".", "").isalnum():
                raise ValueError(f"model {name!r} names a folder; use letters, digits, dots, dashes and underscores")
        return models


class Cell(NamedTuple):
    """One run of a study."""

    model: str
    form: str  # a Form, or DIRECTION
    recipe: Recipe


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study, by path or by the name of one that comes along. Raises ConfigError."""
    if not shelf.is_path(str(path)):
        found = shelf.available("study").get(str(path))
        if found is None:
            raise ConfigError(f"no study is called {str(path)!r}; {shelf.advice('study', str(path))}")
        path = found
    try:
        said = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        if not isinstance(said, dict):
            raise ConfigError(f"study {str(path)!r} holds {type(said).__name__}, not a mapping of sections")
        data = apply_overrides(said, overrides)
        data.setdefault(FOLDER, os.path.abspath(Path(path).parent))
        return Study.model_validate(data, context={FOLDER: data[FOLDER]})
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise ConfigError(f"study {str(path)!r} cannot be used: {error}") from error


def cells_of(study: Study, model: str) -> list[Cell]:
    """The runs of one model, in order. Raises ConfigError."""
    made: list[Cell] = []
    for form in (AS_IS, DIRECTION, *MADE):
        if form == DIRECTION and set(study.forms) & set(MADE):
            prompts = study.direction_prompts or study.prompts
            made.append(Cell(model, form, _recipe(study, model, form, study.models[model], prompts)))
        elif form in study.forms:
            config = study.models[model]
            if form in MADE:
                folder = f"{study.output}/{study.name}-{model}-{DIRECTION}/{abliterate.STAGE}/{MADE[form]}"
                config = config.model_copy(update={"path": os.path.abspath(folder), "revision": None})
            made.append(Cell(model, form, _recipe(study, model, form, config, study.prompts)))
    return made


def _recipe(study: Study, model: str, form: str, config: ModelConfig, prompts: PromptsConfig) -> Recipe:
    data: dict[str, Any] = {
        "name": f"{study.name}-{model}-{form}",
        "output": study.output,
        "seed": study.seed,
        "folder": study.folder,
        "constitution": study.constitution,
        "models": {"policy": config.model_dump(), **{name: one.model_dump() for name, one in study.judges.items()}},
        "cluster": study.cluster.model_dump(),
        "prompts": prompts.model_dump(),
        "revise": None,
    }
    if form == DIRECTION:
        data["abliterate"] = study.abliterate.model_copy(update={"model": "policy"}).model_dump()
    else:
        data["self_critique"] = study.self_critique.model_copy(update={"model": "policy"}).model_dump()
        if study.multiple_choice is not None:
            data["multiple_choice"] = study.multiple_choice.model_copy(update={"models": ("policy",)}).model_dump()
    return build(data, f"{study.name}-{model}-{form}")
