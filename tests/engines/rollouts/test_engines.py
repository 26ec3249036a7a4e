"""How rollouts are spread and how an engine takes turns; sampling itself is in tests/cluster/test_weight_sync.py."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.algorithms.episodes import EpisodeRequest
from cai_ray.config import EngineConfig, ModelConfig
from cai_ray.engines.conversations.asking import EngineDied
from cai_ray.engines.placement import spread
from cai_ray.engines.rollouts.backend import RolloutBackend, with_weight_transfer
from cai_ray.engines.rollouts.engines import RolloutConfig, RolloutEngines, choose_transport
from cai_ray.engines.rollouts.worker import Gate, together
from cai_ray.errors import ConfigError


def request(prompt: int, sample: int = 0) -> EpisodeRequest:
    return EpisodeRequest(f"p{prompt}", sample, (1, 2), 7)


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 5))
def test_every_request_goes_to_one_engine_and_a_prompt_stays_together(prompts: list[int], num_engines: int) -> None:
    shares = spread([f"p{prompt}" for prompt in prompts], num_engines)
    assert len(shares) == num_engines
    assert sorted(position for share in shares for position in share) == list(range(len(prompts)))
    home = {position: number for number, share in enumerate(shares) for position in share}
    engines_of = [{home[i] for i, other in enumerate(prompts) if other == prompt} for prompt in prompts]
    assert all(len(engines) == 1 for engines in engines_of)


@given(st.integers(0, 40), st.integers(1, 5), st.integers(1, 4))
def test_shares_differ_by_one_prompt_at_most(num_prompts: int, num_engines: int, samples: int) -> None:
    shares = spread([f"p{p}" for p in range(num_prompts) for _ in range(samples)], num_engines)
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= samples


def test_transport_fits_the_devices() -> None:
    assert choose_transport(RolloutConfig(), has_gpus=False) == "host"
    assert choose_transport(RolloutConfig(), has_gpus=True) == "nccl"
    assert choose_transport(RolloutConfig(sleep=True), has_gpus=True) == "host"
    assert choose_transport(RolloutConfig(transport="host"), has_gpus=True) == "host"
    with pytest.raises(ConfigError, match="no GPU"):
        choose_transport(RolloutConfig(transport="nccl"), has_gpus=False)
    with pytest.raises(ConfigError, match="cannot share"):
        choose_transport(RolloutConfig(transport="nccl", sleep=True), has_gpus=True)


def test_the_engine_is_told_how_weights_come_and_the_user_has_the_last_word() -> None:
    model = ModelConfig(engine=EngineConfig(extra={"logprobs_mode": "raw_logprobs", "seed": 3}))
    extra = with_weight_transfer(model, "host", sleeps=False).engine.extra
    assert extra["logprobs_mode"] == "raw_logprobs"
    assert extra["seed"] == 3
    assert extra["weight_transfer_config"] == {"backend": "cai_ray_host"}
    assert "enable_sleep_mode" not in extra
    on_gpus = with_weight_transfer(model, "nccl", sleeps=False).engine.extra
    assert on_gpus["weight_transfer_config"] == {"backend": "nccl"}
    assert with_weight_transfer(model, "host", sleeps=True).engine.extra["enable_sleep_mode"] is True


def test_the_plugin_names_itself_without_loading_the_engine() -> None:
    from cai_ray.engines.backends import vllm_plugin

    assert vllm_plugin.EXTENSION == "cai_ray.engines.backends.vllm_plugin.WorkerExtension"
    with pytest.raises(AttributeError, match="no attribute 'Other'"):
        vllm_plugin.__getattr__("Other")


def test_an_update_waits_for_samples_and_later_samples_wait_for_it() -> None:
    async def scenario() -> list[str]:
        gate, seen, finish = Gate(), [], asyncio.Event()

        async def sample(name: str, until: asyncio.Event | None) -> None:
            async with gate.sampling():
                seen.append(f"{name} in")
                if until is not None:
                    await until.wait()
                seen.append(f"{name} out")

        async def update() -> None:
            await gate.close()
            seen.append("update")
            await asyncio.sleep(0)
            await gate.open()

        first = asyncio.ensure_future(sample("first", finish))
        await asyncio.sleep(0.01)
        updating = asyncio.ensure_future(update())
        await asyncio.sleep(0.01)
        second = asyncio.ensure_future(sample("second", None))
        await asyncio.sleep(0.01)
        assert seen == ["first in"]
        assert gate.busy_s() > 0
        finish.set()
        await asyncio.gather(first, updating, second)
        busy = gate.busy_s()
        await asyncio.sleep(0.01)
        assert gate.busy_s() == busy
        return seen

    assert asyncio.run(scenario()) == ["first in", "first out", "update", "second in", "second out"]


def test_a_sample_that_fails_leaves_the_gate_free() -> None:
    async def scenario() -> None:
        gate = Gate()
        with pytest.raises(ValueError, match="broken"):
            async with gate.sampling():
                raise ValueError("broken")
        await asyncio.wait_for(gate.close(), 60)

    asyncio.run(scenario())


def test_closing_engines_that_never_started_is_no_fault() -> None:
    from cai_ray.config import SamplingConfig

    engines = RolloutEngines(ModelConfig(), RolloutConfig(), SamplingConfig())
    engines.close()
    with pytest.raises(RuntimeError, match="start"):
        engines.submit([request(0)])


def test_what_is_done_together_ends_together() -> None:
    async def scenario() -> list[str]:
        seen: list[str] = []

        async def slow(name: str) -> str:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.01)  # an abort takes its time
                seen.append(name)
            return name

        async def failing() -> str:
            await asyncio.sleep(0)
            raise ValueError("refused")

        with pytest.raises(ValueError, match="refused"):
            await together([slow("first"), failing(), slow("second")])
        assert seen == ["first", "second"]
        cancelled = asyncio.ensure_future(together([slow("third"), slow("fourth")]))
        await asyncio.sleep(0.01)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert await together([asyncio.sleep(0, "a"), asyncio.sleep(0, "b")]) == ["a", "b"]
        return seen

    assert asyncio.run(scenario()) == ["first", "second", "third", "fourth"]


@pytest.mark.slow
def test_a_call_to_an_engine_that_dies_ends_with_it() -> None:
    async def scenario() -> None:
        backend = RolloutBackend.__new__(RolloutBackend)  # without the model and the actor that a real one needs
        engine = SimpleNamespace(errored=False)
        backend._engine = engine
        assert await backend._asked(asyncio.sleep(0, "answer")) == "answer"
        never = asyncio.ensure_future(backend._asked(asyncio.sleep(60)))
        await asyncio.sleep(0.3)
        assert not never.done()
        engine.errored = True
        with pytest.raises(EngineDied):
            await asyncio.wait_for(never, 60)
        engine.errored = False
        never = asyncio.ensure_future(backend._asked(asyncio.sleep(60)))
        await asyncio.sleep(0)
        backend._engine = SimpleNamespace(errored=False)  # another request saw the death, and a new engine is up
        with pytest.raises(EngineDied):
            await asyncio.wait_for(never, 60)

    asyncio.run(scenario())
