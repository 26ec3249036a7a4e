"""How likely a saved model finds answers that it has not learned from: one way for every side.

Prompt and answer are tokenised as the product's engines and learners do; one answer at a time, float32, no padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cai_ray.config import ModelConfig
from cai_ray.engines.models.answer_tokens import AnswerTokens
from cai_ray.engines.models.reading import load_renderer


def answer_logprobs(path: str, rows: Sequence[dict[str, Any]], sides: Sequence[str]) -> list[list[tuple[float, int]]]:
    """[num_rows][num_sides] of (log-probability of the whole answer in nats, its tokens), the end token included.

    `rows`: `prompt` as messages, and each side as one message.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    tokens = AnswerTokens(load_renderer(ModelConfig(path=path)))
    found = []
    for row in rows:
        own = []
        for side in sides:
            example = tokens([*row["prompt"], *row[side]])
            ids = torch.tensor([example.input_ids])
            with torch.no_grad():
                logprobs = model(ids).logits[0, :-1].float().log_softmax(-1)
            start = len(example.prompt_ids)
            said = logprobs[start - 1 :].gather(1, ids[0, start:, None]).sum().item()
            own.append((said, len(example.answer_ids)))
        found.append(own)
    return found
