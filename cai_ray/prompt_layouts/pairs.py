"""Layouts that hold a comparison: one conversation and two answers to it, the better one known or not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cai_ray.chat import Message
from cai_ray.dropped import DropReason, DropRow
from cai_ray.prompt_layouts.annotated import Annotated, argilla, label_studio
from cai_ray.prompt_layouts.conversations import _transcript_turns, _turns
from cai_ray.prompt_layouts.readings import Numbered, Reading
from cai_ray.prompt_layouts.records import Fields, conversation, text_of

JudgedLayout = Literal[
    "auto", "ultrafeedback", "helpsteer", "helpsteer_preference", "label_studio", "argilla", "chosen_rejected"
]
PairLayout = JudgedLayout | Literal["two_answers"]
_RATINGS = ("fine-grained_score", "overall_score", "rating", "score")


@dataclass(frozen=True, slots=True)
class ParsedPair:
    """What one record says.

    Attributes:
        messages: >= 1, ends in role "user".
        chosen, rejected: the two answers; may be empty or equal, which is for the reader to judge.
        prob_chosen: in [0.5, 1]; 0.5: neither is better; None: the record does not say which is.
    """

    messages: list[Message]
    chosen: str
    rejected: str
    prob_chosen: float | None = 1.0


def parse_pair(fields: Fields) -> ParsedPair:
    """One record, in any of the layouts in use. Raises DropRow with the reason why it is no pair.

    hh-rlhf and TRL's implicit prompt: `chosen` and `rejected` are whole conversations (transcripts or lists of
    messages) and the prompt is their common prefix of whole turns, up to the last common turn of the user.
    TRL's explicit prompt: `prompt` is text, a transcript or a list of messages; `chosen` and `rejected` go on from
    there, or repeat it.
    """
    prompt = _prompt_turns(fields)
    chosen, rejected = (_side(fields, side, prompt) for side in ("chosen", "rejected"))
    num_common = 0
    for left, right in zip(chosen, rejected, strict=False):
        if left != right:
            break
        num_common += 1
    while num_common and chosen[num_common - 1]["role"] != "user":
        num_common -= 1
    if not num_common:
        raise DropRow(DropReason.MALFORMED, "chosen and rejected have no turn of the user in common")
    return ParsedPair(
        conversation(chosen[:num_common]),
        _answer(chosen[num_common:], "chosen"),
        _answer(rejected[num_common:], "rejected"),
        _probability(fields),
    )


def parse_rated(fields: Fields) -> ParsedPair:
    """UltraFeedback: several rated answers to one prompt. The best is chosen, the worst rejected.

    Of equal ratings the first answer is the better and the last the worse one. A rating is `fine-grained_score`, the
    mean over its aspects, where the set has one: `overall_score` is known to be wrong in places.
    """
    value = fields["completions"]
    rated = [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
    answers = [(one.get("response"), rating) for one in rated if (rating := _rating(one)) is not None]
    if len(answers) < 2:
        raise DropRow(DropReason.MALFORMED, f"{len(answers)} rated answers, and a pair takes two")
    (best, high), (worst, low) = max(answers, key=lambda one: one[1]), min(answers[::-1], key=lambda one: one[1])
    return _pair(fields, best, worst, 1.0 if high > low else 0.5)


def parse_preference(fields: Fields) -> ParsedPair:
    """HelpSteer2 and 3: two answers, and by how much the second is better, from -3 to 3."""
    strength = _number(fields["preference"])
    if strength is None:
        raise DropRow(DropReason.MALFORMED, "the preference is no number")
    first, second = fields["response_a"], fields["response_b"]
    better, worse = (first, second) if strength <= 0 else (second, first)
    return _pair(fields, better, worse, 1.0 if strength else 0.5)


def parse_two_answers(fields: Fields) -> ParsedPair:
    """Two answers of which nobody has said yet which is better; the first is called chosen."""
    return _pair(fields, fields["response_a"], fields["response_b"], None)


def parse_annotated(judged: Callable[[Fields], Annotated]) -> Callable[[Fields], ParsedPair]:
    """Annotation tools: two answers, and the share of people who favour the first; the other share may be as large."""

    def parse(fields: Fields) -> ParsedPair:
        texts, prob_a = judged(fields)
        named = {"prompt": ("messages", *_PROMPT), **_ANSWERS}
        own = Fields(texts, {name: next((one for one in known if one in texts), None) for name, known in named.items()})
        first, second = own["response_a"], own["response_b"]
        better, worse = (first, second) if prob_a >= 0.5 else (second, first)
        return _pair(own, better, worse, max(prob_a, 1 - prob_a))

    return parse


def gather_rated(records: Iterable[Numbered], columns: Mapping[str, str | None]) -> Iterator[Numbered]:
    """HelpSteer: a record per answer, those of a prompt one after the other -> UltraFeedback's layout."""
    prompt, response, rating = (columns[field] or "" for field in ("prompt", "response", "rating"))
    open_number, gathered = 0, dict[str, Any]()
    for number, record in records:
        if isinstance(record, dict) and gathered and record.get(prompt) == gathered["prompt"]:
            gathered["completions"].append({"response": record.get(response), "rating": record.get(rating)})
            continue
        if gathered:
            yield open_number, gathered
        gathered = {}
        if isinstance(record, dict):
            answer = {"response": record.get(response), "rating": record.get(rating)}
            open_number, gathered = number, {"prompt": record.get(prompt), "completions": [answer]}
        else:
            yield number, record
    if gathered:
        yield open_number, gathered


def _pair(fields: Fields, better: Any, worse: Any, prob_chosen: float | None) -> ParsedPair:
    chosen, rejected = (text_of(answer, "an answer", may_be_empty=True) for answer in (better, worse))
    return ParsedPair(conversation(_prompt_turns(fields) or []), chosen, rejected, prob_chosen)


def _rating(answer: Mapping[str, Any]) -> float | None:
    return next((found for key in _RATINGS if (found := _number(answer.get(key))) is not None), None)


def _number(value: Any) -> float | None:
    """A finite number, also as text; None for anything else."""
    try:
        found = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _probability(fields: Fields) -> float:
    """1, where the set has no probabilities of its own."""
    if fields.columns.get("prob_chosen") is None:
        return 1.0
    found = _number(fields["prob_chosen"])
    if found is None or not 0.5 <= found <= 1:
        raise DropRow(DropReason.MALFORMED, "prob_chosen is no number from 0.5 to 1")
    return found


def _prompt_turns(fields: Fields) -> list[Message] | None:
    """The explicit prompt; None when the set has none."""
    if fields.columns.get("prompt") is None:
        return None
    value = fields["prompt"]
    if isinstance(value, str) and not value.lstrip().startswith("Human:"):
        return [{"role": "user", "content": text_of(value, "prompt")}]
    return _list_or_transcript(value, "prompt")


def _side(fields: Fields, field: str, prompt: list[Message] | None) -> list[Message]:
    """The whole conversation of one side."""
    value = fields[field]
    if prompt is None:
        return _list_or_transcript(value, field)
    if isinstance(value, str):
        if value.lstrip().startswith("Human:"):
            return _list_or_transcript(value, field)
        return [*prompt, {"role": "assistant", "content": text_of(value, field, may_be_empty=True)}]
    turns = _list_or_transcript(value, field)
    return [*prompt, *turns] if turns[0]["role"] == "assistant" else turns


def _list_or_transcript(value: Any, field: str) -> list[Message]:
    if isinstance(value, list):
        return _turns(value, "role", "content")
    turns = _transcript_turns(f"\n\n{text_of(value, field)}")
    # A prompt's open "Assistant:" is a cue for the answer, no turn.
    return turns[:-1] if field == "prompt" and turns[-1] == {"role": "assistant", "content": ""} else turns


def _answer(turns: list[Message], side: str) -> str:
    if [turn["role"] for turn in turns] != ["assistant"]:
        raise DropRow(
            DropReason.MALFORMED, f"{side} goes on from the common turns with {len(turns)} turns, not one answer"
        )
    return turns[0]["content"]


_ANSWERS = {
    "response_a": ("response_a", "response_1", "response1", "answer_a", "answer1"),
    "response_b": ("response_b", "response_2", "response2", "answer_b", "answer2"),
}
_PROMPT = ("prompt", "instruction", "context", "messages", "question")
TWO_ANSWERS = Reading(
    parse_two_answers, {"prompt": _PROMPT, **_ANSWERS}, signs=tuple(zip(*_ANSWERS.values(), strict=True))
)
# By which side is better; the last is what a set has where nothing gives its layout away.
JUDGED: dict[str, Reading[ParsedPair]] = {
    "ultrafeedback": Reading(
        parse_rated, {"prompt": _PROMPT, "completions": ("completions",)}, signs=(("completions",),)
    ),
    "helpsteer": Reading(
        parse_rated,
        {"prompt": _PROMPT, "response": ("response",), "rating": ("helpfulness", "rating", "score")},
        signs=(("prompt", "response", "helpfulness"),),
        gather=gather_rated,
    ),
    "helpsteer_preference": Reading(
        parse_preference,
        {"prompt": _PROMPT, **_ANSWERS, "preference": ("preference_strength", "overall_preference")},
        signs=(("response_1", "response_2", "preference_strength"), ("response1", "response2", "overall_preference")),
    ),
    "label_studio": Reading(
        parse_annotated(label_studio),
        {"data": ("data",), "annotations": ("annotations",)},
        signs=(("data", "annotations"),),
    ),
    "argilla": Reading(
        parse_annotated(argilla),
        {"fields": ("fields",), "responses": ("responses",)},
        signs=(("fields", "responses"),),
    ),
    "chosen_rejected": Reading(
        parse_pair,
        {"chosen": ("chosen",), "rejected": ("rejected",)},
        {"prompt": ("prompt",), "prob_chosen": ("prob_chosen",)},
        signs=(("chosen", "rejected"),),
    ),
}
# The same and sets without a verdict, for who gives one.
PAIRS: dict[str, Reading[ParsedPair]] = {
    **{name: JUDGED[name] for name in ("ultrafeedback", "helpsteer", "helpsteer_preference")},
    "two_answers": TWO_ANSWERS,
    "chosen_rejected": JUDGED["chosen_rejected"],
}
