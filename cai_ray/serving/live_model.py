"""One model, live, as `serve` and `chat` start it: the batch stages' vLLM engine, and the score of a preference model.

Tested in tests/cluster/test_serve.py and tests/serving/test_terminal_chat.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal
from uuid import uuid4

from cai_ray.chat import Message
from cai_ray.config import ModelConfig
from cai_ray.engines.backends.vllm_engine import VllmEngine
from cai_ray.engines.models.reading import load_renderer, read_config, trained_system_role
from cai_ray.engines.models.scored_tokens import ScoredTokens
from cai_ray.engines.models.setup.check import check_setup
from cai_ray.engines.models.trainable import local_path
from cai_ray.errors import ConfigError
from cai_ray.serving.refusals import ApiError, engine_dead

Kind = Literal["chat", "score"]
# vLLM serves a sequence classifier as a pooling model; the score is its raw output.
CLASSIFIER_ENGINE = {"runner": "pooling", "convert": "classify"}


def kind_of(model: ModelConfig) -> Kind:
    """What the model at `model.path` does, by its config.json: "score" for a sequence classifier.

    Raises ConfigError when there is no model, or a classifier has more than one output.
    """
    config = read_config(model)
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
    check_setup("model", model)
    if kind_of(model) == "score":
        role = trained_system_role(read_config(model), model.system_role)
        engine = model.engine.model_copy(update={"extra": CLASSIFIER_ENGINE | model.engine.extra})
        model = model.model_copy(update={"format": "chat", "system_role": role, "engine": engine})
        ScoredTokens(model, load_renderer(model).tokenizer)
    else:
        load_renderer(model)
    return model


class LiveModel(VllmEngine):
    """A model of either kind, to be started; `model` is what `ready_to_serve` returned.

    Attributes:
        kind: "chat" answers, "score" scores.
    """

    def __init__(self, model: ModelConfig) -> None:
        super().__init__(model)
        self.kind = kind_of(self.model)
        self._scored = ScoredTokens(self.model, self.renderer.tokenizer) if self.kind == "score" else None

    @property
    def is_dead(self) -> bool:
        """Whether the engine was started and has died since."""
        return self._engine is not None and bool(self._engine.errored)

    @property
    def engine(self) -> Any:
        """vLLM's AsyncLLM, once started."""
        assert self._engine is not None, "start() first"
        return self._engine

    async def score(self, messages: Sequence[Message], answer: str) -> tuple[float, int]:
        """(raw score of the answer, tokens scored). Control tokens spelt out in the texts are defused.

        Raises ApiError 400 for what the chat template or the context cannot hold, 503 when the engine dies.
        """
        from vllm import PoolingParams, TokensPrompt
        from vllm.v1.engine.exceptions import EngineDeadError

        assert self._scored is not None, "a chat model has no score"
        try:
            ids = self._scored.encode(messages, answer)
        except Exception as error:  # a template refuses by an exception type of Jinja's own
            message = f"the model's chat template refuses these messages: {error}"
            raise ApiError(400, message[:500], param="messages") from error
        if len(ids) > self.max_model_len:
            message = f"the messages have {len(ids)} tokens, the model's context holds {self.max_model_len}; send fewer"
            raise ApiError(400, message, "context_length_exceeded", "messages")
        params, final = PoolingParams(task="classify", use_activation=False), None
        try:
            async for output in self.engine.encode(TokensPrompt(prompt_token_ids=ids), params, uuid4().hex):
                final = output
        except EngineDeadError as error:
            raise engine_dead() from error
        assert final is not None, "vLLM ended a request without an output"
        return float(final.outputs.data.reshape(-1)[0]), len(ids)
