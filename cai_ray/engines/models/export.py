"""A trained checkpoint becomes an ordinary Hugging Face folder.

Tested in tests/engines/models/test_trainable.py.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from cai_ray.config import ModelConfig
from cai_ray.engines.models.reading import read_config

ADAPTER = "adapter_config.json"


# What a checkpoint has beside the model: states to resume from, and the Trainer's own arguments.
NOT_MODEL = (
    "optimizer.*", "scheduler.*", "scaler.*", "rng_state*", "trainer_state.json", "training_args.bin", "latest",
    "zero_to_fp32.py", "global_step*",
)  # fmt: skip


def export_model(checkpoint: Path, folder: Path, model_card: str) -> None:
    """Write the model of a Trainer's checkpoint folder as a Hugging Face folder of its own, replacing `folder`.

    Adapters are merged into the weights they were trained on. From files alone, so that it does not matter how the
    training was sharded.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns(*NOT_MODEL))
    if (folder / ADAPTER).exists():
        _merge_adapters(folder)
    _turn_cache_on(folder / "config.json")
    (folder / "README.md").write_text(model_card, encoding="utf-8")


def _merge_adapters(folder: Path) -> None:
    """Replace the adapters in `folder` by the whole model, in the precision its base is stored in."""
    import peft
    import torch

    adapters = folder / "adapter_model.safetensors"
    config = peft.PeftConfig.from_pretrained(str(folder))
    stored = read_config(ModelConfig(path=config.base_model_name_or_path, revision=config.revision)).dtype
    options: dict[str, Any] = {"dtype": torch.float32}
    auto_class: Any = peft.AutoPeftModelForCausalLM
    if config.task_type == peft.TaskType.SEQ_CLS:
        auto_class = peft.AutoPeftModelForSequenceClassification
        options["num_labels"] = _num_labels(adapters)
    merged = auto_class.from_pretrained(str(folder), **options).merge_and_unload()
    for file in (folder / ADAPTER, adapters):
        file.unlink()
    merged.to(stored or torch.float32).save_pretrained(folder)


def _num_labels(adapters: Path) -> int:
    from safetensors import safe_open

    with safe_open(adapters, framework="pt") as tensors:
        (head,) = (name for name in tensors.keys() if name.endswith("score.weight"))  # noqa: SIM118, no mapping
        return int(tensors.get_slice(head).get_shape()[0])


def _turn_cache_on(config: Path) -> None:
    """The Trainer turns the key-value cache off and the config remembers it; whoever generates wants it on."""
    saved = json.loads(config.read_text(encoding="utf-8"))
    if saved.get("use_cache") is False:
        config.write_text(json.dumps({**saved, "use_cache": True}, indent=2) + "\n", encoding="utf-8")
