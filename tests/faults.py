"""Faults to inject. Everything here is imported by name in Ray's workers or in the engine's own process.

Real vLLM: `engine.extra = {"logits_processors": [POISON]}` puts a processor of ours into the engine core, where it
sees the prompt of every request that joins the batch. Scripted engines: `use_script` makes a stage talk to a function.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cai_ray.chat import Message
from cai_ray.engines.backends.scripted import Script, ScriptedBackend
from cai_ray.engines.conversations.asking import EngineDied
from cai_ray.seeding import stable_id

POISON = "tests.faults:PoisonProcessor"
# Ordinary words of the micro world, in an order in which its language never has them.
KILLS = "the mailbox and the statue"
HANGS = "the guitar and the bench"


def __getattr__(name: str) -> Any:
    """PoisonProcessor, defined when the engine asks for it: its base class needs vLLM, and most importers do not."""
    if name == "PoisonProcessor":
        return _poison_processor()
    raise AttributeError(name)


def _poison_processor() -> type:
    import torch
    from transformers import AutoTokenizer
    from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor

    class PoisonProcessor(LogitsProcessor):
        """Kills or hangs the engine core when a prompt with a marker phrase joins its batch; changes no logits."""

        def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
            self._tokenizer = AutoTokenizer.from_pretrained(vllm_config.model_config.tokenizer)

        def apply(self, logits: torch.Tensor) -> torch.Tensor:
            return logits

        def is_argmax_invariant(self) -> bool:
            return True

        def update_state(self, batch_update: BatchUpdate | None) -> None:
            for _, _, prompt_ids, _ in batch_update.added if batch_update else ():
                text = self._tokenizer.decode(prompt_ids or [])
                if KILLS in text:
                    os.kill(os.getpid(), signal.SIGKILL)
                while HANGS in text:
                    time.sleep(60)

    return PoisonProcessor


def use_script(monkeypatch: pytest.MonkeyPatch, script: Script) -> None:
    """Let the stage `revise` of this process talk to `script` in place of its model."""
    from cai_ray.stages.revision import revise

    monkeypatch.setattr(revise, "backend_factory", lambda model: partial(ScriptedBackend, script))


def _words(messages: Sequence[Message]) -> list[str]:
    return [f"{message['role']}: {message['content']}" for message in messages]


def echo(row_id: str, messages: Sequence[Message], seed: int) -> str:
    """A hash of all that reaches the model, so that equal answers mean equal prompts and seeds."""
    return stable_id("echo", row_id, _words(messages), seed)


@dataclass(frozen=True)
class Slow:
    """`echo` after `seconds`."""

    seconds: float

    async def __call__(self, row_id: str, messages: Sequence[Message], seed: int) -> str:
        await asyncio.sleep(self.seconds)
        return echo(row_id, messages, seed)


async def asleep_when_told(row_id: str, messages: Sequence[Message], seed: int) -> str:
    """`echo`, but never for a conversation with HANGS in it."""
    if any(HANGS in message["content"] for message in messages):
        await asyncio.sleep(3600)
    return echo(row_id, messages, seed)


@dataclass
class DiesAfter:
    """`echo` so many times, then an engine that dies at every request, once `num_records` are in the folder `records`.

    Parts are written while conversations go on: without the wait, a busy machine lets the engine die first.
    """

    num_answers: int
    records: str | None = None
    num_records: int = 1

    async def __call__(self, row_id: str, messages: Sequence[Message], seed: int) -> str:
        await asyncio.sleep(0.005)
        self.num_answers -= 1
        if self.num_answers < 0:
            for _ in range(600):
                if self.records is None or len(list(Path(self.records).glob("[!.]*.json"))) >= self.num_records:
                    break
                await asyncio.sleep(0.1)
            raise EngineDied("scripted")
        return echo(row_id, messages, seed)
