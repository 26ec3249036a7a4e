"""What annotation tools export: two answers and what people said of them.  Pure.

Label Studio's JSON export is a list of tasks with `data` and `annotations`; a verdict is the result of a Pairwise
control ("left", "right") or of Choices. Argilla's records (`dataset.records.to_json`) hold `fields`, and `responses`
by question, one per person. A task that was skipped is no verdict. Tested in tests/stages/test_annotation.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from cai_ray.dropped import DropReason, DropRow
from cai_ray.prompt_layouts.records import Fields

PREFERENCE = "preference"  # the question, as we ask it
# What a verdict may be called -> 1 for the first answer, 0 for the second, 0.5 for neither.
VERDICTS = {
    **dict.fromkeys(("a", "left", "1", "first", "response_a", "response1", "response_1", "answer1", "answer_a"), 1.0),
    **dict.fromkeys(("b", "right", "2", "second", "response_b", "response2", "response_2", "answer2", "answer_b"), 0.0),
    **dict.fromkeys(("tie", "neither", "both", "equal", "same"), 0.5),
}


class Annotated(NamedTuple):
    """A record's texts by name, and the mean of the verdicts on it: the share of people who favour the first answer."""

    texts: Mapping[str, Any]
    prob_a: float


def label_studio(fields: Fields) -> Annotated:
    """A task. Raises DropRow, where nobody has said anything too."""
    task, annotations = fields["data"], fields["annotations"]
    if not isinstance(task, Mapping) or not isinstance(annotations, list):
        raise DropRow(DropReason.MALFORMED, "a task has a mapping `data` and a list `annotations`")
    return Annotated(task, _mean(list(_results(annotations))))


def _results(annotations: list[Any]) -> Iterator[Any]:
    for annotation in annotations:
        if not isinstance(annotation, Mapping) or not isinstance(annotation.get("result"), list):
            raise DropRow(DropReason.MALFORMED, "an annotation has a list `result`")
        for result in annotation["result"] if not annotation.get("was_cancelled") else ():
            value = result.get("value") if isinstance(result, Mapping) else None
            if not isinstance(value, Mapping):
                raise DropRow(DropReason.MALFORMED, "a result has a mapping `value`")
            if "selected" in value:
                yield value["selected"]
            elif isinstance(value.get("choices"), list) and len(value["choices"]) == 1:
                yield value["choices"][0]


def argilla(fields: Fields) -> Annotated:
    """A record. Raises DropRow, where nobody has said anything too."""
    texts, responses = fields["fields"], fields["responses"]
    if not isinstance(texts, Mapping) or not isinstance(responses, Mapping):
        raise DropRow(DropReason.MALFORMED, "a record has mappings `fields` and `responses`")
    question = next(iter(responses), PREFERENCE) if len(responses) <= 1 else PREFERENCE
    given = responses.get(question, [])
    if not isinstance(given, list) or not all(isinstance(one, Mapping) for one in given):
        raise DropRow(DropReason.MALFORMED, "the responses to a question are a list of mappings")
    return Annotated(texts, _mean([one.get("value") for one in given if one.get("value") is not None]))


def _mean(verdicts: list[Any]) -> float:
    if not verdicts:
        raise DropRow(DropReason.UNJUDGED, "no verdict of anybody on it")
    found = [VERDICTS.get(str(verdict).strip().lower()) for verdict in verdicts]
    known = [one for one in found if one is not None]
    if len(known) < len(found):
        raise DropRow(DropReason.MALFORMED, f"a verdict is none of {', '.join(VERDICTS)}")
    return sum(known) / len(known)
