"""Small random Llamas that vLLM can serve, and learners of the simplest kind: one model in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cai_ray.engines.rollouts.worker import Sequences
from cai_ray.engines.weights.sender import WeightSender
from tests.tiny_models import byte_tokenizer, save_llama


def save_small(folder: Path, *, tied: bool, hidden: int = 64, layers: int = 2, seed: int = 0) -> Path:
    """A random Llama whose heads are as wide as vLLM's CPU kernels need them (32), with a tokenizer of bytes.

    Its weights are large enough that every one of them shows in the log-probabilities.
    """
    return save_llama(
        folder,
        byte_tokenizer(),
        seed=seed,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 64 or 1,
        max_position_embeddings=512,
        initializer_range=0.1,
        tie_word_embeddings=tied,
    )


class SmallLearners:
    """Learners in this process: `step` changes every weight, as an optimiser would."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()
        self.num_sends = 0
        self._generator = torch.Generator().manual_seed(1)

    def step(self, size: float = 0.05) -> None:
        import torch

        with torch.no_grad():
            for weight in self.model.parameters():
                weight.add_(size * torch.randn(weight.shape, generator=self._generator).to(weight.device))

    def send_weights(self, info: dict[str, Any]) -> None:
        sender, bucket, num_bytes = WeightSender(info), [], 0
        for name, weight in self.model.named_parameters():
            bucket.append((name, weight.detach()))
            num_bytes += weight.nbytes
            if num_bytes >= info["bucket_bytes"]:
                sender.send(bucket)
                bucket, num_bytes = [], 0
        sender.send(bucket)
        sender.finish()
        self.num_sends += 1

    def logprobs(self, sequences: Sequences, temperature: float = 1.0) -> list[tuple[float, ...]]:
        """Of the response tokens, nats."""
        return [self._logprobs(prompt, response, temperature) for prompt, response in sequences]

    def _logprobs(self, prompt: Sequence[int], response: Sequence[int], temperature: float) -> tuple[float, ...]:
        import torch

        device = self.model.device
        ids = torch.tensor([[*prompt, *response]], device=device)
        with torch.no_grad():
            logits = self.model(ids).logits[0, len(prompt) - 1 : -1].float() / temperature
        chosen = torch.log_softmax(logits, -1).gather(-1, torch.tensor(response, device=device)[:, None])
        return tuple(chosen[:, 0].tolist())
