"""Load a model's tokenizer and its prompt format, with messages that say what to do when it fails.

Tested in tests/engines/models/test_answer_tokens.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cai_ray.chat import Renderer
from cai_ray.config import ModelConfig
from cai_ray.engines.models.files import local_folder
from cai_ray.errors import ConfigError
from cai_ray.lookup import location, searched


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
            f"no tokenizer at {path!r}: {str(error).splitlines()[0]} (give a local folder, a hub id that this machine "
            f"can reach, or 'microworld'; {searched(model.tokenizer or model.path)})"
        ) from error
    template = None
    if model.chat_template is not None:
        try:
            template = Path(location(model.chat_template)).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"chat_template {model.chat_template!r} cannot be read: {error.strerror}; "
                f"{searched(model.chat_template)}"
            ) from error
    try:
        return Renderer(tokenizer, model.format, model.system_role, template)
    except ValueError as error:
        raise ConfigError(f"model {path!r}: {error}") from error


def config_of(model: ModelConfig) -> Any:
    """Raises ConfigError when there is none."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"no classifier at {model.path!r}: {str(error).splitlines()[0]}") from error


def dtype_of(model: ModelConfig) -> Any:
    """As the recipe says; "auto": float32 on CPU, as stored on a GPU."""
    import torch

    if model.dtype == "auto":
        return "auto" if torch.cuda.is_available() else torch.float32
    return getattr(torch, model.dtype)


def max_tokens_of(model: ModelConfig, config: Any, tokenizer: Any) -> int:
    """The most tokens the model reads: the recipe's word, else the least that config and tokenizer give."""
    if model.max_model_len is not None:
        return model.max_model_len
    known = [int(tokenizer.model_max_length)]  # a huge number where the tokenizer does not say
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None:
        # RoBERTa and its like count positions from behind the padding token's.
        offset = config.pad_token_id + 1 if "roberta" in config.model_type and config.pad_token_id is not None else 0
        known.append(int(positions) - offset)
    return min(known)


def tokenizer_of(path: str, model: ModelConfig) -> Any:
    """Raises ConfigError when there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, revision=model.revision, trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no tokenizer at {path!r}: {str(error).splitlines()[0]}") from error
