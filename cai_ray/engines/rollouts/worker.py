"""One rollout engine: an actor that holds vLLM, samples episodes and takes new weights.

The actor's vLLM is restarted here when it dies; the actor itself is restarted by Ray. Either way it starts with the
model folder's weights and fetches the newest ones before it answers anything.

Tested in tests/engines/rollouts/test_engines.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cai_ray.algorithms.episodes import Episode, EpisodeRequest
from cai_ray.config import EngineConfig, ModelConfig, SamplingConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends.vllm_engine import request_params
from cai_ray.engines.conversations.supervisor import RowClock, Supervisor
from cai_ray.engines.models.answer_tokens import AnswerTokens
from cai_ray.engines.rollouts.backend import RolloutBackend, Transport, with_weight_transfer
from cai_ray.errors import ConfigError, EngineGaveUp

T = TypeVar("T")
Sequences = Sequence[tuple[tuple[int, ...], tuple[int, ...]]]  # (prompt ids, response ids)


class WeightsLost(Exception):
    """This engine started anew and the newest weights are only with the learners (NCCL): they must be sent again."""


@dataclass(frozen=True)
class EngineUse:
    """Of one engine since it was first asked (counted anew when its actor is lost)."""

    busy_s: float  # with at least one request in flight
    num_tokens: int  # sampled


class Gate:
    """Samples and weight updates take turns: an update waits for what is in flight, later samples wait for it."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._is_closed = False
        self._num_inside = 0
        self._busy_since = 0.0
        self._busy_s = 0.0

    @contextlib.asynccontextmanager
    async def sampling(self) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: not self._is_closed)
            if not self._num_inside:
                self._busy_since = time.monotonic()
            self._num_inside += 1
        try:
            yield
        finally:
            async with self._changed:
                self._num_inside -= 1
                if not self._num_inside:
                    self._busy_s += time.monotonic() - self._busy_since
                self._changed.notify_all()

    async def close(self) -> None:
        """Returns when nothing is inside."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._is_closed)
            self._is_closed = True
            await self._changed.wait_for(lambda: not self._num_inside)

    async def open(self) -> None:
        async with self._changed:
            self._is_closed = False
            self._changed.notify_all()

    def busy_s(self) -> float:
        """Seconds with anything inside, so far."""
        return self._busy_s + (time.monotonic() - self._busy_since if self._num_inside else 0.0)


async def together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Their results, in order. However it ends, none of them is on its way any more then.

    `asyncio.gather` is over with the first failure: others would still be in the engine when new weights come, and
    a forward pass in the middle of that ends the engine.
    """
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class RolloutActor:
    """A Ray actor; its methods run on one event loop. A call that Ray repeats after a restart does no harm."""

    def __init__(
        self, model: ModelConfig, sampling: SamplingConfig, transport: Transport, sleeps: bool, store: str, number: int
    ) -> None:
        self._sampling, self._number = sampling, number
        self._engine_config: EngineConfig = model.engine
        self._backend = RolloutBackend(with_weight_transfer(model, transport, sleeps), transport, store, number)
        self._supervisor = Supervisor(self._backend, model.engine)
        # The turn's own end, whether or not the model's generation config knows it.
        self._end_id = AnswerTokens(self._backend.renderer, model.thinking).end_id
        self._gate = Gate()
        self._num_tokens = 0
        self._orders: dict[int, asyncio.Future[list[Episode]]] = {}
        self._cancelled: set[int] = set()

    async def ready(self) -> int:
        """Waits until the engine is up; the most tokens it holds. Raises EngineGaveUp, ConfigError."""
        await self._supervisor.ready()
        return self._backend.max_model_len

    async def sample(self, order: int, requests: Sequence[EpisodeRequest]) -> list[Episode]:
        """One episode per request, in order; none when the order is cancelled. Raises EngineGaveUp, ConfigError,
        WeightsLost.
        """
        await self._supervisor.ready()
        async with self._gate.sampling():
            if order in self._cancelled:
                return []
            self._orders[order] = asyncio.ensure_future(together([self._sample_one(request) for request in requests]))
            try:
                return await self._orders[order]
            except asyncio.CancelledError:
                if order in self._cancelled:
                    return []
                raise
            finally:
                del self._orders[order]

    async def cancel(self, order: int) -> None:
        """Nobody waits for this order's episodes. Not by `ray.cancel`, which reaches a busy actor late or never."""
        self._cancelled.add(order)
        if order in self._orders:
            self._orders[order].cancel()

    async def logprobs(self, sequences: Sequences) -> list[tuple[float, ...]]:
        """Log-probabilities (nats, at temperature 1) of each sequence's response tokens."""
        await self._supervisor.ready()
        async with self._gate.sampling():
            return await together([self._score_one(i, *both) for i, both in enumerate(sequences)])

    async def pull(self) -> int:
        """Wait for what is in flight, then load the store's newest weights; the version that is loaded then."""
        await self._gate.close()
        try:
            await self._guarded("the newest weights", self._backend.load_newest)
        finally:
            await self._gate.open()
        return self._backend.version

    async def hold(self) -> None:
        """Before a transfer that goes past the store: no samples until `release`. A dead engine is restarted first."""
        await self._supervisor.ready()
        await self._gate.close()
        try:
            await self._guarded("the coming weights", self._backend.check)
        except BaseException:
            await self._gate.open()
            raise

    async def release(self, is_done: bool) -> None:
        """After `hold`; `is_done`: every weight arrived."""
        try:
            if is_done:
                await self._backend.adopt_newest()
        finally:
            await self._gate.open()

    async def transfer(self, method: str, arguments: dict[str, Any]) -> None:
        """One of the weight-transfer methods of vLLM's worker, between `hold` and `release`."""
        await self._backend.call(method, **arguments)

    async def sleep(self) -> None:
        await self._gate.close()
        await self._backend.sleep()

    async def wake(self) -> None:
        await self._backend.wake()
        await self._gate.open()

    async def use(self) -> EngineUse:
        return EngineUse(self._gate.busy_s(), self._num_tokens)

    async def close(self) -> None:
        self._backend.close()

    async def _guarded(self, what: str, send: Callable[[], Awaitable[T]]) -> T:
        """`send()` on as many engine starts as it takes; a request that breaks each of them ends all."""
        clock = RowClock(self._engine_config.row_time_limit_s)
        try:
            async with clock:
                return await self._supervisor.request(what, clock, send)
        except DropRow as drop:
            if drop.reason in (DropReason.REQUEST_REJECTED, DropReason.TOO_LONG):
                raise ConfigError(f"the rollout engine refuses {what}: {drop.detail}") from drop
            raise EngineGaveUp(f"rollout engine {self._number}: {what}: {drop.detail}") from drop
        except TimeoutError as error:
            limit = self._engine_config.row_time_limit_s
            raise EngineGaveUp(
                f"rollout engine {self._number}: {what} took longer than row_time_limit_s={limit:g}"
            ) from error

    async def _generate(self, what: str, ids: Sequence[int], params: Any) -> tuple[Any, int]:
        """vLLM's output and the version of the weights that it came from."""
        attempt = 0

        async def send() -> tuple[Any, int]:
            nonlocal attempt
            attempt += 1
            if self._backend.is_stale:
                raise WeightsLost(f"rollout engine {self._number} started anew")
            version = self._backend.version
            return await self._backend.generate(ids, params, f"{what}.{attempt}"), version

        return await self._guarded(what, send)

    async def _sample_one(self, request: EpisodeRequest) -> Episode:
        sampling = self._sampling
        what = f"prompt {request.prompt_id}, sample {request.sample_index}"
        room = self._backend.max_model_len - len(request.prompt_ids)
        if room < 1:
            raise ConfigError(
                f"{what} has {len(request.prompt_ids)} tokens and the policy's context holds "
                f"{self._backend.max_model_len}; leave it out or raise max_model_len"
            )
        params = request_params(
            sampling,
            room,
            stop_token_ids=[self._end_id],
            seed=request.seed,
            logprobs=0,  # the sampled token's only
            flat_logprobs=True,
            detokenize=bool(sampling.stop),  # step by step it costs more than once at the end
        )
        result, version = await self._generate(what, request.prompt_ids, params)
        output = result.outputs[0]
        self._num_tokens += len(output.token_ids)
        return Episode(
            prompt_id=request.prompt_id,
            sample_index=request.sample_index,
            prompt_ids=request.prompt_ids,
            response_ids=tuple(output.token_ids),
            logprobs=tuple(output.logprobs.logprobs),
            truncated=output.finish_reason == "length",
            text=self._text(output),
            policy_version=version,
        )

    def _text(self, output: Any) -> str:
        if self._sampling.stop:
            return str(output.text).strip()
        ids = output.token_ids if output.finish_reason == "length" else output.token_ids[:-1]
        return str(self._backend.renderer.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    async def _score_one(self, number: int, prompt: Sequence[int], response: Sequence[int]) -> tuple[float, ...]:
        if not prompt or not response:
            raise ValueError(f"sequence {number} has {len(prompt)} prompt and {len(response)} response tokens")
        params = request_params(
            temperature=0.0,
            max_tokens=1,  # vLLM gives at least one
            prompt_logprobs=0,
            flat_logprobs=True,
            detokenize=False,
        )
        result, _ = await self._generate(f"proof sequence {number}", [*prompt, *response], params)
        return tuple(result.prompt_logprobs.logprobs[-len(response) :])
