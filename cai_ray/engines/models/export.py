"""A trained checkpoint becomes an ordinary Hugging Face folder.

Tested in tests/engines/models/test_trainable.py.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from cai_ray.engines.models.setup import adapters

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
    if adapters.is_adapter(folder):
        settings = adapters.settings_of(folder)
        whole = adapters.merged(folder, settings["base_model_name_or_path"], settings.get("revision"))
        for file in (adapters.CONFIG, adapters.WEIGHTS[0]):
            (folder / file).unlink()
        whole.save_pretrained(folder)
    _turn_cache_on(folder / "config.json")
    (folder / "README.md").write_text(model_card, encoding="utf-8")


def _turn_cache_on(config: Path) -> None:
    """The Trainer turns the key-value cache off and the config remembers it; whoever generates wants it on."""
    saved = json.loads(config.read_text(encoding="utf-8"))
    if saved.get("use_cache") is False:
        config.write_text(json.dumps({**saved, "use_cache": True}, indent=2) + "\n", encoding="utf-8")
