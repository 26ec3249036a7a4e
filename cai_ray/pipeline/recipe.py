"""Recipe: one YAML file for the whole pipeline. Load, override, dump; errors name the field, the value, the rule.

A recipe is a file, or the name of one that comes along. Relative names inside it are looked up in its own folder
first, then in the working directory (`cai_ray.lookup`); `output` is relative to the working directory alone.
"""

from __future__ import annotations

import difflib
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from cai_ray import shelf
from cai_ray.config import Config, Limits, ModelConfig
from cai_ray.engines.cluster import ClusterConfig
from cai_ray.errors import ConfigError
from cai_ray.lookup import FOLDER, InputFile
from cai_ray.pipeline.model_sampling import with_model_sampling
from cai_ray.stages.abliteration.config import Config as AbliterateConfig
from cai_ray.stages.evaluation.evaluate import Config as EvaluateConfig
from cai_ray.stages.evaluation.multiple_choice import Config as MultipleChoiceConfig
from cai_ray.stages.evaluation.score_rounds import Config as ScoreRoundsConfig
from cai_ray.stages.evaluation.self_critique import Config as SelfCritiqueConfig
from cai_ray.stages.inputs.expand_prompts import Config as ExpandConfig
from cai_ray.stages.ppo.config import Config as PpoConfig
from cai_ray.stages.preferences.label_comparisons import Config as LabelsConfig
from cai_ray.stages.preferences.sample_pairs import Config as PairsConfig
from cai_ray.stages.preferences.train_dpo import Config as DpoConfig
from cai_ray.stages.preferences.train_preference_model import Config as PreferenceModelConfig
from cai_ray.stages.prompt_sources import Config as PromptsConfig
from cai_ray.stages.report.write_report import Config as ReportConfig
from cai_ray.stages.revision.revise import Config as ReviseConfig
from cai_ray.stages.supervised.train_sft import Config as SftConfig

FEEDBACK = "feedback"  # the labeller's name; the policy labels where the recipe names no other
# Section -> its key for what a stage can be given in place of what the stages before it make.
OWN_DATA = {
    "sft": "examples",
    "labels": "pairs",
    "preference_model": "preferences",
    "dpo": "preferences",
    "ppo": "prompts",
}


class Recipe(Config):
    """Everything a run is made of."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="The run's folder under `output`.")
    output: str = Field("runs", min_length=1, description="A local folder or any pyarrow filesystem URI.")
    seed: int = Field(0, ge=0, lt=2**31, description="Decides draws, orders, splits and sampling seeds.")
    folder: str = Field("", description="Where relative names are looked up first; empty: the recipe file's folder.")
    constitution: InputFile | None = Field("microworld", description="A constitution that comes along, or a YAML file.")
    models: dict[str, ModelConfig] = Field(default_factory=lambda: {"policy": ModelConfig()})
    cluster: ClusterConfig = ClusterConfig()
    limits: Limits | None = Field(
        None, exclude_if=lambda limits: limits is None, description="Of the whole run; a stage's own: its `limits`."
    )
    prompts: PromptsConfig | None = Field(
        PromptsConfig(), description="Where prompts come from; null, and the default beside data of your own: none."
    )
    expand: ExpandConfig | None = Field(None, description="Write new prompts from these; null: do not.")
    abliterate: AbliterateConfig | None = Field(
        None,
        exclude_if=lambda section: section is None,
        description="Take the direction of refusal out; makes the models `ablated` and `reverse`.",
    )
    revise: ReviseConfig | None = Field(
        ReviseConfig(), description="Answer, critique, revise; null, and the default beside data of your own: do not."
    )
    sft: SftConfig | None = Field(None, description="Fine-tune the policy on revisions; makes the model `sl_cai`.")
    pairs: PairsConfig | None = Field(None, description="Sample answers of `sl_cai` and pair them.")
    labels: LabelsConfig | None = Field(None, description="Have the feedback model compare the pairs.")
    preference_model: PreferenceModelConfig | None = Field(
        None, description="Train on the labels; makes the model `preference_model`."
    )
    score_rounds: ScoreRoundsConfig | None = Field(
        None, description="Score every round's answers with the preference model."
    )
    dpo: DpoConfig | None = Field(None, description="Train the policy on the labels directly; makes the model `dpo`.")
    ppo: PpoConfig | None = Field(
        None, description="Train the policy against the preference model; makes the model `rl_cai`."
    )
    self_critique: SelfCritiqueConfig | None = Field(
        None,
        exclude_if=lambda section: section is None,
        description="Answer, critique and revise in several formats, scored: what a study is made of.",
    )
    multiple_choice: MultipleChoiceConfig | None = Field(None, description="Ask models a multiple-choice file.")
    evaluate: EvaluateConfig | None = Field(None, description="Answer held-out prompts with several policies, scored.")
    report: ReportConfig | None = Field(None, description="Show it all on one page; comes last.")

    @model_validator(mode="before")
    @classmethod
    def _begin_with_own_data(cls, data: Any) -> Any:
        """A recipe that brings data for a later stage has no other prompts and no revisions than it says."""
        if isinstance(data, dict) and any(_given(data, section, key) for section, key in OWN_DATA.items()):
            return {"prompts": None, "revise": None, **data}
        return data

    @model_validator(mode="after")
    def _some_model(self) -> Recipe:
        if not self.models or (self.revise is not None and "policy" not in self.models):
            raise ValueError(f"models has {', '.join(self.models) or 'nothing'} and no `policy`; add it")
        return self

    @model_validator(mode="after")
    def _dollars_are_known(self) -> Recipe:
        limits = {name: getattr(getattr(self, name), "limits", None) for name in type(self).model_fields}
        priced = any(model.endpoint is not None and model.endpoint.price for model in self.models.values())
        for name, found in {**limits, "": self.limits}.items():
            if found is not None and found.dollars is not None and not priced:
                where = f"{name}.limits".lstrip(".")
                raise ValueError(
                    f"{where}.dollars={found.dollars:g}, and no server has a price; set models.NAME.endpoint.price"
                )
        return self

    @property
    def asked_models(self) -> dict[str, ModelConfig]:
        """Its models by name, and the feedback model, which is the policy where the recipe names no other."""
        policy = self.models.get("policy")
        return {**self.models, FEEDBACK: self.models.get(FEEDBACK, policy)} if policy is not None else self.models


def _given(data: dict[str, Any], section: str, key: str) -> bool:
    found = data.get(section)
    return bool(found.get(key)) if isinstance(found, dict) else bool(getattr(found, key, None))


def find(name: str | Path) -> Path:
    """The file of a recipe: "quickstart" is one that comes along, anything with / or .yaml a path.

    Raises ConfigError for a name that is none.
    """
    if shelf.is_path(str(name)):
        return Path(name)
    found = shelf.available("recipe").get(str(name))
    if found is None:
        raise ConfigError(f"no recipe is called {str(name)!r}; {shelf.advice('recipe', str(name))}")
    return found


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe as it is run: as it is written, and sampling as its models' makers do where it says nothing."""
    return with_model_sampling(written(path, overrides))


def written(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, by path or name, and apply `key=value` overrides. Raises ConfigError with every mistake in it."""
    return build(read(path, overrides), str(path))


def read(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a recipe says, with the overrides and its own folder. Raises ConfigError where that is no mapping."""
    source = find(path)
    try:
        text = source.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"recipe {str(path)!r} does not exist; {shelf.advice('recipe', str(path))}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {str(path)!r} cannot be read: {error}") from error
    data = _read_yaml(text, f"recipe {str(path)!r}")
    if not isinstance(data, dict):
        raise ConfigError(f"recipe {str(path)!r} holds {type(data).__name__}, not a mapping of sections")
    data = apply_overrides(data, overrides)
    folder = data.get(FOLDER) or ""
    if isinstance(folder, str):  # anything else is a mistake that `build` explains
        data[FOLDER] = os.path.abspath(source.parent / folder)
    return data


def limited(recipe: Recipe, limit: int) -> Recipe:
    """For a trial: at most `limit` prompts, and as many records of each set of the recipe's own data."""
    changes: dict[str, Any] = {}
    if recipe.prompts is not None:
        changes["prompts"] = recipe.prompts.model_copy(update={"limit": limit})
    for section, key in OWN_DATA.items():
        config = getattr(recipe, section)
        if own := getattr(config, key, None):
            sets = own if isinstance(own, tuple) else (own,)
            less = tuple(one.model_copy(update={"limit": min(limit, one.limit or limit)}) for one in sets)
            changes[section] = config.model_copy(update={key: less if isinstance(own, tuple) else less[0]})
    return recipe.model_copy(update=changes)


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`revise.num_revisions=2` sets a nested key; the value is YAML. The input is not changed."""
    result: dict[str, Any] = json.loads(json.dumps(data, default=str))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {override!r} is not key=value; write for example --set revise.num_revisions=2")
        at = result
        *parents, last = key.strip().split(".")
        for name in parents:
            nested = at.get(name)
            if nested is None:
                nested = at[name] = {}
            if not isinstance(nested, dict):
                raise ConfigError(f"--set {override!r}: {name!r} is {nested!r}, not a section")
            at = nested
        at[last] = _read_yaml(value, f"--set {override!r}: the value")
    return result


def _read_yaml(text: str, what: str) -> Any:
    """Plain data that JSON can hold. Raises ConfigError."""
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: of a date or a number that is none
        raise ConfigError(f"{what} is not YAML: {error}") from error
    try:
        json.dumps(data, default=str, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        near = error.object[max(0, error.start - 40) : error.end]
        raise ConfigError(f"{what} holds half a character near {near!r}, which no file can hold; remove it") from None
    except (TypeError, ValueError, RecursionError) as error:  # a key that is a date, an alias that holds itself
        raise ConfigError(f"{what} is not plain data, which a recipe is made of: {error}") from None
    return data


def build(data: dict[str, Any], source: str) -> Recipe:
    """Validate. Raises ConfigError that lists every mistake: field, value, rule."""
    try:
        return Recipe.model_validate(data, context={FOLDER: data.get(FOLDER)})
    except ValidationError as error:
        mistakes = [_explain(dict(mistake)) for mistake in error.errors()]
        raise ConfigError(f"recipe {source}:\n" + "\n".join(f"  - {mistake}" for mistake in mistakes)) from None


def _explain(mistake: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in mistake["loc"])
    if mistake["type"] == "extra_forbidden":
        known = _keys_beside(mistake["loc"])
        near = difflib.get_close_matches(str(mistake["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
        return f"{where}: unknown key; {hint}"
    rule = mistake["msg"].removeprefix("Value error, ")
    if not where:  # of the recipe as a whole
        return str(rule)
    value = json.dumps(mistake["input"], default=str)
    return f"{where} = {value if len(value) <= 80 else value[:77] + '...'}: {rule}"


def _keys_beside(location: Sequence[int | str]) -> list[str]:
    """The keys that the section holding `location` knows."""
    model: Any = Recipe
    for part, following in itertools.pairwise(location):
        found = model.model_fields.get(str(part)) if isinstance(model, type) and issubclass(model, BaseModel) else None
        model = _section_type(found.annotation, following) if found is not None else model
    return list(model.model_fields)


def _section_type(annotation: Any, kind: int | str) -> Any:
    """The config class within `X`, `X | None`, `tuple[X, ...]` or `dict[str, X]`; of several the one of this kind."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [_section_type(argument, kind) for argument in getattr(annotation, "__args__", ())]
    known = [section for section in found if section is not None]
    fitting = (one for one in known if "kind" in one.model_fields and one.model_fields["kind"].default == kind)
    return next(fitting, known[0] if known else None)


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every default spelt out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
