"""Every form gives the same log-probabilities in real vLLM as in transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cai_ray.config import EngineConfig, ModelConfig, SamplingConfig
from cai_ray.engines.conversations.sampled import Sampled
from cai_ray.engines.models.residual.intervention import Intervention, attach, write_intervention
from cai_ray.engines.models.residual.weight_form import take_out
from tests.architectures import save_architecture
from tests.engines.backends.test_vllm_backend import Engine
from tests.engines.models.residual.test_forms import PROJECT, R, loaded, scrambled

pytestmark = [pytest.mark.slow, pytest.mark.long]
ADD = Intervention("add", 2 * R, layer=2)


def sampled_by_vllm(folder: Path) -> Sampled:
    model = ModelConfig(path=str(folder), dtype="float32", engine=EngineConfig(max_num_seqs=8, kv_cache_gib=1))
    engine = Engine(model)
    conversation = engine.open("row", seed=1)
    conversation.wants_logprobs = True
    request = [{"role": "user", "content": "Which trees stand by the river?"}]
    engine.run(conversation(request, SamplingConfig(max_tokens=24)))

    async def close() -> None:
        engine.backend.close()

    engine.run(close())
    assert conversation.sampled is not None
    return conversation.sampled


def logprobs(model: Any, sampled: Sampled) -> list[float]:
    import torch

    ids = torch.tensor([[*sampled.prompt_ids, *sampled.answer_ids]])
    with torch.no_grad():
        logs = model(input_ids=ids).logits[0].log_softmax(-1)
    first = len(sampled.prompt_ids)
    return [float(logs[place - 1, ids[0, place]]) for place in range(first, ids.shape[1])]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("LlamaConfig", "weights"),
        ("Qwen2Config", "weights"),  # tied before
        ("MistralConfig", "weights"),
        ("Gemma2Config", "weights"),
        ("Gemma2Config", PROJECT),
        ("Qwen2Config", PROJECT),
        ("Gemma2Config", ADD),
        ("LlamaConfig", ADD),
    ],
)
def test_vllm_samples_what_transformers_compute(tmp_path: Path, name: str, form: Any) -> None:
    folder = save_architecture(tmp_path / "made", name)
    model = scrambled(tmp_path / "base", name)
    if form == "weights":
        take_out(model, R, True)
    model.save_pretrained(folder)
    if form != "weights":
        write_intervention(folder, form)
    found = sampled_by_vllm(folder)
    theirs = loaded(folder)
    plain = logprobs(theirs, found)
    if form != "weights":
        attach(theirs, form)
    ours = logprobs(theirs, found)
    assert found.logprobs == pytest.approx(ours, abs=1e-3)
    if form != "weights":
        assert max(abs(a - b) for a, b in zip(ours, plain, strict=True)) > 0.01
