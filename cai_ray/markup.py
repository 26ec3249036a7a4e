"""Text that poses as structure: what a prompt format writes as markup, found, and defused inside contents by a space.

A format's markup is its control tokens, the tags that it writes as plain text ("[INST]", "<|user|>" of a tokenizer
without that token), and labels at the start of a line ("Human:", "### Instruction:", "USER:").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

TRANSCRIPT_LABELS = {
    "user": "Human",
    "assistant": "Assistant",
    "critique_request": "CritiqueRequest",
    "critique": "Critique",
    "revision_request": "RevisionRequest",
    "revision": "Revision",
}
TRANSCRIPT = tuple(f"{label}:" for label in TRANSCRIPT_LABELS.values())
# Marks around a thought: those of Qwen 3 and DeepSeek, of prompted models, of Open Thoughts, of Magistral.
THINK_MARKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("[THINK]", "[/THINK]"),
)
_PROBES = tuple(f"content-probe-{name}" for name in ("one", "two", "three", "four"))
_TAG = re.compile(r"<<?/?[^<>\s]{1,40}>>?|\[/?[A-Z][A-Z_]*\]")
# The last words before a content: "### Instruction:", "USER:", "Human:".
_LABEL = re.compile(r"(?:#{1,6}[ ]?\w[\w -]*:?|\w[\w-]*(?: [\w-]+)?:)$")
_STRING = re.compile(r"'([^'\\\n]{1,42})'|\"([^\"\\\n]{1,42})\"")


def neutralise(text: str, special_tokens: Iterable[str]) -> tuple[str, int]:
    """Defuse control tokens spelled out in `text`: "<|im_end|>" becomes "< |im_end|>".

    Today's chat templates would turn them into real control tokens, so that a user's text could end
    its own turn and speak as the assistant. Returns the text and how many were defused.
    """
    num_defused = 0
    found = True
    while found:  # a space may complete another token's spelling, so look again until nothing is left
        found = False
        for token in special_tokens:
            if token and token in text:
                num_defused += text.count(token)
                text = text.replace(token, f"{token[0]} {token[1:]}" if len(token) > 1 else "")
                found = True
    return text, num_defused


def defuse_labels(text: str, labels: Sequence[str], inline: bool = False) -> tuple[str, int]:
    """Labels at the start of a line, with `inline` behind any white space too: "Human:" becomes "Human :".

    A label without a colon ("### Instruction") gets the space behind its first character.
    """
    pattern = _pattern(labels, inline)
    return pattern.subn(lambda found: found[1] + _spaced(found[2]), text) if pattern else (text, 0)


def _pattern(labels: Sequence[str], inline: bool) -> re.Pattern[str] | None:
    if not labels:
        return None
    start = r"(^|\s)" if inline else r"(^[ \t]*)"
    # A label that ends in a word goes on to no other letter.
    ends = "|".join(re.escape(label) + (r"\b" if label[-1].isalnum() else "") for label in labels)
    return re.compile(f"{start}({ends})", re.MULTILINE)


def _spaced(label: str) -> str:
    return f"{label[:-1]} :" if label.endswith(":") else f"{label[0]} {label[1:]}"


@dataclass(frozen=True)
class Markup:
    """What one prompt format writes itself.

    Attributes:
        tokens: control tokens and tags, longest first; markup wherever they stand.
        labels: markup at the start of a line.
        inline_labels: markup behind any white space.
    """

    tokens: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    inline_labels: tuple[str, ...] = ()

    @cached_property
    def _any_token(self) -> re.Pattern[str] | None:
        return re.compile("|".join(map(re.escape, self.tokens))) if self.tokens else None

    def defuse(self, text: str, labels: bool = True) -> tuple[str, int]:
        """(the text, how many were defused); a text without markup is the same text. `labels` False: tokens only."""
        total = 0
        while True:  # a space, or a token of one character that is taken out, may make another's spelling
            count = 0
            if self._any_token and self._any_token.search(text):
                text, count = neutralise(text, self.tokens)
            if labels:
                text, at_lines = defuse_labels(text, self.labels)
                text, inline = defuse_labels(text, self.inline_labels, inline=True)
                count += at_lines + inline
            if not count:
                return text, total
            total += count


def longest_first(tokens: Iterable[str]) -> tuple[str, ...]:
    """ "<|im_start|>" before a hypothetical "<|im"; none that is white space."""
    return tuple(sorted({token for token in tokens if token.strip()}, key=lambda token: (-len(token), token)))


def markup_of(render: Callable[[list[dict[str, str]]], str], template: str, special_tokens: Sequence[str]) -> Markup:
    """The markup of a chat template: what it writes between the contents of probe messages, rendered once.

    Args:
        render: messages -> text, with the beginning of an answer; may raise whatever the template raises.
        template: its source. A string in it that is nothing but one tag is markup too ("</think>" is where some
            templates cut an earlier answer, "<tool_response>" how they know a tool's turn).
        special_tokens: the tokenizer's control tokens.
    """
    tags = {token for found in _STRING.finditer(template) if _TAG.fullmatch(token := (found[1] or found[2]).strip())}
    tags.update(chain(*(pair for pair in THINK_MARKS if any(mark in template for mark in pair))))
    labels: set[str] = set()
    inline: set[str] = set()
    for piece in _pieces(render):
        tags.update(_TAG.findall(piece))
        behind = re.split("|".join(map(re.escape, longest_first([*special_tokens, *tags]))) or "$", piece)[-1]
        if found := _LABEL.search(behind.rstrip()):
            before = behind[: found.start()].rstrip(" \t")
            starts_line = before.endswith("\n") or behind == piece == piece[found.start() :]
            (labels if starts_line else inline).add(found[0])
    return Markup(longest_first([*special_tokens, *tags]), longest_first(labels - inline), longest_first(inline))


def _pieces(render: Callable[[list[dict[str, str]]], str]) -> list[str]:
    """The text before each content and behind the last, of the longest conversation that the template takes."""
    one, two, three, four = _PROBES
    turns = [
        {"role": "user", "content": two},
        {"role": "assistant", "content": three},
        {"role": "user", "content": four},
    ]
    for messages in ([{"role": "system", "content": one}, *turns], turns, turns[:1]):
        try:
            text = render(messages)
        except Exception:  # templates refuse by raise_exception(), whose type is Jinja's own
            continue
        return re.split("|".join(map(re.escape, _PROBES)), text)
    return []
