"""The revision dialogue: what each ask contains, and that one prompt is the beginning of the next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.constitution.principles import Constitution, FewShotRevision, Principle
from cai_ray.prompts.revision import (
    NO_META,
    RevisionPrompts,
    Round,
    answer_prompt,
    critique_prompt,
    critique_turn,
    few_shot_messages,
    parse_reply,
    revision_prompt,
    revision_turn,
)


def example(name: str) -> FewShotRevision:
    return FewShotRevision(
        messages=[{"role": "user", "content": f"{name}-question"}],
        response=f"{name}-answer",
        critique_request=f"{name}-cr",
        critique=f"{name}-c",
        revision_request=f"{name}-rr",
        revision=f"{name}-r",
    )


PRINCIPLES = tuple(
    Principle(id=f"p{i}", critique_request=f"cr{i}", revision_request=f"rr{i}", few_shot=(example(f"own{i}"),))
    for i in range(4)
)
CONSTITUTION = Constitution(
    name="sample", version="1", principles=PRINCIPLES, few_shot=(example("first"), example("second"))
)
MESSAGES = [
    {"role": "user", "content": "u1"},
    {"role": "assistant", "content": "a1"},
    {"role": "user", "content": "u2"},
]
BARE = RevisionPrompts(no_meta=False)


def contents(messages: list[dict[str, str]]) -> str:
    return " ".join(m["content"] for m in messages)


def roles(messages: list[dict[str, str]]) -> list[str]:
    return [m["role"] for m in messages]


def test_turns_are_the_principles_own_words() -> None:
    assert critique_turn(PRINCIPLES[0]) == {"role": "critique_request", "content": "cr0"}
    assert revision_turn(PRINCIPLES[0], no_meta=False) == {"role": "revision_request", "content": "rr0"}
    assert revision_turn(PRINCIPLES[0], no_meta=True)["content"] == f"rr0 {NO_META}"


def test_a_principle_without_the_text_is_refused() -> None:
    question = Principle(id="q", comparison_question="q")
    with pytest.raises(ValueError, match="'q' has no critique_request"):
        critique_turn(question)
    with pytest.raises(ValueError, match="'q' has no revision_request"):
        revision_turn(question, no_meta=True)


def test_full_history_keeps_every_round() -> None:
    rounds = [Round(PRINCIPLES[0], "c0", "r0")]
    asked = critique_prompt(MESSAGES, "answer", rounds, PRINCIPLES[1], BARE)
    assert contents(asked) == "u1 a1 u2 answer cr0 c0 rr0 r0 cr1"
    asked = revision_prompt(MESSAGES, "answer", rounds, PRINCIPLES[1], "c1", BARE)
    assert contents(asked) == "u1 a1 u2 answer cr0 c0 rr0 r0 cr1 c1 rr1"
    assert roles(asked)[3:] == [
        *("assistant", "critique_request", "critique", "revision_request", "revision"),
        *("critique_request", "critique", "revision_request"),
    ]


def test_latest_history_puts_the_newest_revision_in_the_answers_place() -> None:
    rounds = [Round(PRINCIPLES[0], "c0", "r0"), Round(PRINCIPLES[1], "c1", "r1")]
    prompts = RevisionPrompts(history="latest", no_meta=False)
    asked = revision_prompt(MESSAGES, "answer", rounds, PRINCIPLES[2], "c2", prompts)
    assert contents(asked) == "u1 a1 u2 r1 cr2 c2 rr2"
    assert roles(asked)[3] == "assistant"
    assert contents(critique_prompt(MESSAGES, "answer", [], PRINCIPLES[0], prompts)) == "u1 a1 u2 answer cr0"


def test_direct_revision_has_no_critique() -> None:
    rounds = [Round(PRINCIPLES[0], None, "r0")]
    assert contents(revision_prompt(MESSAGES, "answer", rounds, PRINCIPLES[1], None, BARE)) == (
        "u1 a1 u2 answer rr0 r0 rr1"
    )
    shown = few_shot_messages(CONSTITUTION, RevisionPrompts(num_few_shot=1, no_meta=False), critique=False)
    assert contents(shown) == "first-question first-answer first-rr first-r"


def test_examples_are_the_constitutions_then_the_principles_own() -> None:
    prompts = RevisionPrompts(num_few_shot=1, principle_few_shot=True)
    shown = few_shot_messages(CONSTITUTION, prompts, [PRINCIPLES[2], PRINCIPLES[2]])
    assert contents(shown) == (
        f"first-question first-answer first-cr first-c first-rr {NO_META} first-r "
        f"own2-question own2-answer own2-cr own2-c own2-rr {NO_META} own2-r"
    )
    assert few_shot_messages(CONSTITUTION, RevisionPrompts(), PRINCIPLES) == []


def test_system_prompts_change_per_step_and_come_first() -> None:
    prompts = RevisionPrompts(answer_system="S1", critique_system="S2", no_meta=False)
    own = [{"role": "system", "content": "OWN"}, *MESSAGES]
    few_shot = few_shot_messages(CONSTITUTION, RevisionPrompts(num_few_shot=1))
    assert contents(answer_prompt(own, prompts)) == "S1 u1 a1 u2"
    assert contents(critique_prompt(own, "x", [], PRINCIPLES[0], prompts)) == "S2 u1 a1 u2 x cr0"
    assert contents(revision_prompt(own, "x", [], PRINCIPLES[0], None, prompts)) == "OWN u1 a1 u2 x rr0"
    assert roles(critique_prompt(own, "x", [], PRINCIPLES[0], prompts, few_shot))[:2] == ["system", "user"]
    assert roles(answer_prompt(own, prompts)).count("system") == 1


@given(
    answers=st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=4),
    num_few_shot=st.integers(0, 2),
    own=st.booleans(),
    no_meta=st.booleans(),
    critique=st.booleans(),
    system=st.none() | st.text(min_size=1),
)
def test_with_full_history_every_prompt_continues_the_one_before(
    answers: list[tuple[str, str]], num_few_shot: int, own: bool, no_meta: bool, critique: bool, system: str | None
) -> None:
    prompts = RevisionPrompts(
        num_few_shot=num_few_shot,
        principle_few_shot=own,
        no_meta=no_meta,
        answer_system=system,
        critique_system=system,
        revision_system=system,
    )
    few_shot = few_shot_messages(CONSTITUTION, prompts, PRINCIPLES, critique)
    asks = [answer_prompt(MESSAGES, prompts, few_shot)]
    replies = [{"role": "assistant", "content": "answer"}]
    rounds: list[Round] = []
    for principle, (criticism, revision) in zip(PRINCIPLES, answers, strict=False):
        if critique:
            asks.append(critique_prompt(MESSAGES, "answer", rounds, principle, prompts, few_shot))
            replies.append({"role": "critique", "content": criticism})
        given_critique = criticism if critique else None
        asks.append(revision_prompt(MESSAGES, "answer", rounds, principle, given_critique, prompts, few_shot))
        replies.append({"role": "revision", "content": revision})
        rounds.append(Round(principle, given_critique, revision))
    for before, reply, after in zip(asks, replies, asks[1:], strict=False):
        assert after[:-1] == [*before, reply]  # the reply as it was, and one new request


def test_building_a_prompt_changes_nothing_it_was_given() -> None:
    rounds = [Round(PRINCIPLES[0], "c0", "r0")]
    few_shot = few_shot_messages(CONSTITUTION, RevisionPrompts(num_few_shot=2))
    before = ([dict(m) for m in MESSAGES], list(rounds), list(few_shot))
    critique_prompt(MESSAGES, "x", rounds, PRINCIPLES[1], BARE, few_shot)
    assert before == (MESSAGES, rounds, few_shot)


@given(st.text(max_size=40))
def test_a_reply_is_stripped_and_nothing_else(text: str) -> None:
    assert parse_reply(f" \n{text}\n ") == text.strip()
