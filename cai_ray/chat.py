"""Messages to prompt text and back: chat templates, base-model transcripts, thinking, control tokens.

Inside a dialogue a message's role may also be FINISHED, DOCUMENT, or a step of revision ("critique_request",
"critique", "revision_request", "revision"). A chat template sees them as user and assistant turns; a transcript
shows them under their own labels, as in the paper's section 3.1.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cai_ray.config import SystemRole, ThinkingConfig
from cai_ray.markup import TRANSCRIPT, TRANSCRIPT_LABELS, Markup, longest_first, markup_of

Message = dict[str, str]  # {"role": ..., "content": ...}
Messages = list[Message]

FINISHED = "finished"  # role of an assistant's turn that is over: judged by the model that is asked, never continued
# A whole text of our own making, with turns inside it, in the place of a conversation: a base model's comparison.
# It is shown without a label, and the labels in it stay: its maker has defused what it quotes.
DOCUMENT = "document"
CHAT_ROLES = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "critique_request": "user",
    "critique": "assistant",
    "revision_request": "user",
    "revision": "assistant",
    FINISHED: "assistant",
    DOCUMENT: "user",
}
REPLY_ROLES = {"user": "assistant", "critique_request": "critique", "revision_request": "revision"}
# What ends an answer of a base model that would otherwise write the next turn too. The leading blank line is part of
# each: "Critique:" within a sentence ends nothing.
STOP_STRINGS = tuple(f"\n\n{label}:" for label in TRANSCRIPT_LABELS.values())
_ROLE_OF_LABEL = {label: role for role, label in TRANSCRIPT_LABELS.items()}
# The transcript format of hh-rlhf and the paper: a turn starts after a blank line (or at the very start).
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):[ \t]?")


def messages_to_transcript(messages: Sequence[Message]) -> str:
    """`[{user, Hi}, {assistant, Hello}]` -> "\\n\\nHuman: Hi\\n\\nAssistant: Hello" (hh-rlhf's layout).

    A system message becomes an unlabelled paragraph, since base models know no such label.
    """
    parts = []
    for message in messages:
        if message["role"] in ("system", DOCUMENT):
            parts.append(f"\n\n{message['content']}")
        else:
            parts.append(f"\n\n{TRANSCRIPT_LABELS[message['role']]}: {message['content']}")
    return "".join(parts)


def transcript_to_messages(transcript: str) -> list[Message]:
    """The inverse for Human/Assistant turns; contents are stripped.

    Raises ValueError when the text does not start with a turn label.
    """
    starts = list(_TURN.finditer(transcript))
    if not starts or transcript[: starts[0].start()].strip():
        raise ValueError('a transcript starts with "Human:" or "Assistant:"')
    messages = []
    for start, following in zip(starts, [*starts[1:], None], strict=True):
        content = transcript[start.end() : following.start() if following else len(transcript)]
        messages.append({"role": _ROLE_OF_LABEL[start[1]], "content": content.strip()})
    return messages


def split_thinking(text: str, config: ThinkingConfig) -> tuple[str | None, str]:
    """ "<think>why</think>answer" -> ("why", "answer"); (None, text) when there is no thinking.

    Thinking that was never closed is all thinking: the answer is then "".
    """
    head, closed, answer = text.partition(config.close)
    opened = head.lstrip().startswith(config.open) or config.opened_by_template
    if not closed and not opened:
        return None, text.strip()
    thinking = head.strip().removeprefix(config.open).strip()
    return thinking, answer.strip()


def fold_system(messages: Sequence[Message]) -> list[Message]:
    """Move a leading system message into the first user turn, for models without a system role (Gemma-2)."""
    if not messages or messages[0]["role"] != "system":
        return list(messages)
    system, rest = messages[0]["content"], list(messages[1:])
    for index, message in enumerate(rest):
        if CHAT_ROLES.get(message["role"]) == "user":  # a served model's client may send a tool's turn
            rest[index] = {"role": message["role"], "content": f"{system}\n\n{message['content']}"}
            return rest
    return [{"role": "user", "content": system}, *rest]


def with_system_role(messages: Sequence[Message], system_role: SystemRole) -> list[Message]:
    """The messages with their system message kept ("native", "auto"), folded into a user turn, or dropped."""
    if system_role == "fold":
        return fold_system(messages)
    if system_role == "drop":
        return [message for message in messages if message["role"] != "system"]
    return list(messages)


def chat_messages(messages: Sequence[Message]) -> list[Message]:
    """The messages with the roles that chat templates know."""
    return [{"role": CHAT_ROLES[message["role"]], "content": message["content"]} for message in messages]


def is_begun(messages: Sequence[Message]) -> bool:
    """Whether the messages end in a turn of the assistant that is to be continued."""
    last = messages[-1]["role"]
    return CHAT_ROLES[last] == "assistant" and last != FINISHED


def transcript_prompt(messages: Sequence[Message]) -> str:
    """The prompt for a base model: the transcript, and the label of the reply unless that is begun already."""
    reply = REPLY_ROLES.get(messages[-1]["role"])
    text = messages_to_transcript(messages)
    return f"{text}\n\n{TRANSCRIPT_LABELS[reply]}:" if reply else text


def stop_strings(asked: Sequence[str], format: Literal["chat", "transcript"]) -> tuple[str, ...]:
    """All that ends an answer: what the caller asks for, and in a transcript the label of any further turn.

    Every backend sends these, so that nobody who asks a base model has to think of them.
    """
    return tuple(dict.fromkeys([*asked, *(STOP_STRINGS if format == "transcript" else ())]))


def neutralised(messages: Sequence[Message], markup: Markup) -> tuple[list[Message], int]:
    """The messages with every content defused, and how much markup there was. A DOCUMENT keeps its labels."""
    total, safe = 0, []
    for message in messages:
        content, count = markup.defuse(message["content"], labels=message["role"] != DOCUMENT)
        total += count
        safe.append({"role": message["role"], "content": content})
    return safe, total


class Renderer:
    """Messages -> prompt text -> token ids, for one tokenizer and one format.

    `tokenizer` is a Hugging Face tokenizer (anything with `apply_chat_template`, `encode`,
    `all_special_tokens`, `added_tokens_decoder`). `template_kwargs` are variables of the chat template; `date` is what
    it gets for today (None: today). Raises ValueError when the format is "chat" and
    there is no chat template.
    """

    def __init__(
        self,
        tokenizer: Any,
        format: Literal["chat", "transcript"] = "chat",
        system_role: SystemRole = "auto",
        chat_template: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        date: datetime.date | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.format = format
        self.chat_template = chat_template
        self.template_kwargs = dict(template_kwargs or {})
        self.date = date
        if format == "chat" and not (chat_template or getattr(tokenizer, "chat_template", None)):
            raise ValueError(
                "the tokenizer has no chat template; set models.<name>.chat_template to a Jinja file, "
                'or models.<name>.format to "transcript" for a base model'
            )
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        specials = set(tokenizer.all_special_tokens) | {token.content for token in added if token.special}
        self.special_tokens = longest_first(specials)
        self.markup = self._probe_markup()
        self.system_role = self._probe_system_role() if system_role == "auto" else system_role

    def _probe_markup(self) -> Markup:
        if self.format == "transcript":
            return Markup(self.special_tokens, TRANSCRIPT)
        return markup_of(
            self._apply_template, str(self.chat_template or self.tokenizer.chat_template), self.special_tokens
        )

    def _probe_system_role(self) -> Literal["native", "fold"]:
        if self.format == "transcript":
            return "native"
        try:
            probe = [{"role": "system", "content": "SYSTEM-PROBE"}, {"role": "user", "content": "u"}]
            text = self._apply_template(probe)
        except Exception:  # templates refuse by raise_exception(), whose type is Jinja's own
            return "fold"
        return "native" if "SYSTEM-PROBE" in text else "fold"

    def _apply_template(self, messages: list[Message], partial: bool = False) -> str:
        return self.rendered(messages, add_generation_prompt=not partial, continue_final_message=partial)

    def rendered(self, messages: Sequence[Message], **options: Any) -> str:
        """The messages, roles and contents as they are, by the chat template with the recipe's variables and date."""
        if self.chat_template:
            options["chat_template"] = self.chat_template
        if self.date is not None:
            options["strftime_now"] = self.date.strftime
        text: str = self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, **self.template_kwargs, **options
        )
        return text

    def is_able(self) -> bool:
        """Whether a question can be rendered at all: a template may refuse everything, or be broken."""
        try:
            self.text([{"role": "user", "content": "u"}])
        except Exception:  # Jinja's errors, and whatever the template raises
            return False
        return True

    def shows_date(self) -> bool:
        """Whether prompts are others on another day: rendered for two days and compared."""
        if self.format == "transcript":
            return False
        probe = [{"role": "user", "content": "u"}]
        days = (datetime.date(2001, 2, 3), datetime.date(2012, 10, 30))
        one, other = (
            Renderer(self.tokenizer, self.format, self.system_role, self.chat_template, self.template_kwargs, day)
            for day in days
        )
        return one.text(probe) != other.text(probe)

    def neutralised(self, messages: Sequence[Message]) -> tuple[list[Message], int]:
        """The messages with every content defused, and how much of the format's own markup there was."""
        return neutralised(messages, self.markup)

    def text(self, messages: Sequence[Message]) -> str:
        """The prompt text. Messages that end in an assistant turn are continued, others answered."""
        prepared = with_system_role(messages, self.system_role)
        if self.format == "transcript":
            return transcript_prompt(prepared)
        return self._apply_template(chat_messages(prepared), is_begun(prepared))

    def encode(self, text: str, is_start: bool = True) -> list[int]:
        """Token ids of prompt text. The start of a transcript gets the tokenizer's own BOS; a chat
        template writes its own, so adding one would double it. A continuation gets none."""
        add_special_tokens = is_start and self.format == "transcript"
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return ids
