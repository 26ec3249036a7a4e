"""Part a reasoning model's thinking from its answer while both are still being written."""

from __future__ import annotations

from typing import Literal

from cai_ray.config import ThinkingConfig


class ThinkingStream:
    """One answer's text as it comes in pieces; what `chat.split_thinking` does for a whole one."""

    def __init__(self, config: ThinkingConfig) -> None:
        self._config = config
        self._held = ""  # may turn out to be the start of a mark
        self._at: Literal["start", "thinking", "gap", "answer"] = "thinking" if config.opened_by_template else "start"

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
