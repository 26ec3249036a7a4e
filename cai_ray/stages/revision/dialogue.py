"""What one row asks while it is revised: every answer cleaned, every token counted.

Tested in tests/stages/revision/test_revise.py.
"""

from __future__ import annotations

from typing import Any, Literal

from cai_ray.chat import Message
from cai_ray.config import SamplingConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.conversations.asking import Ask, Completion
from cai_ray.prompts.revision import parse_reply
from cai_ray.quality.cleaning import CleaningConfig, clean
from cai_ray.quality.gates import Gate


class Dialogue:
    """One row's asks: cleans each answer, keeps the row's token counts."""

    def __init__(self, ask: Ask, cleaning: CleaningConfig, truncated: Gate) -> None:
        self._ask, self._cleaning, self._truncated = ask, cleaning, truncated
        self._completions: list[Completion] = []

    async def answer(self, messages: list[Message], sampling: SamplingConfig) -> tuple[str, list[str]]:
        """A cleaned answer or revision, and its flags."""
        completion = await self._complete(messages, sampling)
        text, flags = self._clean(completion, "answer", "")
        if completion.finish_reason == "length" and self._truncated != "off":
            if self._truncated == "drop":
                raise DropRow(DropReason.TRUNCATED, f"an answer was cut off at max_tokens={sampling.max_tokens}")
            flags.append("truncated")
        return text, flags

    async def critique(self, messages: list[Message], sampling: SamplingConfig) -> tuple[str, list[str]]:
        return self._clean(await self._complete(messages, sampling), "critique", "critique.")

    async def _complete(self, messages: list[Message], sampling: SamplingConfig) -> Completion:
        completion = await self._ask(messages, sampling)
        self._completions.append(completion)
        return completion

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
