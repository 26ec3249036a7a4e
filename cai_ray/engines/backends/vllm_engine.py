"""vLLM: one AsyncLLM per actor, token ids in, token ids out.

Tested in tests/engines/backends/test_vllm_backend.py.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, TypeVar

from cai_ray.chat import Renderer
from cai_ray.config import EngineConfig, ModelConfig, SamplingConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends import engine_process
from cai_ray.engines.backends.vllm_plugin import EXTENSION
from cai_ray.engines.conversations.asking import EngineDied, Unasked
from cai_ray.engines.groups import check_packed
from cai_ray.engines.models.files import has_small_weights, localised
from cai_ray.engines.models.reading import context_length, load_renderer
from cai_ray.engines.models.residual.intervention import read_intervention
from cai_ray.errors import ConfigError

logger = logging.getLogger(__name__)
SLEEPS: dict[str, Any] = {"enable_sleep_mode": True}  # vLLM's argument, for an engine that shares its GPUs
T = TypeVar("T")
_DEATH_POLL_S = 0.2


def engine_environment(model: ModelConfig) -> dict[str, str]:
    """Variables that vLLM and its libraries read when they are imported; values the user has set win."""
    defaults = {
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(model.engine.kv_cache_gib))),
        # By default vLLM keeps one core back, which halves the speed of a two-core machine.
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0" if (os.cpu_count() or 1) <= 4 else "1",
        # Threads bound to a core starve when another process has it; the scheduler knows better.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # Waiting threads that spin take the core from whoever they wait for, when cores are shared; threads that never
        # do are woken for each product of each layer. A few milliseconds: 1.17x as fast (SmolLM2-135M, two threads).
        "OMP_WAIT_POLICY": "PASSIVE",
        **({} if "OMP_WAIT_POLICY" in os.environ else {"GOMP_SPINCOUNT": "60000"}),
        "VLLM_ENGINE_READY_TIMEOUT_S": str(round(model.engine.start_limit_s)),
        "VLLM_MAX_STOP_STRINGS": "32",  # of a served base model: its client's, and those that end its turn
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    if os.path.isdir(model.path):
        defaults["HF_HUB_OFFLINE"] = "1"  # nothing to look up, and a closed network would cost retries
    # Not a default: Ray sets OMP_NUM_THREADS to an actor's logical CPUs, which says nothing about its model.
    return {name: os.environ.get(name, value) for name, value in defaults.items()} | {
        "OMP_NUM_THREADS": str(model.engine.cpu_threads or _cpu_threads(model.path))
    }


def _cpu_threads(path: str) -> int:
    """One thread for a tiny model: its matrix products are shorter than the threads' meetings (measured 2.5x)."""
    return 1 if has_small_weights(path) else os.cpu_count() or 1


def check_memory(engine: EngineConfig) -> None:
    """Raises ConfigError for a KV cache on CPU that is larger than this machine."""
    import psutil

    total_gib = psutil.virtual_memory().total / 2**30
    if engine.kv_cache_gib > total_gib:
        raise ConfigError(
            f"engine.kv_cache_gib={engine.kv_cache_gib:g} is more than the {total_gib:.0f} GiB of memory of this "
            "machine; lower it"
        )


def engine_arguments(model: ModelConfig) -> dict[str, Any]:
    """vLLM's own argument names for our config; `engine.extra` has the last word."""
    import torch

    on_gpu = torch.cuda.is_available()
    engine = model.engine
    # A captured graph, or one from the cache of the unchanged model, would leave an intervention out.
    eager = read_intervention(model.path) is not None or not on_gpu
    arguments: dict[str, Any] = {
        "model": model.path,
        "revision": model.revision,
        "tokenizer": model.tokenizer or model.path,
        "dtype": "float32" if model.dtype == "auto" and not on_gpu else model.dtype,
        "max_model_len": model.max_model_len,
        "trust_remote_code": model.trust_remote_code,
        "enforce_eager": engine.enforce_eager if engine.enforce_eager is not None else eager,
        "max_num_seqs": engine.max_num_seqs,
        "max_num_batched_tokens": engine.max_num_batched_tokens,
        "block_size": engine.block_size,
        "enable_prefix_caching": engine.prefix_caching,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "pipeline_parallel_size": engine.pipeline_parallel_size,
        "enable_log_requests": False,
        "disable_log_stats": True,
        "worker_extension_cls": EXTENSION,
    }
    if on_gpu:
        arguments["gpu_memory_utilization"] = engine.gpu_memory_utilization
    else:
        check_memory(engine)
        # vLLM 0.32 on CPU: a seeded request whose prefill is cut into chunks kills the engine ("CPU Generator
        # does not use offset"), so a prompt is prefilled in one step, which must then hold a whole context.
        arguments["enable_chunked_prefill"] = False
        arguments["max_num_batched_tokens"] = max(engine.max_num_batched_tokens, context_length(model))
        if engine.tensor_parallel_size == 1:
            arguments["distributed_executor_backend"] = engine_process.IN_ENGINE_CORE
    if engine.pipeline_parallel_size > 1:
        arguments["distributed_executor_backend"] = "ray"  # in the placement group that this process runs in
    if engine.num_kv_blocks is not None:
        arguments["num_gpu_blocks_override"] = engine.num_kv_blocks
    return arguments | engine.extra


def request_params(sampling: SamplingConfig | None = None, room: int = 1, **options: Any) -> Any:
    """vLLM's own, for an output that comes whole; `room`: tokens that the context has left for an answer."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    if sampling is not None:
        options = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "repetition_penalty": sampling.repetition_penalty,
            "max_tokens": min(sampling.max_tokens, room),
            "stop": list(sampling.stop),
            **options,
        }
    return SamplingParams(output_kind=RequestOutputKind.FINAL_ONLY, **options)


class VllmEngine(Unasked):
    """A restartable AsyncLLM. All its methods run on one event loop."""

    def __init__(self, model: ModelConfig) -> None:
        model = localised(model)
        os.environ.update(engine_environment(model))  # read when vllm and huggingface_hub are imported
        engine_process.start_server()
        self.model = model
        self.max_concurrent_rows = max(1, round(1.1 * model.engine.max_num_seqs))
        self.num_kv_tokens: int | None = None
        self.max_model_len = 0
        self.renderer: Renderer = load_renderer(model)
        self._engine: Any = None
        self._processes: list[Any] = []

    async def start(self) -> None:
        """Start the engine; takes seconds on CPU, minutes for large weights.

        Raises ConfigError where vLLM refuses the settings, asyncio.TimeoutError past `engine.start_limit_s`, and
        whatever vLLM raises of a core that does not come up.
        """
        import psutil
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM
        from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger

        self._dispose()
        check_packed(self.model.engine.tensor_parallel_size)
        engine_process.use_server()
        try:
            arguments = AsyncEngineArgs(**engine_arguments(self.model))
            config = arguments.create_engine_config(UsageContext.ENGINE_CONTEXT)
        except (TypeError, ValueError, NotImplementedError, AssertionError) as error:  # pydantic's are ValueErrors
            raise ConfigError(f"vLLM refuses the settings of the model at {self.model.path!r}: {error}") from error
        me = psutil.Process()
        before = {child.pid for child in me.children(recursive=True)}
        # This blocks until the engine core answers, on this loop: nothing else could run anyway,
        # because every conversation needs the engine.
        self._engine = AsyncLLM.from_vllm_config(
            config,
            enable_log_requests=arguments.enable_log_requests,
            disable_log_stats=arguments.disable_log_stats,
            stat_loggers=[RayPrometheusStatLogger] if self.model.engine.export_metrics else None,
        )
        self._processes = [child for child in me.children(recursive=True) if child.pid not in before]
        config = self._engine.vllm_config  # with what the core has found out
        self.max_model_len = config.model_config.max_model_len
        num_blocks = config.cache_config.num_gpu_blocks
        self.num_kv_tokens = num_blocks * config.cache_config.block_size if num_blocks else None

    async def probe(self) -> None:
        """One token after one token. Raises EngineDied."""
        await self.generate(self.renderer.encode("a")[:1], request_params(max_tokens=1, temperature=0.0), "probe")

    def kill(self) -> None:
        """SIGKILL the engine's processes (a hung engine ignores anything softer)."""
        for process in self._processes:
            try:
                process.send_signal(signal.SIGKILL)
            except Exception as error:  # psutil.NoSuchProcess: it is gone already, which is what we want
                logger.debug("engine process %s: %s", process.pid, error)

    def _dispose(self) -> None:
        if self._engine is not None:
            self.kill()
            try:
                self._engine.shutdown(timeout=0)
            except Exception as error:  # the old engine is broken by definition; its clean-up may be, too
                logger.warning("clean-up of the dead engine: %s", error)
            self._engine = None

    def close(self) -> None:
        """End the engine for good."""
        self._dispose()

    async def generate(self, ids: Sequence[int], params: Any, request_id: str) -> Any:
        """One request; the finished vLLM RequestOutput. Raises EngineDied, DropRow(REQUEST_REJECTED)."""
        from vllm import TokensPrompt

        return await self._last(self._engine.generate(TokensPrompt(prompt_token_ids=list(ids)), params, request_id))

    async def sleep(self) -> None:
        """Weights to host memory, KV cache dropped. GPUs only, and of a model `with_sleep`."""
        await self._asked(self._engine.sleep(level=1))

    async def wake(self) -> None:
        await self._asked(self._engine.wake_up())

    async def _asked(self, answer: Coroutine[Any, Any, T]) -> T:
        """vLLM never answers calls of this kind when its engine dies (0.32), so its death is looked for meanwhile."""
        from vllm.v1.engine.exceptions import EngineDeadError

        engine, answering = self._engine, asyncio.ensure_future(answer)
        try:
            while not answering.done():
                await asyncio.wait([answering], timeout=_DEATH_POLL_S)
                if not answering.done() and (engine is not self._engine or engine.errored):
                    raise EngineDied("the engine died before it answered")
            return answering.result()
        except EngineDeadError as error:
            raise EngineDied(str(error)) from error
        finally:
            answering.cancel()

    async def _last(self, outputs: AsyncIterator[Any]) -> Any:
        """The last of one request's outputs. Raises EngineDied, DropRow(REQUEST_REJECTED)."""
        from vllm.v1.engine.exceptions import EngineDeadError

        final: Any = None
        try:
            async for output in outputs:
                final = output
        except EngineDeadError as error:
            raise EngineDied(str(error)) from error
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except Exception as error:  # vLLM validates each request by itself: the fault is this row's
            raise DropRow(DropReason.REQUEST_REJECTED, f"{type(error).__name__}: {error}"[:500]) from error
        if final is None:
            raise EngineDied("the request ended without an output")
        return final
