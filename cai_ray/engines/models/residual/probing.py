"""A transformers model that is looked into: activations, first tokens, short answers, with or without an intervention.

Texts are batches of token ids, padded on the left, so that the last token is at -1 in every row.

Tested in tests/engines/backends/in_process/test_probe.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cai_ray.config import ModelConfig
from cai_ray.engines.models.reading import attention_of, dtype_of, read, read_config
from cai_ray.engines.models.residual.intervention import Intervention, attach
from cai_ray.engines.models.residual.stream import stream_of

Ids = Sequence[int]


@dataclass(frozen=True)
class Probe:
    """A loaded model, and what ends its answers."""

    model: Any
    pad_id: int
    end_ids: tuple[int, ...]

    def residuals(self, texts: Sequence[Ids], num_positions: int) -> np.ndarray:
        """What each layer reads at the last tokens: float32 [num_texts, num_layers, num_positions, d]."""
        import torch

        seen: list[Any] = []

        def keep(module: Any, args: Any, kwargs: Any) -> None:
            given = args[0] if args else kwargs["hidden_states"]
            seen.append(given[:, -num_positions:].float().cpu())

        handles = [block.register_forward_pre_hook(keep, with_kwargs=True) for block in stream_of(self.model).blocks]
        try:
            self._read(texts)
        finally:
            for handle in handles:
                handle.remove()
        return torch.stack(seen, dim=1).numpy()

    def first_logprobs(self, texts: Sequence[Ids], change: Intervention | None) -> np.ndarray:
        """Log-probabilities of the token after each text, nats, float32 [num_texts, vocab]."""
        import torch

        with _changed(self.model, change):
            logits = self._read(texts).logits[:, -1]
        found: np.ndarray = torch.log_softmax(logits.float(), -1).cpu().numpy()
        return found

    def answers(self, texts: Sequence[Ids], change: Intervention | None, max_tokens: int) -> list[list[int]]:
        """Greedy answers, without what ends them."""
        import torch

        ids, mask = self._padded(texts)
        with torch.inference_mode(), _changed(self.model, change):
            made = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=max_tokens,
                pad_token_id=self.pad_id,
                eos_token_id=list(self.end_ids) or None,
            )
        return [self._until_end(row) for row in made[:, ids.shape[1] :].tolist()]

    def _until_end(self, row: list[int]) -> list[int]:
        ends = [place for place, token in enumerate(row) if token in self.end_ids]
        return row[: ends[0]] if ends else row

    def likelihoods(self, texts: Sequence[Ids], answers: Sequence[Ids], change: Intervention | None) -> list[float]:
        """The log-probability of each answer after its text, nats; 0 of an empty one."""
        import torch

        with _changed(self.model, change):
            logits = self._read([[*text, *answer] for text, answer in zip(texts, answers, strict=True)]).logits
        found = []
        for row, answer in zip(logits, answers, strict=True):
            if not answer:
                found.append(0.0)
                continue
            logs = torch.log_softmax(row[-len(answer) - 1 : -1].float(), -1)
            found.append(float(logs.gather(-1, torch.tensor(answer, device=logs.device)[:, None]).sum()))
        return found

    def _read(self, texts: Sequence[Ids]) -> Any:
        import torch

        ids, mask = self._padded(texts)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with torch.inference_mode():
            return self.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)

    def _padded(self, texts: Sequence[Ids]) -> tuple[Any, Any]:
        import torch

        longest = max(map(len, texts))
        ids = [[self.pad_id] * (longest - len(text)) + list(text) for text in texts]
        mask = [[0] * (longest - len(text)) + [1] * len(text) for text in texts]
        device = self.model.device
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


class _changed:
    """The intervention for the block; None: none."""

    def __init__(self, model: Any, change: Intervention | None) -> None:
        self._model, self._change = model, change

    def __enter__(self) -> None:
        self._end = attach(self._model, self._change) if self._change is not None else lambda: None

    def __exit__(self, *error: object) -> None:
        self._end()


def load_probe(model: ModelConfig) -> Probe:
    """The model on a GPU where there is one, spread over all that the worker has. Raises ConfigError."""
    import os

    import torch
    from transformers import AutoModelForCausalLM

    on_gpu = torch.cuda.is_available()
    if not on_gpu:  # Ray sets one thread per logical CPU of the actor, which says nothing about its model
        torch.set_num_threads(model.engine.cpu_threads or os.cpu_count() or 1)
    config = read_config(model)
    options: dict[str, Any] = {"device_map": "auto"} if on_gpu and torch.cuda.device_count() > 1 else {}
    loaded = read(
        AutoModelForCausalLM, model, "model", dtype=dtype_of(model), attn_implementation=attention_of(config), **options
    )
    if on_gpu and not options:
        loaded = loaded.to("cuda")
    stream_of(loaded)
    ends = loaded.generation_config.eos_token_id
    end_ids = tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,)
    return Probe(loaded.eval(), loaded.config.get_text_config().pad_token_id or 0, end_ids)
