"""Looking into a tiny model: batched numbers are those of one text alone, whatever else is in the batch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from cai_ray.config import ModelConfig, ThinkingConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends.in_process.probe import AS_IS, ProbeBackend, num_template_tokens, prompt_ids
from cai_ray.engines.models.reading import load_renderer
from cai_ray.engines.models.residual.intervention import Intervention
from tests.engines.models.residual.test_forms import PROJECT, R
from tests.tiny_models import byte_tokenizer, save_llama

pytestmark = pytest.mark.slow
ASKED = [[{"role": "user", "content": text}] for text in ("Hi", "How do I paint a chair?", "Trees " * 20)]
SIZES = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 3, "max_position_embeddings": 512}


async def pass_on(send: Callable[[], Awaitable[Any]]) -> Any:
    return await send()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return ModelConfig(path=str(save_llama(tmp_path_factory.mktemp("llama"), byte_tokenizer(), **SIZES)))


def found(model: ModelConfig, together: bool, change: str = AS_IS) -> list[tuple[Any, ...]]:
    """Residuals, first log-probabilities, answer and its likelihood of every text."""
    backend = ProbeBackend(model, {"project": PROJECT})

    async def one(messages: Any) -> tuple[Any, ...]:
        door = backend.open("row", lambda k: 0, pass_on)
        _, ids = await door.answer(messages, change, 8)
        return (
            await door.residuals(messages, 3),
            await door.first_logprobs(messages, change),
            ids,
            await door.likelihood(messages, [5, 6, 7], change),
        )

    async def main() -> list[tuple[Any, ...]]:
        await backend.start()
        if together:
            return await asyncio.gather(*map(one, ASKED))
        return [await one(messages) for messages in ASKED]

    return asyncio.run(main())


@pytest.mark.parametrize("change", [AS_IS, "project"])
def test_a_batch_is_what_each_text_is_alone(model: ModelConfig, change: str) -> None:
    for one, other in zip(found(model, True, change), found(model, False, change), strict=True):
        np.testing.assert_allclose(one[0], other[0], atol=1e-5)
        np.testing.assert_allclose(one[1], other[1], atol=1e-4)
        assert one[2] == other[2] and one[3] == pytest.approx(other[3], abs=1e-4)
        assert one[0].shape == (3, 3, 64)


def test_the_direction_is_gone_from_what_is_looked_at(model: ModelConfig) -> None:
    """An offered intervention is asked for by its name; activations are the unchanged model's."""
    plain, changed = found(model, True), found(model, True, "project")
    np.testing.assert_allclose(plain[0][0], changed[0][0])
    assert np.abs(plain[0][1] - changed[0][1]).max() > 1e-3


def test_a_prompt_that_does_not_fit_is_dropped(model: ModelConfig) -> None:
    backend = ProbeBackend(model)
    with pytest.raises(DropRow) as dropped:
        backend.open("row", lambda k: 0, pass_on).encode([{"role": "user", "content": "x" * 600}])
    assert dropped.value.reason == DropReason.TOO_LONG


def test_a_failed_pass_drops_its_own_row(model: ModelConfig) -> None:
    backend = ProbeBackend(model)

    async def main() -> list[Any]:
        await backend.start()
        doors = [backend.open(str(k), lambda k: 0, pass_on) for k in range(2)]
        doors[0].offer("bad", Intervention("add", R, layer=7))
        bad = [door.first_logprobs(ASKED[0], "bad") for door in doors]
        return await asyncio.gather(*bad, doors[0].first_logprobs(ASKED[0], AS_IS), return_exceptions=True)

    *bad, good = asyncio.run(main())
    assert all(isinstance(one, DropRow) and one.reason == DropReason.REQUEST_REJECTED for one in bad)
    assert good.shape == (len(byte_tokenizer()),)


def test_a_model_that_thinks_is_taken_to_have_thought_nothing(model: ModelConfig) -> None:
    renderer = load_renderer(model)
    thinks = model.model_copy(update={"thinking": ThinkingConfig()})
    text = renderer.tokenizer.decode(prompt_ids(renderer, ASKED[0], thinks))  # type: ignore[attr-defined]
    assert text.endswith("assistant\n<think>\n\n</think>\n\n")
    assert num_template_tokens(renderer, thinks) > num_template_tokens(renderer, model) == 13
