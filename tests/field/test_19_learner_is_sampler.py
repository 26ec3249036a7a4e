"""Gemma 2 was trained by an attention without its soft cap, 0.73 nats from what sampled: real vLLM against learners.

The proof's arithmetic, and the same with transformers' plain attention for the engine, is in
tests/engines/training/test_proof.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cai_ray.config import EngineConfig, ModelConfig, ProofConfig, SamplingConfig
from cai_ray.engines.conversations.sampled import Sampled
from cai_ray.engines.models.trainable import load_causal_lm, load_tokenizer, load_trainable
from cai_ray.engines.training.arguments import Device
from cai_ray.engines.training.proof import Proof, prove
from cai_ray.errors import ConfigError
from cai_ray.exits import exit_code
from tests.architectures import ARCHITECTURES, WINDOW, save_architecture
from tests.engines.backends.test_vllm_backend import Engine

pytestmark = pytest.mark.slow
CPU = Device(is_gpu=False, has_bf16=False)


def sampled_by_vllm(model: ModelConfig) -> tuple[Sampled, ...]:
    """Three answers, prompts longer than the sliding windows."""
    engine = Engine(model)
    found = []
    for number in range(3):
        conversation = engine.open(f"row {number}", seed=number)
        conversation.wants_logprobs = True
        request = [{"role": "user", "content": f"Which trees stand by river number {number}?"}]
        engine.run(conversation(request, SamplingConfig(max_tokens=24)))
        assert conversation.sampled is not None and len(conversation.sampled.prompt_ids) > WINDOW
        found.append(conversation.sampled)

    async def close() -> None:
        engine.backend.close()

    engine.run(close())
    return tuple(found)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, "float32") for name in ARCHITECTURES), ("Gemma2Config", "bfloat16"), ("Qwen2Config", "bfloat16")],
)
def test_learners_compute_what_vllm_samples(tmp_path: Path, name: str, dtype: Any) -> None:
    engine = EngineConfig(max_num_seqs=8, kv_cache_gib=1)
    model = ModelConfig(path=str(save_architecture(tmp_path, name)), dtype=dtype, engine=engine)
    proof = Proof("sft", ProofConfig(), model, sampled_by_vllm(model), "revise")
    for load in (load_causal_lm, load_trainable):
        learner = load(model, load_tokenizer(model))
        assert "agrees with the engine that sampled them in revise" in prove(proof, learner, learner, CPU)
        if name == "Gemma2Config":  # the soft cap that torch leaves out
            learner.set_attn_implementation("sdpa")
            with pytest.raises(ConfigError, match="does not compute what the engine") as refused:
                prove(proof, learner, learner, CPU)
            assert exit_code(refused.value) == 2
