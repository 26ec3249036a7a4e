"""Read what a model's folder holds: config, tokenizer, prompt format, weights; an error says what to do.

Tested in tests/engines/models/test_answer_tokens.py and tests/engines/models/test_trainable.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cai_ray.chat import Renderer
from cai_ray.config import ModelConfig, SystemRole
from cai_ray.engines.models.files import config_folder, local_folder, tokenizer_folder, weights_folder
from cai_ray.engines.models.setup.adapters import is_adapter, no_base
from cai_ray.engines.models.setup.context import default_context
from cai_ray.errors import ConfigError
from cai_ray.lookup import location, searched

TOKENIZER_FILES = (
    "tokenizer.json", "*.model", "vocab.json", "vocab.txt", "merges.txt", "tekken.json", "*.tiktoken",
)  # fmt: skip
CONFIG_KEY = "cai_ray"  # in config.json of score models we train: how they read conversations


def read(
    auto_class: Any,
    model: ModelConfig,
    what: str,
    path: str | None = None,
    place: Callable[[str], str] | None = None,
    **options: Any,
) -> Any:
    """`auto_class.from_pretrained` at `path` (None: the model's); a URI's files are fetched once.

    `place`: which folder that is of an adapter's and its base's; None: where the whole model is.

    Raises ConfigError when there is no `what` ("model", "tokenizer") at that place.
    """
    path = path or model.path
    folder = weights_folder(path, model.trust_remote_code) if place is None else place(path)
    try:
        return auto_class.from_pretrained(
            folder, revision=model.revision, trust_remote_code=model.trust_remote_code, **options
        )
    except (OSError, ValueError) as error:
        if is_adapter(given := Path(local_folder(path))) and not Path(folder).is_dir():
            raise ConfigError(no_base(given)) from error
        raise ConfigError(
            f"no {what} at {path!r}: {str(error).splitlines()[0]} (give a local folder, a hub id that this machine "
            f"can reach, or 'microworld'; {searched(path)})"
        ) from error


def read_config(model: ModelConfig, what: str = "model") -> Any:
    """The transformers config. Raises ConfigError when there is none."""
    from transformers import AutoConfig

    return read(AutoConfig, model, what, place=config_folder)


def read_tokenizer(model: ModelConfig) -> Any:
    """The tokenizer as it is stored. Raises ConfigError when there is none."""
    from transformers import AutoTokenizer

    path = model.tokenizer or model.path
    folder = Path(tokenizer_folder(path))
    if folder.is_dir() and not model.trust_remote_code and not any(any(folder.glob(name)) for name in TOKENIZER_FILES):
        # transformers would say something of a backend, or make one up that knows no word.
        raise ConfigError(
            f"no tokenizer at {path!r}: none of {', '.join(TOKENIZER_FILES)} is in {folder}; copy the model's own "
            "there or name its folder or hub id as `tokenizer`"
        )
    return read(AutoTokenizer, model, "tokenizer", path, tokenizer_folder)


def read_chat_template(model: ModelConfig) -> str | None:
    """The recipe's own template; None: it names none. Raises ConfigError when the file cannot be read."""
    if model.chat_template is None:
        return None
    try:
        return Path(location(model.chat_template)).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"chat_template {model.chat_template!r} cannot be read: {error.strerror}; {searched(model.chat_template)}"
        ) from error


def load_renderer(model: ModelConfig) -> Renderer:
    """The Renderer of `model`. Raises ConfigError when the tokenizer or its chat template is missing."""
    tokenizer, template = read_tokenizer(model), read_chat_template(model)
    try:
        return Renderer(
            tokenizer, model.format, model.system_role, template, model.chat_template_kwargs, model.template_date
        )
    except ValueError as error:
        raise ConfigError(f"model {model.tokenizer or model.path!r}: {error}") from error


def trained_system_role(config: Any, otherwise: SystemRole) -> SystemRole:
    """What the conversations of a score model's training did with a system message, where its config says so."""
    role: SystemRole = getattr(config, CONFIG_KEY, {}).get("system_role", otherwise)
    return role


def attention_of(config: Any) -> str | None:
    """The attention implementation that computes what a model's config says; None: transformers' own choice does.

    transformers chooses torch's `sdpa`, which is handed a soft cap on attention logits (Gemma 2 and its like) and
    leaves it out without a word: 0.7 nats per token from what an engine samples. `eager` computes it, at the price of
    memory that grows with the square of the length. Sliding windows and query scaling `sdpa` computes; architectures
    that it cannot compute otherwise (attention sinks) say so to transformers themselves.
    """
    return "eager" if getattr(config.get_text_config(), "attn_logit_softcapping", None) else None


def dtype_of(model: ModelConfig) -> Any:
    """As the recipe says; "auto": float32 on CPU, as stored on a GPU."""
    import torch

    if model.dtype == "auto":
        return "auto" if torch.cuda.is_available() else torch.float32
    return getattr(torch, model.dtype)


def context_length(model: ModelConfig, at_most: int | None = None) -> int:
    """The most tokens a language model reads at once, or `at_most`. Raises ConfigError when there is no model."""
    most = model.max_model_len or default_context(read_config(model))
    return min(at_most or most, most)


def max_tokens_of(model: ModelConfig, config: Any, tokenizer: Any) -> int:
    """The most tokens a classifier reads: the recipe's word, else the least that config and tokenizer give."""
    if model.max_model_len is not None:
        return model.max_model_len
    known = [int(tokenizer.model_max_length)]  # a huge number where the tokenizer does not say
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None:
        # RoBERTa and its like count positions from behind the padding token's.
        offset = config.pad_token_id + 1 if "roberta" in config.model_type and config.pad_token_id is not None else 0
        known.append(int(positions) - offset)
    return min(known)
