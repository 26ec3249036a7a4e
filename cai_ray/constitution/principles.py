"""A constitution: principles with stable ids that drive critique, revision and labelling, and how they are drawn.

Reading and writing the YAML file is `source`; the paper's own files are read by `paper`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from cai_ray.config import Config
from cai_ray.seeding import stable_id

Use = Literal["revision", "comparison", "rubric"]

# Surrounding white space is not significant: a YAML block scalar ends in a line break nobody meant.
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
KebabId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]


@dataclass(frozen=True)
class Mistake:
    """One thing wrong with a constitution: where, which value, which rule, and what to do about it."""

    line: int | None  # 1-based line of the file; None where no line is to blame
    where: str  # "principles[3].weight"; "" for the file as a whole
    value: str  # shortened repr; "" where there is no value
    rule: str
    fix: str

    def __str__(self) -> str:
        place = ": ".join(part for part in (f"line {self.line}" if self.line else "", self.where) if part)
        value = f" is {self.value}" if self.value else ""
        return f"{place}{value}: {self.rule}; {self.fix}" if place else f"{self.rule}; {self.fix}"


class ConstitutionError(ValueError):
    """A constitution that cannot be used, with every mistake found in it."""

    def __init__(self, source: str, mistakes: Sequence[Mistake]) -> None:
        self.source = source
        self.mistakes = tuple(mistakes)
        super().__init__(f"{source}: " + "\n".join(str(m) for m in self.mistakes))


class RuleError(ValueError):
    """A value that breaks a rule, kept apart from the fix so that both can be reported with a line number."""

    def __init__(self, rule: str, fix: str) -> None:
        super().__init__(f"{rule}; {fix}")
        self.rule = rule
        self.fix = fix


class Message(Config):
    """One turn of an example conversation."""

    role: Literal["user", "assistant"]
    content: Text


def _ends_in_user(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    if not messages or messages[-1].role != "user":
        raise RuleError("an example conversation ends in a user turn", "put the assistant's answer in its own key")
    return messages


Conversation = Annotated[tuple[Message, ...], AfterValidator(_ends_in_user)]


class FewShotRevision(Config):
    """One worked example of a critique and revision; it keeps a model's point of view clear (paper, section 3.1)."""

    messages: Conversation = Field(description="The conversation; ends in a user turn.")
    response: Text = Field(description="The answer that is criticised.")
    critique_request: Text
    critique: Text
    revision_request: Text
    revision: Text = Field(description="The better answer.")


class FewShotComparison(Config):
    """One worked example of a comparison of two answers."""

    messages: Conversation = Field(description="The conversation; ends in a user turn.")
    response_a: Text
    response_b: Text
    question: Text | None = Field(None, description="Null: the question of whichever principle is being asked.")
    answer: Literal["A", "B"]
    reasoning: Text | None = Field(None, description="The thoughts before the answer; needed for chain of thought.")


def use_mistake(critique: bool, revision: bool, comparison: bool) -> RuleError | None:
    """What is wrong with the set of texts a principle has, given which are there; a rubric's question compares too."""
    if revision or (comparison and not critique):
        return None  # a revision request alone serves direct revision, without a critique
    if critique:
        return RuleError("a critique_request needs a revision_request", "add the revision_request")
    return RuleError(
        "a principle serves revision, comparison or both",
        "add critique_request and revision_request, or comparison_question (for a rubric, rubric_question)",
    )


class Principle(Config):
    """One principle. It serves revision when it has a revision request, labelling when it has a comparison question."""

    id: KebabId = Field(description="Stable: written on every row this principle touches.")
    critique_request: Text | None = Field(None, description="Asks for the flaws of the last answer.")
    revision_request: Text | None = Field(None, description="Asks for a better answer.")
    comparison_question: Text | None = Field(None, description="Asks which of two answers is better.")
    categories: tuple[Text, ...] = Field((), description="Words for what it is about; contextual choice reads them.")
    rubric_question: Text | None = Field(
        None,
        exclude_if=lambda question: question is None,  # a constitution without any is the one that it was before
        description='Asks of one answer, by "Yes" or "No", whether it is good; null: made from comparison_question.',
    )
    weight: float = Field(
        1.0, gt=0.0, allow_inf_nan=False, strict=True, description="Relative: of `weighted` draws, and in a rubric."
    )
    veto: bool = Field(
        False,
        strict=True,
        exclude_if=lambda veto: not veto,
        description="In a rubric: always asked, and P(yes) multiplies what the others give.",
    )
    few_shot: tuple[FewShotRevision, ...] = Field((), description="Examples shown when this principle was drawn.")

    @model_validator(mode="after")
    def _has_a_use(self) -> Principle:
        asks = self.comparison_question is not None or self.rubric_question is not None
        if mistake := use_mistake(self.critique_request is not None, self.revision_request is not None, asks):
            raise mistake
        if self.veto and not asks:
            raise RuleError("a veto needs a question about an answer", "add rubric_question, or remove veto")
        return self

    def serves(self, use: Use) -> bool:
        if use == "revision":
            return self.revision_request is not None
        return self.comparison_question is not None or (use == "rubric" and self.rubric_question is not None)


DUPLICATE_RULE = "principle ids are unique"


def _unique_ids(principles: tuple[Principle, ...]) -> tuple[Principle, ...]:
    ids = [p.id for p in principles]
    for i, principle_id in enumerate(ids):
        if principle_id in ids[:i]:
            raise RuleError(f"{DUPLICATE_RULE}, {principle_id!r} occurs twice", "rename one of them")
    return principles


class Constitution(Config):
    """Named principles with examples. One file drives critique, revision and labelling."""

    name: KebabId
    version: Text = Field(description='A string: write "1", in quotes.')
    description: str = Field("", description="For people; not part of the fingerprint.")
    license: str | None = Field(None, description="For people; not part of the fingerprint.")
    principles: Annotated[tuple[Principle, ...], Field(min_length=1), AfterValidator(_unique_ids)]
    few_shot: tuple[FewShotRevision, ...] = ()
    few_shot_comparisons: tuple[FewShotComparison, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal characters; changes with anything that can change a prompt or a draw."""
        return stable_id("constitution", self.model_dump(mode="json", exclude={"description", "license"}))

    @cached_property
    def for_revision(self) -> tuple[Principle, ...]:
        return tuple(p for p in self.principles if p.serves("revision"))

    @cached_property
    def for_comparison(self) -> tuple[Principle, ...]:
        return tuple(p for p in self.principles if p.serves("comparison"))

    @cached_property
    def for_rubric(self) -> tuple[Principle, ...]:
        return tuple(p for p in self.principles if p.serves("rubric"))

    def serving(self, use: Use) -> tuple[Principle, ...]:
        """The principles that can be drawn for `use`, in file order; similarities are aligned with this."""
        served = {"revision": "for_revision", "comparison": "for_comparison", "rubric": "for_rubric"}
        found: tuple[Principle, ...] = getattr(self, served[use])
        return found

    def principle(self, principle_id: str) -> Principle:
        """The principle with this id. Raises ConstitutionError naming the nearest ids."""
        for principle in self.principles:
            if principle.id == principle_id:
                return principle
        ids = [p.id for p in self.principles]
        near = difflib.get_close_matches(principle_id, ids, n=3) or ids
        rule = f"constitution {self.name!r} has no such principle"
        raise ConstitutionError(self.name, [Mistake(None, "id", repr(principle_id), rule, f"use {', '.join(near)}")])

    def only(self, principle_ids: Iterable[str]) -> Constitution:
        """The same constitution with these principles alone, in the order of `principle_ids`."""
        chosen = tuple(self.principle(principle_id) for principle_id in dict.fromkeys(principle_ids))
        # By its fields: a copy, or `dict(self)`, would take along what is cached of the whole constitution.
        return Constitution(
            **{name: getattr(self, name) for name in Constitution.model_fields} | {"principles": chosen}
        )
