"""The dialogues of `revise` on one engine, in the ways one could have them: by the stage, bare, or step by step.

Every side asks the same rows the same questions, by the stage's own coroutine of a row; what differs is what stands
behind `ask`. `in_step` is how a script does it: all rows ask, all are answered in one call, all ask again. With one
row at a time that is a loop over rows, with 32 a loop over batches.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.idle_ray import idle_ray
from cai_ray.chat import Message, Renderer
from cai_ray.config import ModelConfig, SamplingConfig
from cai_ray.dropped import DropRow
from cai_ray.engines.backends.vllm_backend import VllmBackend
from cai_ray.engines.backends.vllm_engine import engine_arguments, engine_environment
from cai_ray.engines.conversations.asking import Ask, Completion, Counts, Usage
from cai_ray.engines.conversations.generation import ConversationJob
from cai_ray.engines.conversations.stage import run_conversations
from cai_ray.engines.models.reading import load_renderer
from cai_ray.pipeline import run as pipeline
from cai_ray.pipeline.recipe import Recipe
from cai_ray.pipeline.steps import steps
from cai_ray.stages.context import Context
from cai_ray.stages.inputs import load_prompts
from cai_ray.stages.revision import revise

TOKENS = ("num_prompt_tokens", "num_cached_tokens", "num_output_tokens")  # of a Usage, and counters of a stage
# Of one call: each row's prompt, token ids, and how to sample -> each row's answer.
Answer = Callable[[Sequence[tuple[list[int], SamplingConfig]]], list[Completion]]


@dataclass
class Timed:
    """One side's run: Unix seconds, and tokens of all rows."""

    begun: float  # the first row; the engine is up
    ended: list[float] = field(default_factory=list)  # of each row
    usage: Usage = field(default_factory=Usage)

    def steady_rate(self) -> float:
        """Rows/s from when the first tenth of the rows is done to the last one."""
        ended = sorted(self.ended)
        warm = max(1, len(ended) // 10)
        return (len(ended) - warm) / (ended[-1] - ended[warm - 1])

    def rate(self) -> float:
        """Rows/s from the first request to the last row."""
        return len(self.ended) / (max(self.ended) - self.begun)

    def figures(self) -> dict[str, float]:
        seconds = max(self.ended) - self.begun
        return {
            "rows_per_s": self.rate(),
            "output_tokens_per_s": self.usage.num_output_tokens / seconds,
            "cached_share": self.usage.num_cached_tokens / max(1, self.usage.num_prompt_tokens),
            "prefilled_tokens": self.usage.num_prompt_tokens - self.usage.num_cached_tokens,
        }

    def add(self, usage: Usage) -> None:
        """One row that has ended."""
        self.ended.append(time.time())
        for name in TOKENS:
            setattr(self.usage, name, getattr(self.usage, name) + getattr(usage, name))


def prepared(recipe: Recipe) -> tuple[Context, ConversationJob, list[dict[str, Any]]]:
    """With the prompts loaded: the stage's job, and its rows."""
    found = steps(recipe)
    context = pipeline.prepare(recipe, found)
    found[0].run(context)
    job = revise.job_of(_config(recipe), context)
    tables = context.artifact(load_prompts.STAGE).tables()
    return context, job, [unit for table in tables for unit in job.expand(table).to_pylist()]


def _config(recipe: Recipe) -> revise.Config:
    assert recipe.revise is not None, "the recipe is one of ours"
    return recipe.revise


def stage(recipe: Recipe) -> Timed:
    """The stage itself: Ray Data, an actor pool, parts committed to disk. A row has ended when its part is written."""
    context, job, units = prepared(recipe)
    clock = Path(context.run.path()) / "clock"
    asked = revise.conversations(_config(recipe), context, load_prompts.STAGE)
    timed = dataclasses.replace(job, converse=Noted(job.converse, clock))
    artifact = run_conversations(dataclasses.replace(asked, job=timed), context.cluster)
    found = Timed(float(np.fromfile(clock).min()))
    for file in artifact.manifest.files:
        found.ended += [Path(artifact.folder.path(file.name)).stat().st_mtime] * file.num_rows
    for name in TOKENS:
        setattr(found.usage, name, artifact.manifest.counters[name])
    found.ended += [max(found.ended)] * (len(units) - artifact.manifest.rows_out)  # dropped, which is work too
    return found


@dataclass
class Noted:
    """A row's coroutine that notes when it began, in a file that all processes append to."""

    converse: Callable[[dict[str, Any], Ask], Any]
    clock: Path

    async def __call__(self, row: dict[str, Any], ask: Ask) -> dict[str, Any]:
        file = os.open(self.clock, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, struct.pack("d", time.time()))
        os.close(file)
        return await self.converse(row, ask)


def direct(recipe: Recipe) -> Timed:
    """The rows on a bare AsyncLLM: no Ray, no gate but a count of open rows, nothing written."""
    context, job, units = prepared(recipe)

    async def everything() -> Timed:
        backend = VllmBackend(context.model("policy"))
        await backend.start()
        slots = asyncio.Semaphore(backend.max_concurrent_rows)
        found = Timed(time.time())

        async def one(unit: dict[str, Any]) -> None:
            async with slots:
                ask = backend.open(unit["row_id"], lambda k: k, lambda send: send())
                with suppress(DropRow):  # done all the same
                    await job.converse(unit, ask)
                found.add(ask.usage)

        await asyncio.gather(*(one(unit) for unit in units))
        backend.close()
        return found

    return asyncio.run(everything())


def beside_ray(recipe: Recipe) -> Timed:
    """`direct` while a Ray idles on the same cores."""
    with idle_ray():
        return direct(recipe)


class Turns:
    """Rows in step: when every one that is left waits for an answer, all are answered in one call."""

    def __init__(self, answer: Answer, num_rows: int) -> None:
        self._answer, self._num_rows = answer, num_rows
        self._asked: list[tuple[tuple[list[int], SamplingConfig], asyncio.Future[Completion]]] = []

    async def ask(self, ids: list[int], sampling: SamplingConfig) -> Completion:
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._asked.append(((ids, sampling), future))
        self._turn()
        return await future

    def leave(self) -> None:
        """A row has ended."""
        self._num_rows -= 1
        self._turn()

    def _turn(self) -> None:
        if self._asked and len(self._asked) == self._num_rows:
            asked, self._asked = self._asked, []
            answers = self._answer([question for question, _ in asked])
            for (_, future), completion in zip(asked, answers, strict=True):
                future.set_result(completion)


class InStep(Counts):
    """A row's Ask among others."""

    max_model_len = None  # the rows are such that all of them fit

    def __init__(self, turns: Turns, renderer: Renderer) -> None:
        super().__init__()
        self._turns, self._renderer = turns, renderer

    def count_tokens(self, messages: Sequence[Message]) -> None:
        return None

    async def __call__(self, messages: Sequence[Message], sampling: SamplingConfig) -> Completion:
        ids = self._renderer.encode(self._renderer.text(self._renderer.neutralised(messages)[0]))
        completion = await self._turns.ask(ids, sampling)
        self.account(completion)
        return completion

    async def choose(
        self, messages: Sequence[Message], options: Sequence[str], *, unlisted: float | None = None
    ) -> list[float]:
        raise AssertionError("these dialogues do not choose")


def in_step(
    job: ConversationJob, units: Sequence[dict[str, Any]], renderer: Renderer, answer: Answer, num_together: int
) -> Timed:
    """`num_together` rows at a time."""

    async def one(unit: dict[str, Any], turns: Turns, found: Timed) -> None:
        ask = InStep(turns, renderer)
        with suppress(DropRow):
            await job.converse(unit, ask)
        found.add(ask.usage)
        turns.leave()

    async def everything() -> Timed:
        found = Timed(time.time())
        for start in range(0, len(units), num_together):
            batch = units[start : start + num_together]
            turns = Turns(answer, len(batch))
            await asyncio.gather(*(one(unit, turns, found) for unit in batch))
        return found

    return asyncio.run(everything())


def staged(recipe: Recipe) -> Timed:
    """All rows turn by turn through vLLM's `LLM` in this process, prefix cache and all of the engine's settings."""
    context, job, units = prepared(recipe)
    return in_step(job, units, load_renderer(context.model("policy")), offline(context.model("policy")), len(units))


def offline(model: ModelConfig) -> Answer:
    os.environ |= {**engine_environment(model), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    ours = ("worker_extension_cls", "enable_log_requests", "distributed_executor_backend")
    arguments = engine_arguments(model)
    llm = LLM(**{name: value for name, value in arguments.items() if name not in ours})

    def answer(asked: Sequence[tuple[list[int], SamplingConfig]]) -> list[Completion]:
        params = [
            SamplingParams(max_tokens=one.max_tokens, temperature=one.temperature, top_p=one.top_p, seed=k)
            for k, (_, one) in enumerate(asked)
        ]
        replies = llm.generate([TokensPrompt(prompt_token_ids=ids) for ids, _ in asked], params, use_tqdm=False)
        return [
            Completion(
                text=one.outputs[0].text.strip(),
                finish_reason=one.outputs[0].finish_reason or "stop",
                num_prompt_tokens=len(one.prompt_token_ids or ()),
                num_cached_tokens=one.num_cached_tokens or 0,
                num_output_tokens=len(one.outputs[0].token_ids),
            )
            for one in replies
        ]

    return answer


def hugging_face(recipe: Recipe, num_together: int) -> Timed:
    """transformers' `generate`, left-padded batches of `num_together` rows, every core; 1: a loop over the rows."""
    context, job, units = prepared(recipe)
    model = context.model("policy")
    renderer = load_renderer(model)
    return in_step(job, units, renderer, generating(model, renderer), num_together)


def generating(config: ModelConfig, renderer: Renderer) -> Answer:
    import torch
    from transformers import AutoModelForCausalLM

    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(config.dtype, torch.float32)
    model: Any = AutoModelForCausalLM.from_pretrained(config.path, dtype=dtype).eval()
    tokenizer = renderer.tokenizer
    ends = {tokenizer.eos_token_id}

    def answer(asked: Sequence[tuple[list[int], SamplingConfig]]) -> list[Completion]:
        longest = max(len(ids) for ids, _ in asked)
        padded = torch.tensor([[tokenizer.eos_token_id] * (longest - len(ids)) + ids for ids, _ in asked])
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids, _ in asked])
        sampling = asked[0][1]  # rows in step are all at the same question
        with torch.no_grad():
            told = model.generate(
                padded,
                attention_mask=mask,
                do_sample=True,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_new_tokens=sampling.max_tokens,
                pad_token_id=tokenizer.eos_token_id,
            )
        found = []
        for (ids, _), row in zip(asked, told[:, longest:].tolist(), strict=True):
            end = next((at for at, token in enumerate(row) if token in ends), None)
            kept = row if end is None else row[:end]
            found.append(
                Completion(
                    text=tokenizer.decode(kept, skip_special_tokens=True).strip(),
                    finish_reason="length" if end is None else "stop",
                    num_prompt_tokens=len(ids),
                    num_output_tokens=len(kept) + (end is not None),
                )
            )
        return found

    return answer
