"""Whether a model thinks aloud, against what the recipe says: by rendering before an engine starts, then by one answer.

A chat template tells whether it opens a thought; whether a model opens one by itself, and with which marks, only the
model does. So an engine of a model that may think is asked a short question before a stage asks it all of its own.

Tested in tests/field/test_11_unsaid_thinking.py and tests/field/test_11_first_answer.py.
"""

from __future__ import annotations

from enum import StrEnum

from cai_ray.chat import Message, Renderer
from cai_ray.config import ModelConfig, SamplingConfig, ThinkingConfig
from cai_ray.errors import ConfigError
from cai_ray.markup import THINK_MARKS

QUESTION: list[Message] = [{"role": "user", "content": "How much is 17 + 25?"}]
SHORT = SamplingConfig(temperature=0.0, max_tokens=48)  # enough to see a thought begin, and a short one end
_PROBE = "question-probe"
_DEFAULT = THINK_MARKS[0]


def opened_marks(renderer: Renderer, own: tuple[str, str] | None = None) -> tuple[str, str] | None:
    """The (opening, closing) marks of the thought that a prompt ends in; None: it ends in none.

    `own`: the recipe's marks, looked for besides the well-known ones.
    """
    if renderer.format == "transcript":
        return None
    behind = renderer.text([{"role": "user", "content": _PROBE}]).rpartition(_PROBE)[2].rstrip()
    pairs = THINK_MARKS if own is None else (own, *THINK_MARKS)
    return next((pair for pair in pairs if behind.endswith(pair[0])), None)


def check_thinking(name: str, model: ModelConfig, renderer: Renderer) -> None:
    """Raises ConfigError, with the lines to write, where a thought would be taken for the answer or the reverse."""
    said = model.thinking
    found = opened_marks(renderer, None if said is None else (said.open, said.close))
    if found is not None and (said is None or not said.opened_by_template or found[0] != said.open):
        marks = "" if found == _DEFAULT else f", open: {found[0]!r}, close: {found[1]!r}"
        raise ConfigError(
            f"models.{name}: its chat template opens a thought (every prompt ends in {found[0]!r}), and the recipe "
            "does not say so: thoughts would be taken for answers. Write\n"
            f"  {name}:\n    thinking: {{opened_by_template: true{marks}}}\n"
            "(or, where the template has such a switch, chat_template_kwargs: {enable_thinking: false})"
        )
    if found is None and said is not None and said.opened_by_template:
        raise ConfigError(
            f"models.{name}: thinking.opened_by_template is true, but no prompt ends in {said.open!r}: answers "
            f"would be taken for thoughts. Write\n  {name}:\n    thinking: {{opened_by_template: false}}\n"
            "or leave `thinking` out for a model that does not think"
        )


class Doubt(StrEnum):
    """What a first answer leaves open; the value is a manifest's counter, of engines.

    Attributes:
        sentence: for a person.
    """

    sentence: str

    def __new__(cls, counter: str, sentence: str = "") -> Doubt:
        member = str.__new__(cls, counter)
        member._value_, member.sentence = counter, sentence
        return member

    AT_ONCE = (
        "first_answer_without_thought",
        "the recipe says that the model thinks (`thinking`), and its first answer came without a thought: its answers "
        "keep their own budget, and where it never thinks `thinking` is to be left out",
    )
    NOT_CLOSED = (
        "first_answer_within_thought",
        "the recipe says that every prompt opens a thought, and the model's first answer ended without closing it: it "
        "would be taken for a thought. See whether the model thinks at all, or closes with other marks",
    )


def may_think(model: ModelConfig, renderer: Renderer) -> bool:
    """Whether a first answer is worth asking: the recipe says so, or template or tokens know a thought's mark."""
    if model.thinking is not None:
        return True
    if renderer.format == "transcript":
        return False
    tokenizer = renderer.tokenizer
    known = {token.content for token in getattr(tokenizer, "added_tokens_decoder", {}).values()}
    template = str(renderer.chat_template or tokenizer.chat_template)
    return any(mark in known or mark in template for pair in THINK_MARKS for mark in pair)


def check_first_answer(path: str, said: ThinkingConfig | None, text: str, is_whole: bool) -> Doubt | None:
    """Hold a first answer against the recipe. Raises ConfigError, with the line to write, where they contradict.

    Args:
        path: of the model, or its server.
        text: the answer to QUESTION under SHORT, marks and all.
        is_whole: it ended by itself.
    """
    text = text.lstrip()
    pairs = THINK_MARKS if said is None else ((said.open, said.close), *THINK_MARKS)
    if said is None or not said.opened_by_template:
        found = next((pair for pair in pairs if text.startswith(pair[0])), None)
    else:
        found = next((pair for pair in pairs if pair[1] in text), None)
    if found is not None and (said is None or found != (said.open, said.close)):
        told = "says nothing of it" if said is None else f"names {said.open!r} and {said.close!r}"
        opened = ["opened_by_template: true"] if said is not None and said.opened_by_template else []
        marks = [] if found == _DEFAULT else [f"open: {found[0]!r}", f"close: {found[1]!r}"]
        raise ConfigError(
            f"the model at {path!r} thinks aloud (asked a short question, it wrote a thought's marks, {found[0]!r} and "
            f"{found[1]!r}), and the recipe {told}: thoughts would be taken for answers. Write under its name in "
            f"`models`\n    thinking: {{{', '.join([*opened, *marks])}}}\n"
            "(or, where its chat template has such a switch, chat_template_kwargs: {enable_thinking: false})"
        )
    if said is None or found is not None:
        return None
    if said.opened_by_template:
        return Doubt.NOT_CLOSED if is_whole else None
    return Doubt.AT_ONCE
