"""The models of PPO, looked at before anything starts: the policy, what scores it, what the values begin from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cai_ray.chat import Message, split_thinking
from cai_ray.config import ModelConfig
from cai_ray.engines.models.answer_tokens import AnswerTokens
from cai_ray.engines.models.reading import CONFIG_KEY, context_length, load_renderer, read_config, trained_system_role
from cai_ray.engines.models.scored_tokens import ScoredTokens
from cai_ray.engines.models.trainable import load_tokenizer, local_path
from cai_ray.errors import ConfigError
from cai_ray.quality.thoughts import without_thoughts
from cai_ray.stages.context import Context
from cai_ray.stages.ppo.config import Config


@dataclass(frozen=True)
class Models:
    """What is trained and what is asked for scores.

    Attributes:
        scored: the preference model; None where the reward is another.
        value: where the value model's weights begin; None where the advantage needs no values.
        policy_context, scored_context: tokens that each reads at most.
    """

    policy: ModelConfig
    scored: ModelConfig | None
    value: ModelConfig | None
    policy_context: int
    scored_context: int | None
    _renderer: Any
    _tokens: ScoredTokens | None

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The prompt by the policy's own template."""
        safe, _ = self._renderer.neutralised(messages)
        ids: list[int] = self._renderer.encode(self._renderer.text(safe))
        return ids

    def text_ids(self, text: str) -> list[int]:
        """Any text as the policy's tokenizer begins and ends it."""
        ids: list[int] = self._renderer.tokenizer.encode(text, add_special_tokens=True)
        return ids

    def answer(self, text: str) -> str:
        """What is judged of a response: its reasoning is left out."""
        thinking = self.policy.thinking
        return without_thoughts(text.strip() if thinking is None else split_thinking(text, thinking)[1])

    def scored_ids(self, messages: Sequence[Message], text: str) -> tuple[int, ...]:
        """Conversation and answer by the preference model's own template; its end, where it is too long."""
        assert self._tokens is not None and self.scored_context is not None, "there is no preference model"
        return tuple(self._tokens.encode(messages, self.answer(text))[-self.scored_context :])

    def scored_length(self, messages: Sequence[Message]) -> int:
        """Tokens of the conversation alone, to the preference model; 0 without one."""
        return len(self._tokens.encode(messages, "")) if self._tokens else 0


def models_of(config: Config, context: Context) -> Models:
    """Raises ConfigError for a policy that cannot be trained or a preference model that cannot score."""
    policy = _with_weights(config.model, context)
    renderer = load_renderer(policy)
    AnswerTokens(renderer, policy.thinking)  # refuses a model that could not end its answers
    has_values = config.advantage.kind == "gae"
    if config.constitution is not None:
        return Models(policy, None, policy if has_values else None, context_length(policy), None, renderer, None)
    scored = _as_it_reads(_with_weights(config.preference_model, context))
    tokens = ScoredTokens(scored, load_tokenizer(scored))
    value = None
    if has_values:
        value = scored if _reads_the_same(tokens.tokenizer, renderer.tokenizer) else policy
    return Models(policy, scored, value, context_length(policy), context_length(scored), renderer, tokens)


def _with_weights(name: str, context: Context) -> ModelConfig:
    model = context.model(name)
    if model.endpoint is not None:
        raise ConfigError(
            f"ppo needs the weights of model {name!r}, which is a server ({model.endpoint.base_url}); "
            f"give models.{name} a path instead of an endpoint"
        )
    return local_path(model)


def _as_it_reads(model: ModelConfig) -> ModelConfig:
    """A preference model with the template and system role it was trained with."""
    config = read_config(model, "preference model")
    architectures = config.architectures or []
    if not any("SequenceClassification" in name for name in architectures) or config.num_labels != 1:
        raise ConfigError(
            f"the preference model at {model.path!r} is {', '.join(architectures) or 'of no known kind'} with "
            f"{config.num_labels} outputs; it must be a sequence classifier with one, the score"
        )
    if not hasattr(config, CONFIG_KEY):
        return model
    return ModelConfig(
        path=model.path,
        revision=model.revision,
        system_role=trained_system_role(config, "auto"),
        max_model_len=model.max_model_len,
        trust_remote_code=model.trust_remote_code,
    )


def _reads_the_same(tokenizer: Any, other: Any) -> bool:
    """Every token of `other` has the same id: a model behind `tokenizer` can read what `other` wrote."""
    known: dict[str, int] = tokenizer.get_vocab()
    wanted: dict[str, int] = other.get_vocab()
    return wanted.items() <= known.items()
