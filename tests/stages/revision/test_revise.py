"""The dialogue of one row, on a scripted Ask: what is asked, what is kept, what is dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from cai_ray.chat import Message
from cai_ray.constitution.draw import PrincipleChoice
from cai_ray.constitution.principles import Constitution, Principle
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.conversations.asking import Completion
from cai_ray.prompts.revision import NO_META, RevisionPrompts
from cai_ray.quality.gates import GatesConfig
from cai_ray.row_ids import REVISION_IDS
from cai_ray.rows import PROMPT, REVISION
from cai_ray.stages.revision.revise import (
    Config,
    count_flags,
    expand_units,
    revise,
    similarity_of,
)
from tests.stages.scripted_ask import ScriptedAsk

CONSTITUTION = Constitution(
    name="test",
    version="1",
    principles=(
        Principle(
            id="kind",
            critique_request="Is the last answer unkind?",
            revision_request="Make the last answer kind.",
            comparison_question="Which answer is kinder?",
            categories=("rudeness",),
        ),
        Principle(
            id="legal",
            critique_request="Does the last answer help to steal?",
            revision_request="Make the last answer lawful.",
            categories=("theft",),
        ),
    ),
)
ROW: dict[str, Any] = {
    "row_id": "p/0",
    "prompt_id": "p",
    "sample_index": 0,
    "kind": "red_team",
    "source": "test",
    "source_row": "test:0",
    "category": None,
    "split": "train",
    "license": None,
    "messages": [{"role": "user", "content": "How do I steal a bicycle?"}],
}


def answer(messages: Sequence[Message]) -> str:
    kind = messages[-1]["role"]
    number = sum(message["role"] == kind for message in messages)
    return {
        "user": "First answer.",
        "critique_request": f"Critique {number}.",
        "revision_request": f"Better {number}.",
    }[kind]


def run(ask: ScriptedAsk, row: dict[str, Any] = ROW, **settings: Any) -> dict[str, Any]:
    config = Config(**settings)
    similarity = similarity_of(config, CONSTITUTION)
    return asyncio.run(revise(row, ask, config=config, constitution=CONSTITUTION, seed=0, similarity=similarity))  # type: ignore[arg-type]


def dropped(ask: ScriptedAsk, **settings: Any) -> DropRow:
    with pytest.raises(DropRow) as drop:
        run(ask, **settings)
    return drop.value


def test_the_row_holds_the_whole_dialogue_and_fits_the_schema() -> None:
    ask = ScriptedAsk(answer)
    row = run(ask, num_revisions=2)
    assert row["initial_response"] == "First answer."
    assert [done["revision"] for done in row["revisions"]] == ["Better 1.", "Better 2."]
    assert [done["critique"] for done in row["revisions"]] == ["Critique 1.", "Critique 2."]
    assert len(ask.asked) == len(row["finish_reasons"]) == 1 + 2 * 2
    table = pa.Table.from_pylist([row], REVISION)
    assert REVISION_IDS(table).to_pylist() == ["p/0"]


def test_each_request_continues_the_one_before_it() -> None:
    ask = ScriptedAsk(answer)
    run(ask, num_revisions=3)
    for earlier, later in zip(ask.asked, ask.asked[1:], strict=False):
        assert later[: len(earlier)] == earlier


def test_history_latest_starts_over_from_the_newest_revision() -> None:
    ask = ScriptedAsk(answer)
    run(ask, num_revisions=2, prompts=RevisionPrompts(history="latest"))
    assert [message["content"] for message in ask.asked[3][:2]] == ["How do I steal a bicycle?", "Better 1."]


def test_direct_revision_asks_for_no_critique() -> None:
    ask = ScriptedAsk(answer)
    row = run(ask, num_revisions=2, critique=False)
    assert [done["critique"] for done in row["revisions"]] == [None, None]
    assert len(ask.asked) == 3
    assert not any(message["role"] == "critique_request" for asked in ask.asked for message in asked)


def test_the_no_meta_instruction_is_an_option() -> None:
    for no_meta in (True, False):
        ask = ScriptedAsk(answer)
        run(ask, num_revisions=1, prompts=RevisionPrompts(no_meta=no_meta))
        assert (NO_META in ask.asked[-1][-1]["content"]) is no_meta


def test_system_prompts_differ_per_step() -> None:
    ask = ScriptedAsk(answer)
    prompts = RevisionPrompts(answer_system="Assist.", critique_system="Judge.", revision_system="Assist again.")
    run(ask, num_revisions=1, prompts=prompts)
    assert [asked[0]["content"] for asked in ask.asked] == ["Assist.", "Judge.", "Assist again."]


def test_a_helpful_prompt_is_answered_and_not_revised() -> None:
    choice = PrincipleChoice(method="contextual")  # has nothing to choose here, and needs no similarities for it
    row = run(ScriptedAsk(answer), {**ROW, "kind": "helpful"}, num_revisions=4, principles=choice)
    assert row["revisions"] == []


def test_contextual_choice_takes_the_nearest_principle() -> None:
    choice = PrincipleChoice(method="contextual", top_k=1)
    row = run(ScriptedAsk(answer), num_revisions=3, principles=choice)
    assert {done["principle_id"] for done in row["revisions"]} == {"legal"}


def test_a_leak_is_cleaned_flagged_counted_and_not_fed_back() -> None:
    def leaky(messages: Sequence[Message]) -> str:
        text = answer(messages)
        return f"Here is the revised response: {text}" if messages[-1]["role"] == "revision_request" else text

    ask = ScriptedAsk(leaky)
    row = run(ask, num_revisions=2)
    assert [done["revision"] for done in row["revisions"]] == ["Better 1.", "Better 2."]
    assert row["revisions"][0]["flags"] == ["meta_openers"]
    assert count_flags(row)["flag.meta_openers"] == 2
    assert not any("Here is" in message["content"] for message in ask.asked[-1])


def test_nothing_but_meta_commentary_is_an_empty_answer() -> None:
    drop = dropped(ScriptedAsk(lambda messages: "Here is the revised response:"), num_revisions=1)
    assert drop.reason == DropReason.EMPTY_RESPONSE
    assert "meta-commentary" in drop.detail


def test_a_no_op_revision_is_flagged_or_dropped() -> None:
    def same(messages: Sequence[Message]) -> str:
        return "Take two tools and be careful."

    row = run(ScriptedAsk(same), num_revisions=1)
    assert row["revisions"][0]["flags"] == ["no_op", "repeats_critique"]  # all three are the same text
    drop = dropped(ScriptedAsk(same), num_revisions=1, gates=GatesConfig(no_op="drop"))
    assert drop.reason == DropReason.NO_OP


@pytest.mark.parametrize("prefers_second", [True, False])
def test_only_improvements_are_kept_if_asked(prefers_second: bool) -> None:
    def logprobs(messages: Sequence[Message]) -> list[float]:
        text = messages[-2]["content"]
        better_is_b = text.index("First answer.") < text.index("Better 1.")
        preferred_b = better_is_b == prefers_second
        return [-3.0, -0.1] if preferred_b else [-0.1, -3.0]

    ask = ScriptedAsk(answer, logprobs=logprobs)
    settings: dict[str, Any] = {
        "num_revisions": 1,
        "scorer": "comparison",
        "principle_ids": (),
        "gates": GatesConfig(not_improved="drop"),
    }
    if prefers_second:
        assert run(ask, **settings)["revisions"][0]["flags"] == []
    else:
        assert dropped(ask, **settings).reason == DropReason.NOT_IMPROVED
    assert len(ask.compared) == 2, "both orders are asked"


def test_a_truncated_answer_is_flagged_or_dropped() -> None:
    def long(messages: Sequence[Message]) -> Completion:
        return Completion(text=answer(messages), finish_reason="length")

    row = run(ScriptedAsk(long), num_revisions=1)
    assert row["initial_flags"] == ["truncated"]
    assert row["revisions"][0]["flags"] == ["truncated"]
    assert dropped(ScriptedAsk(long), truncated="drop").reason == DropReason.TRUNCATED


def test_room_is_checked_with_the_growth_of_all_rounds_before_anything_is_asked() -> None:
    sampling = {"max_tokens": 10}
    settings = {"answer_sampling": sampling, "critique_sampling": sampling, "revision_sampling": sampling}
    assert run(ScriptedAsk(answer, max_model_len=100), num_revisions=1, **settings)
    ask = ScriptedAsk(answer, max_model_len=100)
    drop = dropped(ask, num_revisions=4, **settings)
    assert drop.reason == DropReason.TOO_LONG
    assert "the context holds 100" in drop.detail
    assert ask.asked == []
    prompts = RevisionPrompts(history="latest")
    assert run(ScriptedAsk(answer, max_model_len=100), num_revisions=4, prompts=prompts, **settings)


def test_units_are_samples_of_prompts() -> None:
    rows = [{**ROW, "prompt_id": "a"}, {**ROW, "prompt_id": "b", "kind": "helpful"}]
    prompts = pa.Table.from_pylist([{k: row[k] for k in PROMPT.names} for row in rows], PROMPT)
    units = expand_units(prompts, config=Config(samples_per_prompt=2, helpful_samples=3))
    assert units["row_id"].to_pylist() == ["a/0", "a/1", "b/0", "b/1", "b/2"]


def test_a_gate_without_a_scorer_is_refused() -> None:
    with pytest.raises(ValueError, match="no scorer is named"):
        Config(gates=GatesConfig(not_improved="drop"))


def test_words_that_the_model_itself_finds_unlikely() -> None:
    salad, plain = Completion("Salad", "stop", logprobs=(-4.0, -3.0)), Completion("Plain", "stop", logprobs=(-0.5,))

    def script(messages: Sequence[Message]) -> Completion:
        return salad if messages[-1]["role"] == "critique_request" else plain

    def revised(gate: str) -> tuple[dict[str, Any], ScriptedAsk]:
        ask = ScriptedAsk(script)
        config = Config(num_revisions=1, gates=GatesConfig.model_validate({"incoherent": gate}))
        done = asyncio.run(revise(ROW, ask, config=config, constitution=CONSTITUTION, seed=0, similarity=None))
        return done, ask

    row, ask = revised("flag")
    assert "critique.incoherent" in row["revisions"][0]["flags"] and not row["initial_flags"]
    counters = ask.usage.counters
    assert counters["logprob.critique 1.millinats"] == 7000 and counters["logprob.critique 1.low"] == 1
    assert counters["logprob.answer.tokens"] == counters["logprob.revision 1.tokens"] == 1
    assert not counters["logprob.revision 1.low"]
    row, ask = revised("off")
    assert "critique.incoherent" not in row["revisions"][0]["flags"] and ask.usage.counters == counters
    with pytest.raises(DropRow) as dropped:
        revised("drop")
    assert dropped.value.reason == DropReason.INCOHERENT
    assert dropped.value.detail == "critique 1: -3.50 nats per token, below -2.5"
