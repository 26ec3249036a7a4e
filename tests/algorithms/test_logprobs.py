"""Chunked log-probabilities against a plain log-softmax: values, gradients, and how much memory they take."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from cai_ray.algorithms.logprobs import token_logprobs, token_logprobs_and_entropy
from tests.answer_batches import seeds


def plain(logits: torch.Tensor, tokens: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    log_softmax = (logits / temperature).log_softmax(-1)
    return log_softmax.gather(-1, tokens[..., None])[..., 0], -(log_softmax.exp() * log_softmax).sum(-1)


def random_logits(seed: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(*shape, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(shape[-1], shape[:-1], generator=generator)


@given(seed=seeds, num=st.integers(1, 6), rows=st.integers(1, 7), temperature=st.sampled_from([0.5, 1.0, 2.0]))
def test_values_and_gradients_are_those_of_a_log_softmax(seed: int, num: int, rows: int, temperature: float) -> None:
    logits, tokens = random_logits(seed, 2, num, 11)
    chunked = token_logprobs_and_entropy(logits, tokens, temperature=temperature, chunk_bytes=rows * 11 * 4)
    expected = plain(logits, tokens, temperature)
    generator = torch.Generator().manual_seed(seed)
    pull = torch.randn(2, 2, num, generator=generator, dtype=torch.float64)
    gradients = []
    for logprobs, entropy in (chunked, expected):
        gradients += torch.autograd.grad((pull[0] * logprobs + pull[1] * entropy).sum(), logits, retain_graph=True)
    for got, want in zip((*chunked, gradients[0]), (*expected, gradients[1]), strict=True):
        assert torch.allclose(got, want, atol=1e-10)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_without_entropy_the_log_probabilities_and_their_gradient_are_the_same(temperature: float) -> None:
    logits, tokens = random_logits(5, 6, 9)
    before = logits.detach().clone()
    gradients = []
    for logprobs in (
        token_logprobs(logits, tokens, temperature=temperature, chunk_bytes=72),
        token_logprobs_and_entropy(logits, tokens, temperature=temperature, chunk_bytes=72)[0],
        plain(logits, tokens, temperature)[0],
    ):
        gradients += torch.autograd.grad((logprobs * torch.arange(6)).sum(), logits)
    assert torch.equal(gradients[0], gradients[1]) and torch.allclose(gradients[0], gradients[2])
    assert torch.equal(logits, before)


def test_gradcheck() -> None:
    logits, tokens = random_logits(0, 3, 5)
    assert torch.autograd.gradcheck(
        lambda x: token_logprobs_and_entropy(x, tokens, temperature=0.7, chunk_bytes=40), logits
    )


def test_a_token_that_cannot_be_chosen_counts_nothing() -> None:
    logits = torch.tensor([[0.0, 0.0, -torch.inf]], requires_grad=True)
    logprobs, entropy = token_logprobs_and_entropy(logits, torch.tensor([1]))
    (logprobs + entropy).sum().backward()
    assert logprobs.item() == pytest.approx(-math.log(2)) and entropy.item() == pytest.approx(math.log(2))
    assert logits.grad is not None and logits.grad.isfinite().all() and logits.grad[0, 2] == 0


def test_a_logit_that_is_no_number_shows() -> None:
    logprobs, entropy = token_logprobs_and_entropy(torch.tensor([[0.0, torch.nan]]), torch.tensor([0]))
    assert logprobs.isnan().all() and entropy.isnan().all()


def test_half_precision_is_worked_out_in_float32() -> None:
    logits, tokens = random_logits(1, 4, 500)
    half = logits.detach().bfloat16().requires_grad_()
    logprobs, entropy = token_logprobs_and_entropy(half, tokens)
    logprobs.sum().backward()
    expected, spread = plain(half.detach().double(), tokens, 1.0)
    assert logprobs.dtype == entropy.dtype == torch.float32
    assert torch.allclose(logprobs.double(), expected, atol=1e-5) and torch.allclose(
        entropy.double(), spread, atol=1e-5
    )
    assert half.grad is not None and half.grad.dtype == torch.bfloat16


def test_entropy_keeps_its_digits_when_all_logits_are_large() -> None:
    logits, tokens = random_logits(3, 8, 50)
    far = (logits.detach() + 1000).float()
    _, entropy = token_logprobs_and_entropy(far, tokens)
    assert torch.allclose(entropy.double(), plain(far.double(), tokens, 1.0)[1], atol=2e-4)


def test_very_large_logits_do_not_overflow() -> None:
    logprobs, entropy = token_logprobs_and_entropy(torch.tensor([[1e4, 0.0, -1e4]]), torch.tensor([0]))
    assert logprobs.item() == 0 and entropy.item() == 0


def test_logits_speak_of_the_next_token() -> None:
    logits, tokens = random_logits(2, 2, 5, 7)
    got = token_logprobs(logits, tokens.roll(-1, dims=1))[:, :-1]
    assert torch.allclose(got, plain(logits[:, :-1], tokens[:, 1:], 1.0)[0])


class LargestTensors(TorchDispatchMode):
    """The number of elements of every tensor that is made while it is on, views of old ones left out."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, int] = {}
        self._alive: list[torch.Tensor] = []  # so that no address is used twice

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self._alive.append(tensor)
                storage = tensor.untyped_storage()
                self.made[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return out


def test_memory_is_a_chunk_and_one_gradient() -> None:
    num, vocabulary, rows = 64, 100, 4
    logits = torch.randn(num, vocabulary, requires_grad=True)
    tokens = torch.randint(vocabulary, (num,))
    with LargestTensors() as forward:
        logprobs, entropy = token_logprobs_and_entropy(logits, tokens, chunk_bytes=rows * vocabulary * 4)
    forward.made.pop(logits.untyped_storage().data_ptr(), None)
    assert max(forward.made.values()) == rows * vocabulary
    with LargestTensors() as backward:
        torch.autograd.grad(logprobs.sum() + entropy.sum(), logits)
    backward.made.pop(logits.untyped_storage().data_ptr(), None)
    assert sum(size > rows * vocabulary for size in backward.made.values()) == 1


def test_shapes_and_temperature_are_checked() -> None:
    with pytest.raises(ValueError, match=r"need tokens \[2, 3\], not \[2\]"):
        token_logprobs_and_entropy(torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="temperature=0"):
        token_logprobs_and_entropy(torch.zeros(2, 4), torch.zeros(2, dtype=torch.long), temperature=0)
