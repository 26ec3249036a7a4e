"""What a classifier reads of a conversation and its answer: the answer alone, both as a pair, or a whole chat.

Tested in tests/engines/backends/in_process/test_classifier.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cai_ray.chat import Message, Renderer, chat_messages, messages_to_transcript, neutralised, with_system_role
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.models.classifier import InputForm
from cai_ray.errors import ConfigError
from cai_ray.markup import TRANSCRIPT, Markup

if TYPE_CHECKING:
    from cai_ray.engines.models.classifier import LoadedClassifier

_TRANSCRIPT = Markup(labels=TRANSCRIPT)  # of a pair's first text; the tokenizer's own tokens are read as before


class Encoded(NamedTuple):
    """One text as a classifier reads it."""

    fields: dict[str, list[int]]  # input_ids, and token_type_ids where the model has them; [num_tokens] each
    truncated: bool

    @property
    def ids(self) -> list[int]:
        return self.fields["input_ids"]


class Reader:
    """Encodes for one loaded classifier. Raises ConfigError when a chat is asked for and there is no template."""

    def __init__(self, loaded: LoadedClassifier, form: InputForm) -> None:
        self._loaded, self._form = loaded, form
        self._tokenizer: Any = loaded.tokenizer
        self._renderer: Renderer | None = None
        if form in ("chat", "value_head"):
            try:
                self._renderer = Renderer(
                    self._tokenizer, "chat", loaded.system_role, loaded.chat_template, loaded.template_kwargs
                )
            except ValueError as error:
                raise ConfigError(f"{loaded.name}: {error}") from error

    def encode(self, messages: Sequence[Message], answer: str) -> Encoded:
        """Control tokens spelt out in a chat are defused. Raises DropRow(TOO_LONG) for a chat over the context.

        Texts without a template are cut on the right, which leaves an answer's beginning; a value head's are cut on
        the left, as its authors do.
        """
        if self._renderer is None:
            return self._plain(messages, answer)
        return self._chat(self._renderer, messages, answer)

    def _plain(self, messages: Sequence[Message], answer: str) -> Encoded:
        safe, _ = neutralised(messages, _TRANSCRIPT)
        texts = [answer] if self._form == "answer" else [messages_to_transcript(safe).strip(), answer]
        most = self._loaded.max_tokens
        whole = self._tokenizer(*texts)
        found = whole if len(whole["input_ids"]) <= most else self._tokenizer(*texts, truncation=True, max_length=most)
        fields = {name: list(found[name]) for name in ("input_ids", "token_type_ids") if name in found}
        return Encoded(fields, found is not whole)

    def _chat(self, renderer: Renderer, messages: Sequence[Message], answer: str) -> Encoded:
        turns = [*with_system_role(messages, renderer.system_role), {"role": "assistant", "content": answer}]
        safe, _ = renderer.neutralised(chat_messages(turns))
        text = renderer.rendered(safe)
        most = self._loaded.max_tokens
        if self._form == "value_head":  # tokenised as any text is, and cut on the left behind the token that begins it
            whole: list[int] = self._tokenizer(text)["input_ids"]
            self._tokenizer.truncation_side = "left"
            return Encoded(
                {"input_ids": self._tokenizer(text, truncation=True, max_length=most)["input_ids"]}, len(whole) > most
            )
        # A chat template writes the beginning-of-sequence token itself.
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        if len(ids) > most:
            raise DropRow(DropReason.TOO_LONG, f"the conversation has {len(ids)} tokens, the model reads {most}")
        return Encoded({"input_ids": ids}, False)
