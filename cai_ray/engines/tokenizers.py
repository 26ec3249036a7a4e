"""Load a model's tokenizer and its prompt format, with messages that say what to do when it fails."""

from __future__ import annotations

from pathlib import Path

from cai_ray.chat import Renderer
from cai_ray.config import ModelConfig
from cai_ray.engines.model_files import local_folder
from cai_ray.errors import ConfigError


def load_renderer(model: ModelConfig) -> Renderer:
    """The Renderer of `model`. Raises ConfigError when the tokenizer or its chat template is missing."""
    from transformers import AutoTokenizer

    path = local_folder(model.tokenizer or model.path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no tokenizer at {path!r}: {str(error).splitlines()[0]} "
            "(give a local folder, a hub id that this machine can reach, or 'microworld')"
        ) from error
    template = None
    if model.chat_template is not None:
        try:
            template = Path(model.chat_template).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"chat_template {model.chat_template!r} cannot be read: {error.strerror}") from error
    try:
        return Renderer(tokenizer, model.format, model.system_role, template)
    except ValueError as error:
        raise ConfigError(f"model {path!r}: {error}") from error
