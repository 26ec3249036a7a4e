"""A model's set-up as a whole, before anything is started on it.

Tested in tests/field/test_27_setups.py.
"""

from __future__ import annotations

from pathlib import Path

from cai_ray.config import ModelConfig
from cai_ray.engines.models.files import local_folder
from cai_ray.engines.models.reading import read_config
from cai_ray.engines.models.setup.adapters import CONFIG as ADAPTER
from cai_ray.engines.models.setup.adapters import base_of, check_adapter, is_adapter
from cai_ray.engines.models.setup.settings import REWRITES_CONFIG, check_settings
from cai_ray.engines.models.setup.weights import check_targets, check_weights
from cai_ray.errors import ConfigError


def check_setup(where: str, model: ModelConfig) -> None:
    """Raises ConfigError, with the mend, for what an engine or a learner would fail of. Loads no weights.

    `where`: the model's place in the recipe, for messages.
    """
    folder = Path(local_folder(model.path))
    if is_adapter(folder):
        check_adapter(where, folder)
    config, whole = read_config(model), _whole(model)
    if whole != folder and getattr(config, "quantization_config", None) is not None:
        raise ConfigError(
            f"{where}: {model.path!r} is an adapter of {str(whole)!r}, whose weights are quantised: it cannot be "
            f"merged into them; name the base in full precision in {folder / ADAPTER} (base_model_name_or_path)"
        )
    check_settings(where, model, config)
    if whole.is_dir():
        check_weights(where, whole, None if REWRITES_CONFIG in model.engine.extra else config)


def check_files(where: str, model: ModelConfig) -> None:
    """The same for a model that no engine runs, a classifier or an embedder: its weights are there and whole."""
    folder = Path(local_folder(model.path))
    if (folder / "config.json").is_file():
        check_weights(where, folder)


def check_lora(section: str, targets: tuple[str, ...], where: str, model: ModelConfig) -> None:
    """Raises ConfigError for adapters on layers that the model does not have."""
    check_targets(section, targets, _whole(model), where)


def _whole(model: ModelConfig) -> Path:
    """The folder of the weights, of an adapter those of its base; a hub id as a path that is no folder."""
    folder = Path(local_folder(model.path))
    return Path(local_folder(base_of(folder))) if is_adapter(folder) else folder
