"""Can this model choose between options? Found out before the first row is asked, not after the last one failed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from cai_ray.chat import Message
from cai_ray.config import ModelConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.errors import ConfigError


def check_options(model: ModelConfig, options: Sequence[str], sample: Sequence[Message]) -> None:
    """Raise ConfigError where `ask.choose(..., options)` would fail for every row.

    Weights: each option must be one token of the tokenizer. An endpoint is asked `sample` once, because nothing else
    tells whether it gives log-probabilities; EngineGaveUp when no server answers.
    """
    if model.endpoint is not None:
        asyncio.run(_ask_once(model, options, sample))
        return
    from cai_ray.engines.backends.vllm_backend import option_token_id
    from cai_ray.engines.models.reading import load_renderer

    renderer = load_renderer(model)
    try:
        text = renderer.text(list(sample))
        ids = [option_token_id(renderer, option, text) for option in options]
    except ValueError as error:
        raise ConfigError(f"model {model.path!r}: {error}") from error
    if len(set(ids)) < len(ids):
        raise ConfigError(
            f"model {model.path!r}: the options {', '.join(map(repr, options))} begin with the same token; "
            "choose a model whose tokenizer tells them apart"
        )


def is_one_token(model: ModelConfig, option: str, sample: Sequence[Message]) -> bool:
    """Whether the tokenizer of a model with weights spells the option, right behind the sample, as one token."""
    from cai_ray.engines.backends.vllm_backend import option_token_id
    from cai_ray.engines.models.reading import load_renderer

    renderer = load_renderer(model)
    try:
        option_token_id(renderer, option, renderer.text(list(sample)))
    except ValueError:
        return False
    return True


async def _ask_once(model: ModelConfig, options: Sequence[str], sample: Sequence[Message]) -> None:
    from cai_ray.engines.backends.endpoint import EndpointBackend

    async def unguarded(send: Callable[[], Awaitable[Any]]) -> Any:
        return await send()

    backend = EndpointBackend(model)
    try:
        await backend.start()
        await backend.open("option check", lambda k: 0, unguarded).choose(sample, options)
    except DropRow as drop:
        # What one request may meet by chance, a full queue or an unlikely option, is left to the rows themselves.
        if drop.reason in (DropReason.REQUEST_REJECTED, DropReason.NO_LOGPROBS):
            raise ConfigError(f"{backend.endpoint.base_url}: {drop.detail}") from drop
    finally:
        await backend.close()
