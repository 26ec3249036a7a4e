"""A constitution: principles with stable ids that drive critique, revision and labelling, and how they are drawn.

Reading and writing the YAML file is `constitution_source`; the paper's own files are read by `paper_constitution`.
"""

from __future__ import annotations

import bisect
import difflib
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from cai_ray.config import Config
from cai_ray.seeding import digest, rng_for, stable_id

Use = Literal["revision", "comparison"]

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
    """What is wrong with the set of texts a principle has, given which of the three are there."""
    if revision or (comparison and not critique):
        return None  # a revision request alone serves direct revision, without a critique
    if critique:
        return RuleError("a critique_request needs a revision_request", "add the revision_request")
    return RuleError(
        "a principle serves revision, comparison or both",
        "add critique_request and revision_request, or comparison_question",
    )


class Principle(Config):
    """One principle. It serves revision when it has a revision request, labelling when it has a comparison question."""

    id: KebabId = Field(description="Stable: written on every row this principle touches.")
    critique_request: Text | None = Field(None, description="Asks for the flaws of the last answer.")
    revision_request: Text | None = Field(None, description="Asks for a better answer.")
    comparison_question: Text | None = Field(None, description="Asks which of two answers is better.")
    categories: tuple[Text, ...] = Field((), description="Words for what it is about; contextual choice reads them.")
    weight: float = Field(1.0, gt=0.0, allow_inf_nan=False, strict=True, description="Relative, for `weighted` draws.")
    few_shot: tuple[FewShotRevision, ...] = Field((), description="Examples shown when this principle was drawn.")

    @model_validator(mode="after")
    def _has_a_use(self) -> Principle:
        texts = (self.critique_request, self.revision_request, self.comparison_question)
        if mistake := use_mistake(*(text is not None for text in texts)):
            raise mistake
        return self

    def serves(self, use: Use) -> bool:
        return (self.revision_request if use == "revision" else self.comparison_question) is not None


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

    def serving(self, use: Use) -> tuple[Principle, ...]:
        """The principles that can be drawn for `use`, in file order; similarities are aligned with this."""
        return self.for_revision if use == "revision" else self.for_comparison

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


class PrincipleChoice(Config):
    """How a principle is drawn for each round."""

    method: Literal["random", "weighted", "contextual", "round_robin"] = Field(
        "random", description='The paper draws at random, with replacement (section 3.1). "contextual": by similarity.'
    )
    replacement: bool = Field(True, description="False: no principle twice in one row.")
    top_k: int = Field(4, ge=1, description="contextual: how many of the most similar principles may be drawn.")
    temperature: float = Field(
        0.1,
        ge=0.0,
        allow_inf_nan=False,
        description="contextual: of the softmax over similarities; 0: the nearest.",
    )


def check_choice(constitution: Constitution, choice: PrincipleChoice, num_rounds: int, use: Use = "revision") -> None:
    """Raises ConstitutionError when `num_rounds` draws cannot be made; call it before any engine starts."""
    num_principles = len(constitution.serving(use))
    if num_principles == 0 and num_rounds > 0:
        key = "revision_request" if use == "revision" else "comparison_question"
        mistake = Mistake(None, "principles", "", f"none of them serves {use}", f"give at least one a {key}")
        raise ConstitutionError(constitution.name, [mistake])
    if not choice.replacement and num_rounds > num_principles:
        rule = f"without replacement there can be no more rounds than principles for {use} ({num_principles})"
        fix = "ask for fewer rounds, set replacement=true, or add principles"
        raise ConstitutionError(constitution.name, [Mistake(None, "rounds", str(num_rounds), rule, fix)])


def draw(
    constitution: Constitution,
    choice: PrincipleChoice,
    *,
    run_seed: int,
    row_id: str,
    num_rounds: int,
    stage: str = "revise",
    use: Use = "revision",
    similarities: Sequence[float] | None = None,
) -> list[Principle]:
    """The principles of one row, one per round, [num_rounds].

    Depends on nothing but its arguments, and draw k not on `num_rounds`: the same row gets the same principles on
    any cluster, in any order, and the first rounds of a longer run are those of a shorter one.
    `similarities` is [len(constitution.serving(use))], needed by "contextual" alone.
    """
    check_choice(constitution, choice, num_rounds, use)
    principles = constitution.serving(use)
    if choice.method == "round_robin":
        # A hashed start keeps the load even over rows without counting them.
        start = int.from_bytes(digest(run_seed, stage, row_id, "round_robin", num_bytes=8), "big")
        return [principles[(start + k) % len(principles)] for k in range(num_rounds)]
    if choice.method == "contextual" and (similarities is None or len(similarities) != len(principles)):
        got = "none" if similarities is None else str(len(similarities))
        raise ValueError(f"contextual choice needs {len(principles)} similarities, one per principle, got {got}")
    # Equal similarities (0, where no word is shared) are ordered anew for each row, or the file's first principles
    # would get all of them.
    shuffle = rng_for(run_seed, stage, row_id, "principle/ties")
    ties = [shuffle.random() for _ in principles]
    drawn: list[int] = []
    for k in range(num_rounds):
        left = [i for i in range(len(principles)) if choice.replacement or i not in drawn]
        if choice.method == "contextual" and similarities is not None:
            num_drawn = 0 if choice.replacement else len(drawn)
            nearest = sorted(left, key=lambda i: (-similarities[i], ties[i]))
            left, weights = _contextual(nearest, similarities, choice, num_drawn)
        else:
            weights = [principles[i].weight if choice.method == "weighted" else 1.0 for i in left]
        uniform = rng_for(run_seed, stage, row_id, f"principle/{k}").random()
        drawn.append(left[_pick(weights, uniform)])
    return [principles[i] for i in drawn]


def _contextual(
    nearest: list[int], similarities: Sequence[float], choice: PrincipleChoice, num_drawn: int
) -> tuple[list[int], list[float]]:
    """The candidates among those left, `nearest` first, and their softmax weights.

    Without replacement the top k are used up before the next k come into play, so that the matching principles
    are the ones that get drawn.
    """
    candidates = nearest[: choice.top_k - num_drawn % choice.top_k]
    if choice.temperature == 0.0:
        return candidates[:1], [1.0]
    best = similarities[candidates[0]]
    # Rounded, because exp() may differ in its last bit between machines and draws must not.
    return candidates, [round(math.exp((similarities[i] - best) / choice.temperature), 9) for i in candidates]


def _pick(weights: Sequence[float], uniform: float) -> int:
    """The index that `uniform` in [0, 1) falls on. Own code: only Random.random() is stable over Python versions."""
    cumulative = list(itertools.accumulate(weights))
    return min(bisect.bisect_right(cumulative, uniform * cumulative[-1]), len(weights) - 1)
