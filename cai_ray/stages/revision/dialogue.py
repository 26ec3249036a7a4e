"""What one row asks while it is revised: every answer cleaned, every token counted.

Tested in tests/stages/revision/test_revise.py.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

from cai_ray.artifacts.counters import logprob_counters
from cai_ray.chat import Message
from cai_ray.config import SamplingConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.conversations.asking import Ask, Completion
from cai_ray.prompts.revision import parse_reply
from cai_ray.quality.cleaning import CleaningConfig, clean
from cai_ray.quality.gates import Gate, GatesConfig, incoherent_flag, is_incoherent


class Dialogue:
    """One row's asks: cleans each answer, weighs how likely its words are, keeps the row's token counts."""

    def __init__(self, ask: Ask, cleaning: CleaningConfig, truncated: Gate, gates: GatesConfig) -> None:
        self._ask, self._cleaning, self._truncated, self._gates = ask, cleaning, truncated, gates
        self._completions: list[Completion] = []
        self._num_asked: Counter[str] = Counter()

    async def answer(self, messages: list[Message], sampling: SamplingConfig) -> tuple[str, list[str]]:
        """A cleaned answer or revision, and its flags."""
        completion = await self._complete(messages, sampling)
        text, flags = self._clean(completion, "answer", "")
        flags += self._weigh(completion, "revision" if self._num_asked else "answer", "")
        if completion.finish_reason == "length" and self._truncated != "off":
            if self._truncated == "drop":
                raise DropRow(DropReason.TRUNCATED, f"an answer was cut off at max_tokens={sampling.max_tokens}")
            flags.append("truncated")
        return text, flags

    async def critique(self, messages: list[Message], sampling: SamplingConfig) -> tuple[str, list[str]]:
        completion = await self._complete(messages, sampling)
        text, flags = self._clean(completion, "critique", "critique.")
        return text, flags + self._weigh(completion, "critique", "critique.")

    async def _complete(self, messages: list[Message], sampling: SamplingConfig) -> Completion:
        completion = await self._ask(messages, sampling)
        self._completions.append(completion)
        return completion

    def _weigh(self, completion: Completion, what: str, prefix: str) -> list[str]:
        """The gate's flag, if any; what was measured joins the row's counters."""
        number, self._num_asked[what] = self._num_asked[what] + 1, self._num_asked[what] + 1
        logprobs, gates = completion.logprobs, self._gates
        if not logprobs:
            return []
        name = what if what == "answer" else f"{what} {number}"
        is_low = is_incoherent(logprobs, gates.incoherent_below)
        self._ask.usage.counters.update(logprob_counters(name, logprobs, is_low))
        flag = incoherent_flag(logprobs, gates)
        if flag is not None and flag.drop:
            raise DropRow(flag.gate, f"{name}: {flag.detail}")
        return [f"{prefix}{flag.gate}"] if flag else []

    def _clean(self, completion: Completion, step: Literal["answer", "critique"], prefix: str) -> tuple[str, list[str]]:
        cleaned = clean(completion.text, self._cleaning, step)
        text = parse_reply(cleaned.text)
        if not text:
            why = "nothing but meta-commentary" if completion.text.strip() else "no text"
            raise DropRow(DropReason.EMPTY_RESPONSE, f"{step} {len(self._completions)} holds {why}")
        return text, [f"{prefix}{rule}" for rule in cleaned.counts]

    def columns(self) -> dict[str, Any]:
        """Of the REVISION schema."""
        asked = self._completions
        thinking = [completion.thinking or "" for completion in asked]
        return {
            "thinking": thinking if any(thinking) else None,
            "finish_reasons": [completion.finish_reason for completion in asked],
            "num_neutralised": asked[0].num_neutralised,
            "num_prompt_tokens": sum(completion.num_prompt_tokens for completion in asked),
            "num_cached_tokens": sum(completion.num_cached_tokens for completion in asked),
            "num_output_tokens": sum(completion.num_output_tokens for completion in asked),
        }
