"""How a model's makers sample from it: generation_config.json, where the recipe says nothing.

Small models write word salad at temperature 1, and their makers say so in that file. What it names of FIELDS becomes
the default of every sampling section whose model is asked for text by an engine of ours: `revise`, `expand`, `pairs`,
`evaluate`, and the labeller's reasoning. What the recipe says goes before, field by field.

Not touched, because the method needs what it needs: comparisons and other readings of log-probabilities (always at
temperature 1), judges (greedy), PPO (it learns the distribution that it samples from: temperature 1 and nothing cut
off), and endpoints, whose servers have defaults of their own. `max_new_tokens` is not taken: a budget is the recipe's.
A file that says `do_sample: false` means greedy answers, of which a pair has none to compare: it is not followed.

Tested in tests/pipeline/test_model_sampling.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from cai_ray.artifacts.storage import Storage, is_uri
from cai_ray.config import Config, ModelConfig, SamplingConfig, is_micro_model
from cai_ray.engines.models.setup import adapters
from cai_ray.errors import ConfigError
from cai_ray.lookup import location

NAME = "generation_config.json"
FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
# Section -> its fields of type SamplingConfig that ask a model for text.
ASKED = {
    "expand": ("sampling",),
    "revise": ("answer_sampling", "critique_sampling", "revision_sampling"),
    "pairs": ("sampling",),
    "labels": ("cot_sampling",),
    "evaluate": ("sampling",),
}
MADE_BY = {"sl_cai": "sft", "dpo": "dpo", "rl_cai": "ppo"}  # model -> section that trains it, from `model`
HTTP_OK = 200
RecipeT = TypeVar("RecipeT", bound=Config)


@dataclass(frozen=True)
class Taken:
    """What a section takes from a model's file."""

    section: str
    field: str
    values: dict[str, Any]  # of FIELDS, or of a field of the section itself
    model: str  # the recipe's name
    file: str


def with_model_sampling(recipe: RecipeT) -> RecipeT:
    """The recipe with what its models' files say where it says nothing. Raises ConfigError for a file that errs."""
    changes: dict[str, Any] = {}
    for one in taken(recipe):
        section = changes.get(one.section, getattr(recipe, one.section))
        old = getattr(section, one.field)
        new = old.model_copy(update=one.values) if isinstance(old, SamplingConfig) else one.values[one.field]
        changes[one.section] = section.model_copy(update={one.field: new})
    return recipe.model_copy(update=changes) if changes else recipe


def taken(recipe: Config) -> Iterator[Taken]:
    """Field by field of the recipe's sections; nothing where the recipe speaks or the file does not."""
    models: Mapping[str, ModelConfig] = getattr(recipe, "models")  # noqa: B009  # of a Recipe, which lies above
    for name, fields in ASKED.items():
        section = getattr(recipe, name)
        if section is None:
            continue
        asked = _one_base(recipe, section.policies if name == "evaluate" else (section.model,), models)
        if asked is None:
            continue
        file, found = sampling_of(models[asked])
        for field in fields:
            said: set[str] = getattr(section, field).model_fields_set
            silent = {key: value for key, value in found.items() if key not in said}
            if name == "pairs" and "temperature" in silent:  # its temperatures stand apart, one for each sample
                temperature = silent.pop("temperature")
                if "temperatures" not in section.model_fields_set:
                    yield Taken(name, "temperatures", {"temperatures": (temperature,)}, asked, file)
            if silent:
                yield Taken(name, field, silent, asked, file)


def sampling_of(model: ModelConfig) -> tuple[str, dict[str, Any]]:
    """(where, what of FIELDS) a model's file says; nothing of endpoints, and where there is no file or no such word."""
    if model.endpoint is not None or is_micro_model(model.path):
        return "", {}
    place, text = _read(model)
    if text is None:
        return place, {}
    try:
        said = json.loads(text)
        if not isinstance(said, dict):
            raise ValueError("it is no mapping")
        if said.get("do_sample") is False:
            return place, {}
        found = {name: said[name] for name in FIELDS if said.get(name) is not None}
        checked = SamplingConfig(**found)
    except (ValueError, ValidationError) as error:
        raise ConfigError(
            f"{place} cannot be read: {str(error).splitlines()[-1].strip()}; mend it, or delete it and write the "
            "recipe's own sampling"
        ) from error
    return place, {name: getattr(checked, name) for name in found}


def told(recipe: Config) -> list[str]:
    """One line per section's field, for a person: what comes from which file."""
    return [
        f"{one.section}.{one.field}: {', '.join(f'{name} {_plain(value)}' for name, value in one.values.items())} "
        f"from {one.file} (models.{one.model})"
        for one in taken(recipe)
    ]


def _plain(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def _one_base(recipe: Config, names: tuple[str, ...], models: Mapping[str, ModelConfig]) -> str | None:
    """The model of the recipe that all of these descend from; None where there are several or none."""
    bases = {_base(recipe, name, models) for name in names}
    return next(iter(bases)) if len(bases) == 1 else None


def _base(recipe: Config, name: str, models: Mapping[str, ModelConfig]) -> str | None:
    for _ in range(len(MADE_BY) + 2):  # a chain of models made from each other; a circle is told elsewhere
        if name in models:
            return name
        if name == "feedback" and "policy" in models:  # which labels where the recipe names no other
            return "policy"
        section = getattr(recipe, MADE_BY.get(name, ""), None)
        if section is None:
            return None
        name = section.model
    return None


def _read(model: ModelConfig) -> tuple[str, str | None]:
    """(where, the text) of the file; None where there is none, or no hub to ask."""
    path = location(model.path)
    if is_uri(path):
        storage = Storage(path)
        return f"{storage.shown}/{NAME}", storage.read(NAME).decode() if storage.exists(NAME) else None
    folder = Path(path).expanduser()
    if folder.is_dir():
        file = folder / NAME
        if not file.is_file() and adapters.is_adapter(folder):
            return _read(
                ModelConfig(path=adapters.base_of(folder), revision=adapters.settings_of(folder).get("revision"))
            )
        return str(file), file.read_text(encoding="utf-8") if file.is_file() else None
    return f"{path}/{NAME}", _of_hub(path, model.revision)


def _of_hub(name: str, revision: str | None) -> str | None:
    """The file in this machine's cache, else the hub's, asked once: a place that is none is told by its weights."""
    from huggingface_hub import hf_hub_url, try_to_load_from_cache
    from huggingface_hub.utils import build_hf_headers, get_session  # type: ignore[attr-defined]

    try:
        cached = try_to_load_from_cache(name, NAME, revision=revision)
        if isinstance(cached, str):
            return Path(cached).read_text(encoding="utf-8")
        url = hf_hub_url(name, NAME, revision=revision)
        found = get_session().get(url, headers=build_hf_headers(), timeout=10, follow_redirects=True)
    except Exception:  # the hub's errors come from several libraries, as in artifacts/identity.py
        return None
    return found.text if found.status_code == HTTP_OK else None
