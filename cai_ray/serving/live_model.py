"""One model, live: answers as they are written, and scores. What `serve` and `chat` talk to.

The batch stages' vLLM engine (vllm_backend.py) with a door of another kind: a person or a client waits at it, so text
is handed out as it comes and nothing is retried or dropped into a file.

Tested in tests/serving/test_terminal_chat.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Literal
from uuid import uuid4

from cai_ray.chat import Message, Renderer, stop_strings
from cai_ray.config import ModelConfig
from cai_ray.engines.backends.vllm_backend import VllmBackend
from cai_ray.engines.models.files import localised
from cai_ray.engines.models.reading import CONFIG_KEY, load_renderer
from cai_ray.engines.models.scored_tokens import ScoredTokens
from cai_ray.engines.models.trainable import local_path
from cai_ray.errors import ConfigError
from cai_ray.serving.replies import Delta, TokenLogprob
from cai_ray.serving.requests import AnswerOptions, ApiError
from cai_ray.serving.thinking_stream import ThinkingStream

logger = logging.getLogger(__name__)
Kind = Literal["chat", "score"]
# vLLM serves a sequence classifier as a pooling model; the score is its raw output.
CLASSIFIER_ENGINE = {"runner": "pooling", "convert": "classify"}


def kind_of(model: ModelConfig) -> Kind:
    """What the model at `model.path` does, by its config.json: "score" for a sequence classifier.

    Raises ConfigError when there is no model, or a classifier has more than one output.
    """
    config = _config_json(model)
    if not any(name.endswith("ForSequenceClassification") for name in config.architectures or ()):
        return "chat"
    if config.num_labels != 1:
        raise ConfigError(f"the classifier at {model.path!r} has {config.num_labels} outputs; a score is one")
    return "score"


def ready_to_serve(model: ModelConfig) -> ModelConfig:
    """The config as an engine is started with it. Raises ConfigError for what would fail there."""
    if model.endpoint is not None:
        raise ConfigError(
            f"the model is served already, at {model.endpoint.base_url}; name weights (a folder, a hub id)"
        )
    model = local_path(model)
    if kind_of(model) == "score":
        described = getattr(_config_json(model), CONFIG_KEY, {})
        engine = model.engine.model_copy(update={"extra": CLASSIFIER_ENGINE | model.engine.extra})
        changes = {"format": "chat", "system_role": described.get("system_role", model.system_role), "engine": engine}
        model = model.model_copy(update=changes)
        _scored_tokens(model, load_renderer(model))
    else:
        load_renderer(model)
    return model


def _config_json(model: ModelConfig) -> Any:
    from transformers import AutoConfig

    path = localised(model).path
    try:
        return AutoConfig.from_pretrained(path, revision=model.revision, trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no model at {model.path!r}: {str(error).splitlines()[0]} (give a folder with config.json, a hub id that "
            'this machine can reach, "microworld", or RECIPE:NAME for a model that a recipe names or trains)'
        ) from error


def _scored_tokens(model: ModelConfig, renderer: Renderer) -> ScoredTokens:
    return ScoredTokens(model, renderer.tokenizer)


class LiveModel(VllmBackend):
    """A model of either kind, to be started; `model` is what `ready_to_serve` returned.

    Attributes:
        kind: "chat" answers, "score" scores.
    """

    def __init__(self, model: ModelConfig) -> None:
        super().__init__(model)
        self.kind = kind_of(self.model)
        self._scored = _scored_tokens(self.model, self.renderer) if self.kind == "score" else None

    @property
    def is_dead(self) -> bool:
        """Whether the engine was started and has died since."""
        return self._engine is not None and bool(self._engine.errored)

    async def answer(
        self, messages: Sequence[Message], options: AnswerOptions, in_pieces: bool = True
    ) -> AsyncGenerator[Delta, None]:
        """The answer as it is written, or in one piece. Control tokens spelt out in the messages are defused.

        Closing the iterator early ends the request in the engine. Raises ApiError 400 for messages that the chat
        template or the context cannot hold, 503 when the engine dies.
        """
        ids = self._prompt_ids(messages)
        params = self._sampling(options, self._room(ids), in_pieces)
        parting = ThinkingStream(self.model.thinking) if self.model.thinking else None
        num_cached, num_output = 0, 0
        async with aclosing(self._outputs(ids, params)) as outputs:
            async for output in outputs:
                piece = output.outputs[0]
                num_cached = output.num_cached_tokens or num_cached
                num_output += len(piece.token_ids)
                reason = None
                if output.finished:
                    reason = "length" if piece.finish_reason == "length" else "stop"
                logprobs = None if piece.logprobs is None else _token_logprobs(piece, options.top_logprobs or 0)
                thinking, text = parting.feed(piece.text, output.finished) if parting else ("", piece.text)
                yield Delta(text, len(ids), num_cached, num_output, reason, logprobs, thinking)

    async def score(self, messages: Sequence[Message], answer: str) -> tuple[float, int]:
        """(raw score of the answer, tokens scored). Raises ApiError 400 when the context cannot hold them."""
        from vllm import PoolingParams

        assert self._scored is not None, "a chat model has no score"
        try:
            ids = self._scored.encode(messages, answer)
        except Exception as error:  # a template refuses by an exception type of Jinja's own
            raise _refused_by_template(error) from error
        if len(ids) > self.max_model_len:
            raise _too_long(len(ids), self.max_model_len)
        final: Any = None
        async for output in self._outputs(ids, PoolingParams(task="classify", use_activation=False)):
            final = output
        return float(final.outputs.data.reshape(-1)[0]), len(ids)

    def _prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        safe, num_defused = self.renderer.neutralised(messages)
        if num_defused:
            logger.info("%d control tokens defused in a client's messages", num_defused)
        try:
            return self.renderer.encode(self.renderer.text(safe))
        except Exception as error:
            raise _refused_by_template(error) from error

    def _room(self, ids: list[int]) -> int:
        if len(ids) >= self.max_model_len:
            raise _too_long(len(ids), self.max_model_len)
        return self.max_model_len - len(ids)

    def _sampling(self, options: AnswerOptions, room: int, in_pieces: bool) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        # A reasoning model's thinking has a budget of its own, on top of the answer's.
        max_tokens = options.max_tokens + (self.model.thinking.max_tokens if self.model.thinking else 0)
        return SamplingParams(
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=options.top_k,
            max_tokens=min(max_tokens, room),
            stop=list(stop_strings(options.stop, self.model.format)),
            seed=options.seed if options.temperature > 0 else None,
            presence_penalty=options.presence_penalty,
            frequency_penalty=options.frequency_penalty,
            logprobs=options.top_logprobs,
            output_kind=RequestOutputKind.DELTA if in_pieces else RequestOutputKind.FINAL_ONLY,
        )

    async def _outputs(self, ids: list[int], params: Any) -> AsyncGenerator[Any, None]:
        """vLLM's outputs of one request, generating or pooling by the kind of `params`."""
        from vllm import SamplingParams, TokensPrompt
        from vllm.v1.engine.exceptions import EngineDeadError

        prompt, request_id = TokensPrompt(prompt_token_ids=ids), uuid4().hex
        send = self._engine.generate if isinstance(params, SamplingParams) else self._engine.encode
        try:
            async with aclosing(send(prompt, params, request_id)) as outputs:
                async for output in outputs:
                    yield output
        except EngineDeadError as error:
            raise ApiError(503, "the engine died; another is being started", "engine_dead", retry_after_s=15) from error
        except (asyncio.CancelledError, GeneratorExit, ApiError):
            raise
        except Exception as error:  # vLLM validates each request by itself: the fault is this request's
            raise ApiError(400, f"the engine refused the request: {error}"[:500]) from error


def _token_logprobs(piece: Any, num_alternatives: int) -> tuple[TokenLogprob, ...]:
    found = []
    for token_id, position in zip(piece.token_ids, piece.logprobs, strict=True):
        ranked = sorted(position.values(), key=lambda entry: -entry.logprob)[:num_alternatives]
        own = position[token_id]
        alternatives = tuple((other.decoded_token or "", other.logprob) for other in ranked)
        found.append(TokenLogprob(own.decoded_token or "", own.logprob, alternatives))
    return tuple(found)


def _too_long(num_tokens: int, max_model_len: int) -> ApiError:
    message = f"the messages have {num_tokens} tokens, the model's context holds {max_model_len}; send fewer"
    return ApiError(400, message, "context_length_exceeded", "messages")


def _refused_by_template(error: Exception) -> ApiError:
    return ApiError(400, f"the model's chat template refuses these messages: {error}"[:500], param="messages")
