"""The recipe's thinking marks as a reasoning parser of vLLM's.

vLLM's own parsers go by the name of a model's family and look for tokens; a recipe gives marks, which may be any text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from cai_ray.config import ThinkingConfig

NAME = "recipe_marks"


def register(config: ThinkingConfig) -> str:
    """Make the parser for `config` known to vLLM in this process; its name there."""
    from vllm.entrypoints.generate.base.protocol import DeltaMessage
    from vllm.reasoning import ReasoningParser, ReasoningParserManager

    class MarkedThinking(ReasoningParser):  # type: ignore[misc]  # vLLM is untyped to mypy here
        """One answer's."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._stream = ThinkingStream(config)

        def is_reasoning_end(self, input_ids: Sequence[int]) -> bool:
            return False  # asked of the prompt alone: whatever was thought there, the answer may think again

        def is_reasoning_end_streaming(self, input_ids: Sequence[int], delta_ids: Iterable[int]) -> bool:
            return self._stream.is_answering

        def extract_content_ids(self, input_ids: list[int]) -> list[int]:
            return input_ids

        def extract_reasoning(self, model_output: str, request: Any) -> tuple[str | None, str | None]:
            thinking, answer = ThinkingStream(config).feed(model_output, is_last=True)
            return thinking or None, answer

        def extract_reasoning_streaming(
            self, previous_text: str, current_text: str, delta_text: str, *ids: Sequence[int], **named: Sequence[int]
        ) -> DeltaMessage | None:
            thinking, answer = self._stream.feed(delta_text, is_last=False)
            given = {"reasoning": thinking, "content": answer}
            return DeltaMessage(**{name: text for name, text in given.items() if text}) if any(given.values()) else None

        def get_streaming_fallback_content(self, text: str, request: Any) -> str:
            """What was held back at the end of the answer, for it might have become a mark."""
            return self._stream.feed("", is_last=True)[1]

    ReasoningParserManager.register_module(NAME, module=MarkedThinking)
    return NAME


class ThinkingStream:
    """One answer's text as it comes in pieces; what `chat.split_thinking` does for a whole one."""

    def __init__(self, config: ThinkingConfig) -> None:
        self._config = config
        self._held = ""  # may turn out to be the start of a mark
        self._at: Literal["start", "thinking", "gap", "answer"] = "thinking" if config.opened_by_template else "start"

    @property
    def is_answering(self) -> bool:
        """Whether the thinking is over, and whatever comes is answer."""
        return self._at == "answer"

    def feed(self, text: str, is_last: bool) -> tuple[str, str]:
        """(thinking, answer) that the next piece of text adds; with `is_last` nothing is held back any more.

        Thinking that is never closed is all thinking. White space around the marks belongs to neither.
        """
        self._held += text
        thinking = ""
        if self._at == "start":
            begun = self._held.lstrip()
            if begun.startswith(self._config.open):
                self._at, self._held = "thinking", begun.removeprefix(self._config.open)
            elif is_last or not self._config.open.startswith(begun):
                self._at = "answer"
            else:
                return "", ""
        if self._at == "thinking":
            thinking, closed, rest = self._held.partition(self._config.close)
            if closed:
                self._at, self._held = "gap", rest
            else:
                held = 0 if is_last else _overlap(self._held, self._config.close)
                thinking, self._held = self._held[: len(self._held) - held], self._held[len(self._held) - held :]
                return thinking, ""
        if self._at == "gap":
            self._held = self._held.lstrip()
            if self._held:
                self._at = "answer"
        answer, self._held = self._held, ""
        return thinking, answer


def _overlap(text: str, mark: str) -> int:
    """Length of the longest end of `text` that `mark` could begin with."""
    return next((size for size in range(min(len(text), len(mark) - 1), 0, -1) if text.endswith(mark[:size])), 0)
