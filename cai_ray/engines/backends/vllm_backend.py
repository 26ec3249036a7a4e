"""vLLM as a backend: one AsyncLLM per actor, token ids in, token ids out."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from cai_ray.chat import Message, Renderer, split_thinking, stop_strings
from cai_ray.config import ModelConfig, SamplingConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends import engine_process
from cai_ray.engines.backends.dialogue_tokens import DialogueTokens
from cai_ray.engines.backends.vllm_plugin import EXTENSION
from cai_ray.engines.conversations.asking import Completion, EngineDied, Guard, Usage
from cai_ray.engines.models.files import localised
from cai_ray.engines.models.reading import load_renderer

logger = logging.getLogger(__name__)
SMALL_WEIGHTS_BYTES = 256 * 2**20


def engine_environment(model: ModelConfig) -> dict[str, str]:
    """Variables that vLLM and its libraries read when they are imported; values the user has set win."""
    defaults = {
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(model.engine.kv_cache_gib))),
        # By default vLLM keeps one core back, which halves the speed of a two-core machine.
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0" if (os.cpu_count() or 1) <= 4 else "1",
        # Threads bound to a core starve when another process has it; the scheduler knows better.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # Waiting threads that spin take the core from whoever they wait for, when cores are shared.
        "OMP_WAIT_POLICY": "PASSIVE",
        "VLLM_ENGINE_READY_TIMEOUT_S": str(round(model.engine.start_limit_s)),
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


def _context_length(model: ModelConfig) -> int:
    """The most tokens a prompt can have."""
    if model.max_model_len is not None:
        return model.max_model_len
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(
        model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
    ).get_text_config()
    return int(getattr(config, "max_position_embeddings", 0))


def _cpu_threads(path: str) -> int:
    """One thread for a tiny model: its matrix products are shorter than the threads' meetings (measured 2.5x)."""
    folder = Path(path)
    num_bytes = sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 0
    return 1 if 0 < num_bytes < SMALL_WEIGHTS_BYTES else os.cpu_count() or 1


def engine_arguments(model: ModelConfig) -> dict[str, Any]:
    """vLLM's own argument names for our config; `engine.extra` has the last word."""
    import torch

    on_gpu = torch.cuda.is_available()
    engine = model.engine
    arguments: dict[str, Any] = {
        "model": model.path,
        "revision": model.revision,
        "tokenizer": model.tokenizer or model.path,
        "dtype": "float32" if model.dtype == "auto" and not on_gpu else model.dtype,
        "max_model_len": model.max_model_len,
        "trust_remote_code": model.trust_remote_code,
        "enforce_eager": engine.enforce_eager if engine.enforce_eager is not None else not on_gpu,
        "max_num_seqs": engine.max_num_seqs,
        "max_num_batched_tokens": engine.max_num_batched_tokens,
        "block_size": engine.block_size,
        "enable_prefix_caching": engine.prefix_caching,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "enable_log_requests": False,
        "disable_log_stats": True,
        "worker_extension_cls": EXTENSION,
    }
    if on_gpu:
        arguments["gpu_memory_utilization"] = engine.gpu_memory_utilization
    else:
        # vLLM 0.32 on CPU: a seeded request whose prefill is cut into chunks kills the engine ("CPU Generator
        # does not use offset"), so a prompt is prefilled in one step, which must then hold a whole context.
        arguments["enable_chunked_prefill"] = False
        arguments["max_num_batched_tokens"] = max(engine.max_num_batched_tokens, _context_length(model))
        if engine.tensor_parallel_size == 1:
            arguments["distributed_executor_backend"] = engine_process.IN_ENGINE_CORE
    if engine.num_kv_blocks is not None:
        arguments["num_gpu_blocks_override"] = engine.num_kv_blocks
    return arguments | engine.extra


class VllmBackend:
    """A restartable AsyncLLM. All its methods run on one event loop."""

    def __init__(self, model: ModelConfig) -> None:
        model = localised(model)
        os.environ.update(engine_environment(model))  # read when vllm and huggingface_hub are imported
        engine_process.start_server()
        self.model = model
        self.max_concurrent_rows = max(1, round(1.1 * model.engine.max_num_seqs))
        self.num_kv_tokens: int | None = None
        self.num_starts = 0
        self.max_model_len = 0
        self.renderer: Renderer = load_renderer(model)
        self._engine: Any = None
        self._processes: list[Any] = []

    async def start(self) -> None:
        """Start the engine; takes seconds on CPU, minutes for large weights.

        Raises asyncio.TimeoutError past `engine.start_limit_s` and whatever vLLM raises.
        """
        import psutil
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._dispose()
        engine_process.use_server()
        me = psutil.Process()
        before = {child.pid for child in me.children(recursive=True)}
        # from_engine_args blocks until the engine core answers, on this loop: nothing else could run anyway,
        # because every conversation needs the engine.
        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_arguments(self.model)))
        self._processes = [child for child in me.children(recursive=True) if child.pid not in before]
        self.num_starts += 1
        config = self._engine.vllm_config
        self.max_model_len = config.model_config.max_model_len
        num_blocks = config.cache_config.num_gpu_blocks
        self.num_kv_tokens = num_blocks * config.cache_config.block_size if num_blocks else None

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

    def open(self, row_id: str, seed_of: Callable[[int], int], guard: Guard) -> VllmConversation:
        return VllmConversation(self, row_id, seed_of, guard)

    async def generate(self, ids: Sequence[int], params: Any, request_id: str) -> Any:
        """One request; the finished vLLM RequestOutput. Raises EngineDied, DropRow(REQUEST_REJECTED)."""
        from vllm import TokensPrompt

        return await self._last(self._engine.generate(TokensPrompt(prompt_token_ids=list(ids)), params, request_id))

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


class VllmConversation:
    """One row's Ask on a VllmBackend."""

    def __init__(self, backend: VllmBackend, row_id: str, seed_of: Callable[[int], int], guard: Guard) -> None:
        self._backend, self._row_id, self._seed_of, self._guard = backend, row_id, seed_of, guard
        self._tokens = DialogueTokens(backend.renderer)
        self._num_sent = 0
        self._num_asked = 0
        self.usage = Usage()
        self.num_context_tokens = 0
        self.num_shared_tokens = 0

    @property
    def max_model_len(self) -> int:
        return self._backend.max_model_len

    def count_tokens(self, messages: Sequence[Message]) -> int:
        renderer = self._backend.renderer
        return len(renderer.encode(renderer.text(renderer.neutralised(messages)[0])))

    async def __call__(self, messages: Sequence[Message], sampling: SamplingConfig) -> Completion:
        safe, num_neutralised = self._backend.renderer.neutralised(messages)
        ids = self._tokens.prompt_ids(safe)
        seed = self._next_seed()
        thinking_config = self._backend.model.thinking
        if thinking_config is None:
            result = await self._generate(ids, sampling, seed)
            reply = result.outputs[0]
            self._tokens.add_reply(reply.text, reply.token_ids, isinstance(reply.stop_reason, str))
            text, thinking, num_output_tokens = reply.text.strip(), None, len(reply.token_ids)
        else:
            # Phase one thinks within its own budget and is closed for the model if need be; phase two answers.
            first = SamplingConfig(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                max_tokens=thinking_config.max_tokens,
                stop=(thinking_config.close,),
            )
            thought = await self._generate(ids, first, seed)
            raw = thought.outputs[0].text
            thinking, answered = split_thinking(
                raw if self._answered_without_thinking(raw) else raw + thinking_config.close, thinking_config
            )
            num_output_tokens = len(thought.outputs[0].token_ids)
            if thinking is None:  # the model chose not to think: this is the answer already
                result, reply, text = thought, thought.outputs[0], answered
            else:
                closing = self._backend.renderer.encode(f"{raw}{thinking_config.close}\n\n", is_start=False)
                result = await self._generate([*ids, *closing], sampling, seed)
                reply = result.outputs[0]
                text = reply.text.strip()
                num_output_tokens += len(reply.token_ids)
        completion = Completion(
            text=text,
            finish_reason="length" if reply.finish_reason == "length" else "stop",
            num_prompt_tokens=len(ids),
            num_cached_tokens=result.num_cached_tokens or 0,
            num_output_tokens=num_output_tokens,
            num_neutralised=num_neutralised,
            thinking=thinking,
        )
        self._account(completion)
        return completion

    def _next_seed(self) -> int:
        """Counted when a request is made, not when it is answered: requests made at once have seeds of their own."""
        self._num_asked += 1
        return self._seed_of(self._num_asked - 1)

    def _answered_without_thinking(self, raw: str) -> bool:
        config = self._backend.model.thinking
        return config is not None and not config.opened_by_template and not raw.lstrip().startswith(config.open)

    def _account(self, completion: Completion) -> None:
        if self.usage.num_requests == 0:
            self.num_shared_tokens = completion.num_cached_tokens
        self.usage.add(completion)
        self.num_context_tokens = max(
            self.num_context_tokens, completion.num_prompt_tokens + completion.num_output_tokens
        )

    async def _generate(self, ids: list[int], sampling: SamplingConfig, seed: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        room = self.max_model_len - len(ids)
        if room < 1:
            raise DropRow(
                DropReason.TOO_LONG, f"the prompt has {len(ids)} tokens, the context holds {self.max_model_len}"
            )
        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=min(sampling.max_tokens, room),
            stop=list(stop_strings(sampling.stop, self._backend.model.format)),
            seed=seed if sampling.temperature > 0 else None,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        return await self._send(ids, params)

    async def _send(self, ids: list[int], params: Any) -> Any:
        self._num_sent += 1
        attempt = 0

        async def send() -> Any:
            nonlocal attempt  # a retry on a new engine is a new request there
            attempt += 1
            return await self._backend.generate(ids, params, f"{self._row_id}#{self._num_sent}.{attempt}")

        return await self._guard(send)

    async def choose(self, messages: Sequence[Message], options: Sequence[str]) -> list[float]:
        """Log-probabilities (nats) of each option as the next token, by one forward pass of one token."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self._num_asked += 1
        renderer = self._backend.renderer
        safe, num_neutralised = renderer.neutralised(messages)
        text = renderer.text(safe)
        ids = renderer.encode(text)  # an aside: the conversation's own ids stay as they are
        option_ids = [option_token_id(renderer, option, text) for option in options]
        if len(ids) + 1 > self.max_model_len:
            raise DropRow(
                DropReason.TOO_LONG, f"the prompt has {len(ids)} tokens, the context holds {self.max_model_len}"
            )
        params = SamplingParams(
            temperature=0.0, max_tokens=1, logprob_token_ids=option_ids, output_kind=RequestOutputKind.FINAL_ONLY
        )
        result = await self._send(ids, params)
        self._account(
            Completion(
                text="",
                finish_reason="stop",
                num_prompt_tokens=len(ids),
                num_cached_tokens=result.num_cached_tokens or 0,
                num_output_tokens=1,
                num_neutralised=num_neutralised,
            )
        )
        position = result.outputs[0].logprobs[0]
        return [position[token_id].logprob for token_id in option_ids]


def option_token_id(renderer: Renderer, option: str, text: str = "") -> int:
    """The one token that spells `option` right behind `text`. Raises ValueError when it takes several.

    SentencePiece has one "A" for the start of a word and another for the inside, which is what follows a bracket.
    Where the tokenizer would merge the two ("(A"), the option's own token is the one to ask for.
    """
    before = text[len(text.rstrip()) :] or text.split()[-1] if text.strip() else ""
    start, whole = (renderer.encode(part, is_start=False) for part in (before, before + option))
    if before and len(whole) == len(start) + 1 and whole[:-1] == start:
        return whole[-1]
    ids = renderer.encode(option, is_start=False)
    if len(ids) != 1:
        raise ValueError(
            f"option {option!r} is {len(ids)} tokens in this tokenizer; options must be single tokens: "
            "use letters, and end the prompt right before the letter"
        )
    return ids[0]
