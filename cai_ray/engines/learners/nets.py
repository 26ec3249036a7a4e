"""What the learners run: log-probabilities and scores at given positions only, each a module of its own.

DeepSpeed sees these modules as the model: what is asked of it is one `forward`, from token ids to a number per answer
token, and logits exist for answer tokens only, never for prompts or padding.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from cai_ray.algorithms.logprobs import token_logprobs, token_logprobs_and_entropy
from cai_ray.engines.models.classifier import last_states
from cai_ray.engines.models.trainable import output_scaled

if TYPE_CHECKING:
    from torch import Tensor


def language_model(model: Any) -> Any:
    """The transformers model itself, adapters or not."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def token_net(model: Any) -> Any:
    """A module around a causal language model.

    forward(input_ids [num_sequences, length], rows, before, targets [num_tokens], temperature, with_entropy) ->
    (log-probabilities, entropies), both [num_tokens], float32; entropies are zero unless asked for.
    """
    return _classes()[0](model)


def score_net(model: Any) -> Any:
    """A module around a sequence classifier with one output.

    forward(input_ids [num_sequences, length], rows, before [num_tokens], mask=None) -> the head's output at those
    positions, [num_tokens], float32. `mask` [num_sequences, length] is for models that look at what comes later.
    """
    return _classes()[1](model)


def answer_logits(model: Any, hidden: Tensor) -> Tensor:
    """The output layer, and what some families do behind it."""
    logits: Tensor = output_scaled(model, model.get_output_embeddings()(hidden))
    return logits


def turn_dropout_off(model: Any) -> None:
    """A token's probability must be the same number in every pass, or ratios are noise."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


@cache
def _classes() -> tuple[type, type]:
    """Made on first use, because torch is not imported with this module."""
    import torch

    class TokenNet(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(
            self,
            input_ids: Tensor,
            rows: Tensor,
            before: Tensor,
            targets: Tensor,
            temperature: float,
            with_entropy: bool,
        ) -> tuple[Tensor, Tensor]:
            model = language_model(self.model)
            logits = answer_logits(model, last_states(model, input_ids, None)[rows, before])
            if with_entropy:
                return token_logprobs_and_entropy(logits, targets, temperature=temperature)
            found = token_logprobs(logits, targets, temperature=temperature)
            return found, torch.zeros_like(found)

    class ScoreNet(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Tensor, rows: Tensor, before: Tensor, mask: Tensor | None = None) -> Tensor:
            hidden = last_states(self.model, input_ids, mask)[rows, before]
            scores: Tensor = self.model.score(hidden)[:, 0]
            return scores.float()

    return TokenNet, ScoreNet
