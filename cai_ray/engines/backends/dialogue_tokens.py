"""Token ids of a growing conversation: earlier ids are kept and new text is appended.

Re-tokenising a whole conversation each turn misses the prefix cache wherever the model's own tokens
differ from the tokenizer's choice for the same text, and can change what the model sees.
"""

from __future__ import annotations

from collections.abc import Sequence

from cai_ray.chat import Message, Renderer


class DialogueTokens:
    """The prompt ids of one conversation's successive requests."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        self._end_ids = set(renderer.tokenizer.all_special_ids)
        self._text = ""  # the last request's prompt ...
        self._ids: list[int] = []
        self._reply_text = ""  # ... and the raw reply to it
        self._reply_ids: list[int] | None = None

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the rendered messages, sharing the longest prefix the renderer's text allows."""
        text = self.renderer.text(messages)
        if not self._ids:
            ids = self.renderer.encode(text)
        elif self._reply_ids is not None and text.startswith(self._text + self._reply_text):
            tail = text[len(self._text) + len(self._reply_text) :]
            ids = [*self._ids, *self._reply_ids, *self.renderer.encode(tail, is_start=False)]
        elif text.startswith(self._text):  # the reply was cleaned, or cut at a stop string: only it is new
            ids = [*self._ids, *self.renderer.encode(text[len(self._text) :], is_start=False)]
        else:  # another system prompt, or a template that rewrites earlier turns
            ids = self.renderer.encode(text)
        self._text, self._ids, self._reply_text, self._reply_ids = text, ids, "", None
        return ids

    def add_reply(self, text: str, token_ids: Sequence[int], cut_at_stop_string: bool) -> None:
        """Remember the engine's reply to the last prompt. `text` is raw, `token_ids` as generated.

        The end-of-turn token is left off: the template writes it. Ids that run past a stop string do
        not spell `text`, so they are not kept.
        """
        ids = list(token_ids)
        if ids and ids[-1] in self._end_ids:
            ids.pop()
        self._reply_text = text
        self._reply_ids = None if cut_at_stop_string else ids
