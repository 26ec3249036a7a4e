"""Log-probabilities of chosen tokens, and entropy, from logits; the whole log-softmax is never held.

The logits themselves are [num_tokens, vocabulary] and are the largest tensor of a step. A log-softmax is a second one,
in float32, and autograd keeps it. Here only one number per token is kept; the rest is worked out chunk by chunk,
and again in the backward pass.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

CPU_CHUNK_BYTES = 2**20  # stays in the cache of one core
GPU_CHUNK_BYTES = 64 * 2**20  # enough rows to fill the device


def token_logprobs(
    logits: Tensor, tokens: Tensor, *, temperature: float = 1.0, chunk_bytes: int | None = None
) -> Tensor:
    """log softmax(logits / temperature) at `tokens`, with gradient to the logits (once: no second derivative).

    Args:
        logits: [..., vocabulary], any float type; computed in float32 (float64 stays). Contiguous, or it is copied:
            rather than slice off a position, leave it in and drop its result.
        tokens: [...], integers in [0, vocabulary). Padding needs a valid token too; mask what comes back.
        temperature: > 0; the one the sampler used, so that both speak of the same policy.
        chunk_bytes: float32 working memory beyond the logits and their gradient, of which about three are alive at
            a time; None suits the device.

    Returns:
        [...], nats, <= 0, float32 (or float64).

    Raises:
        ValueError: shapes do not fit, or temperature is not positive.
    """
    return _apply(logits, tokens, temperature, chunk_bytes, with_entropy=False)[0]


def token_logprobs_and_entropy(
    logits: Tensor, tokens: Tensor, *, temperature: float = 1.0, chunk_bytes: int | None = None
) -> tuple[Tensor, Tensor]:
    """As `token_logprobs`, and the entropy of each distribution, also with gradient.

    A logit of -inf is a token that cannot be chosen and counts nothing in the entropy.

    Returns:
        logprobs (nats, <= 0) and entropy (nats, in [0, log vocabulary]), both [...], float32 (or float64).
    """
    return _apply(logits, tokens, temperature, chunk_bytes, with_entropy=True)


def _apply(
    logits: Tensor, tokens: Tensor, temperature: float, chunk_bytes: int | None, *, with_entropy: bool
) -> tuple[Tensor, Tensor]:
    if logits.shape[:-1] != tokens.shape:
        raise ValueError(f"logits {list(logits.shape)} need tokens {list(logits.shape[:-1])}, not {list(tokens.shape)}")
    if temperature <= 0:
        raise ValueError(f"temperature={temperature} must be positive: greedy answers have no log-probability to learn")
    if chunk_bytes is None:
        chunk_bytes = CPU_CHUNK_BYTES if logits.device.type == "cpu" else GPU_CHUNK_BYTES
    vocabulary = logits.shape[-1]
    rows = max(1, chunk_bytes // (4 * vocabulary))
    flat = _operation().apply(logits.reshape(-1, vocabulary), tokens.reshape(-1), temperature, rows, with_entropy)
    return flat[0].view(tokens.shape), flat[1].view(tokens.shape)


@cache
def _operation() -> Any:
    """The autograd operation; made on first use, because torch is not imported with this module."""
    import torch
    from torch.autograd.function import once_differentiable

    def scaled(chunk: Tensor, temperature: float) -> Tensor:
        """At least float32. May be the logits themselves: not to be written to."""
        x = chunk if chunk.dtype == torch.float64 else chunk.float()
        return x if temperature == 1.0 else x / temperature

    class TokenLogprobs(torch.autograd.Function):
        @staticmethod
        def forward(
            ctx: Any, logits: Tensor, tokens: Tensor, temperature: float, rows: int, with_entropy: bool
        ) -> tuple[Tensor, Tensor]:
            dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
            norms, chosen, entropy = (torch.zeros(len(logits), dtype=dtype, device=logits.device) for _ in range(3))
            for start in range(0, len(logits), rows):
                here = slice(start, start + rows)
                x = scaled(logits[here], temperature)
                norms[here] = norm = x.logsumexp(dim=-1)
                chosen[here] = x.gather(-1, tokens[here, None])[:, 0] - norm
                if with_entropy:
                    logp = x - norm[:, None]
                    # p log p is 0 x -inf where a token cannot be chosen; a real NaN shows again through the norm
                    entropy[here] = (norm - norm) - logp.exp().mul_(logp).nan_to_num_(0.0).sum(dim=-1)
            ctx.save_for_backward(logits, tokens, norms, entropy)
            ctx.temperature, ctx.rows = temperature, rows
            ctx.set_materialize_grads(False)
            return chosen, entropy

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, grad_logprobs: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
            logits, tokens, norms, entropy = ctx.saved_tensors
            grad = torch.empty_like(logits)
            pull = (torch.zeros_like(norms) if grad_logprobs is None else grad_logprobs) / ctx.temperature
            for start in range(0, len(logits), ctx.rows):
                here = slice(start, start + ctx.rows)
                x, norm = scaled(logits[here], ctx.temperature), norms[here, None]
                # d logprob / d x_j = [j chosen] - p_j;  d entropy / d x_j = -p_j (log p_j + entropy)
                slope = (x - norm).exp_()
                if grad_entropy is None:
                    slope.mul_(-pull[here, None])
                else:
                    factor = grad_entropy[here, None] / ctx.temperature
                    away = (x - norm).add_(entropy[here, None]).mul_(factor).add_(pull[here, None])
                    slope.mul_(away.neg_()).masked_fill_(x == -torch.inf, 0)
                grad[here] = slope.scatter_add_(-1, tokens[here, None], pull[here, None])
            return grad, None, None, None, None

    return TokenLogprobs
