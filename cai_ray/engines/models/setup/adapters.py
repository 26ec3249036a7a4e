"""An adapter's folder (PEFT) in a model's place: the base that it was trained on, and the whole model of both.

Whoever loads weights gets the whole model, merged once per node (`weights_folder` of ../files.py). Config and
tokenizer are read without merging.

Tested in tests/field/test_27_setups.py and tests/engines/models/test_trainable.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cai_ray.artifacts.storage import is_uri
from cai_ray.errors import ConfigError

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
WHOLE = ("*.safetensors", "pytorch_model*.bin", "*.gguf")
TOKENIZER = "tokenizer_config.json"
# They change what a model is given, not its weights.
UNMERGEABLE = frozenset({"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT"})


def is_adapter(folder: Path) -> bool:
    """Whether this local folder holds an adapter and no whole model beside it."""
    if not (folder / CONFIG).is_file():
        return False
    found = {file.name for pattern in WHOLE for file in folder.glob(pattern)}
    return found <= set(WEIGHTS)


def settings_of(folder: Path) -> dict[str, Any]:
    """What adapter_config.json says. Raises ConfigError where that is no JSON object."""
    try:
        said = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{folder / CONFIG} is no JSON: {error}; save the adapter again") from error
    if not isinstance(said, dict):
        raise ConfigError(f"{folder / CONFIG} is no JSON object; save the adapter again")
    return said


def base_of(folder: Path) -> str:
    """The model that this adapter was trained on: a folder, a URI or, where no folder is found, a hub id.

    A relative name is looked up in the adapter's folder, beside it, and in the working directory. Raises ConfigError
    where adapter_config.json names none, or an absolute path that is not there.
    """
    name = str(settings_of(folder).get("base_model_name_or_path") or "")
    if not name:
        raise ConfigError(
            f"{str(folder)!r} is an adapter, and its {CONFIG} does not say of which model; write that model's folder "
            "or hub id there as base_model_name_or_path"
        )
    if is_uri(name):
        return name
    found = next((place for place in _places(folder, name) if place.is_dir()), None)
    if found is None and Path(name).expanduser().is_absolute():
        raise ConfigError(no_base(folder))
    return name if found is None else str(found.resolve())


def no_base(folder: Path) -> str:
    """For an error: the base is nowhere."""
    name = str(settings_of(folder).get("base_model_name_or_path"))
    places = _places(folder, name)
    return (
        f"{str(folder)!r} is an adapter of {name!r}, and that model is not there (looked for "
        f"{', '.join(map(str, places))}{', then on the hub' if len(places) > 1 else ''}); write its folder or hub id "
        f"into {folder / CONFIG} as base_model_name_or_path, or merge the adapter and name the merged folder"
    )


def _places(folder: Path, name: str) -> list[Path]:
    given = Path(name).expanduser()
    if given.is_absolute():
        return [given]
    return list(dict.fromkeys([folder / given, folder.parent / given, Path.cwd() / given]))


def check_adapter(where: str, folder: Path) -> None:
    """Raises ConfigError for an adapter that cannot be merged."""
    said = settings_of(folder)
    if said.get("peft_type") in UNMERGEABLE:
        raise ConfigError(
            f"{where}: {str(folder)!r} is an adapter of kind {said['peft_type']}, which cannot be merged into "
            "weights; name a LoRA adapter or a whole model"
        )
    if not any((folder / file).is_file() for file in WEIGHTS):
        raise ConfigError(
            f"{where}: {str(folder)!r} is an adapter without weights: neither {' nor '.join(WEIGHTS)} is there; "
            "save it again, or name its base"
        )


def merged(folder: Path, base: str, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The whole transformers model of an adapter's folder, in the precision that its base is stored in.

    `base`: a folder or hub id, at `revision`.
    """
    import peft
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    stored = AutoConfig.from_pretrained(base, **options).dtype
    auto_class: Any = AutoModelForCausalLM
    if is_scorer(folder):
        auto_class = AutoModelForSequenceClassification
        options["num_labels"] = _num_labels(folder)
    model = auto_class.from_pretrained(base, dtype=torch.float32, **options)
    if (folder / TOKENIZER).is_file():  # trained with tokens of its own
        from transformers import AutoTokenizer

        num_tokens = len(AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code))
        if num_tokens > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(num_tokens)
    whole: Any = peft.PeftModel.from_pretrained(model, str(folder))
    return make_savable(whole.merge_and_unload()).to(stored or torch.float32)


def make_savable(model: Any) -> Any:
    """transformers reads a generation config that names a temperature and no `do_sample`, and refuses to save it."""
    generation = getattr(model, "generation_config", None)
    if generation is not None:
        try:
            generation.validate(strict=True)
        except ValueError:
            generation.do_sample = True  # what it names is there to be sampled by
    return model


def is_scorer(folder: Path) -> bool:
    """Whether the adapter has a score head of its own."""
    return settings_of(folder).get("task_type") == "SEQ_CLS"


def _num_labels(folder: Path) -> int:
    from safetensors import safe_open

    with safe_open(folder / WEIGHTS[0], framework="pt") as tensors:
        (head,) = (name for name in tensors.keys() if name.endswith("score.weight"))  # noqa: SIM118, no mapping
        return int(tensors.get_slice(head).get_shape()[0])
