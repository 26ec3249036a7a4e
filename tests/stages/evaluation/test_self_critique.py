"""One round of self-critique in every format: what is asked, what is kept, and how its harm is read."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pyarrow as pa
import pytest

from cai_ray.constitution.similarity import LexicalSimilarity, principle_text
from cai_ray.constitution.source import load, resolve
from cai_ray.dropped import DropReason, DropRow
from cai_ray.microworld.language import comply, sample_request
from cai_ray.rows import PROMPT
from cai_ray.stages.evaluation.scorers import RuleScorer
from cai_ray.stages.evaluation.self_critique import (
    ASKED,
    COMPLIED,
    EXCHANGE,
    Config,
    exchange,
    exchange_of,
    expand_units,
    harm_metrics,
    scored,
)
from tests.stages.scripted_ask import ScriptedAsk

CONSTITUTION = load(resolve("microworld"))
SIMILARITY = LexicalSimilarity([principle_text(one) for one in CONSTITUTION.serving("revision")])
CONFIG = Config(formats=("plain", "few_words", "fresh"), principles=("random", "contextual"), samples_per_prompt=2)
REQUEST = sample_request(random.Random(0), harmful=True, multi_turn=False)
HARMFUL = comply(random.Random(0), REQUEST.task)


def prompt(content: str = REQUEST.messages[-1]["content"], kind: str = "red_team") -> dict[str, Any]:
    return {
        "prompt_id": "p", "messages": [{"role": "user", "content": content}], "kind": kind, "source": "s",
        "source_row": "s:0", "category": "theft", "split": "train", "license": None,
    }  # fmt: skip


def units(config: Config = CONFIG) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = expand_units(pa.Table.from_pylist([prompt()], PROMPT), config=config).to_pylist()
    return found


def converse(row: dict[str, Any], ask: ScriptedAsk, config: Config = CONFIG) -> dict[str, Any]:
    return asyncio.run(exchange(row, ask, config=config, constitution=CONSTITUTION, seed=0, similarity=SIMILARITY))


def test_a_unit_per_format_choice_and_sample() -> None:
    ids = [unit["row_id"] for unit in units()]
    assert len(ids) == len(set(ids)) == 3 * 2 * 2
    assert ids[0] == "p/plain/random/0" and ids[-1] == "p/fresh/contextual/1"


def test_three_steps_and_the_same_principle_in_every_format() -> None:
    drawn = set()
    for unit in units():
        ask = ScriptedAsk(lambda messages: f"said {len(messages)}")
        row = converse(unit, ask)
        assert len(ask.asked) == 3 and pa.Table.from_pylist([row], ASKED).num_rows == 1
        drawn.add((unit["principles"], unit["sample_index"], row["principle_id"]))
    assert len(drawn) == 4


def test_contextual_choice_is_the_nearest_principle() -> None:
    (unit,) = units(Config(principles=("contextual",)))
    row = converse(unit, ScriptedAsk(lambda messages: "x"))
    near = SIMILARITY(unit["messages"][0]["content"])
    assert row["principle_id"] == CONSTITUTION.serving("revision")[near.index(max(near))].id


def test_an_empty_step_drops_the_row() -> None:
    with pytest.raises(DropRow) as dropped:
        converse(units()[0], ScriptedAsk(lambda messages: "" if len(messages) > 1 else "x"))
    assert dropped.value.reason == DropReason.EMPTY_RESPONSE and "critique" in dropped.value.detail


def row_of(scorer: str, initial: str, critique: str, revision: str, kind: str = "red_team") -> dict[str, Any]:
    said = iter((initial, critique, revision))
    unit = {**units()[0], "kind": kind}
    row = scored(converse(unit, ScriptedAsk(lambda messages: next(said))), [RuleScorer(scorer)])  # type: ignore[arg-type]
    assert pa.Table.from_pylist([row], EXCHANGE).num_rows == 1
    return row


def test_harm_is_the_oracles_where_it_can_read() -> None:
    row = row_of("microworld", HARMFUL, "The last answer is harmful: it helps to steal.", "I can't help with that.")
    assert harm_metrics([row]) == ["harmful"]
    found = exchange_of(row, "harmful")
    assert (found.harm_before, found.harm_after, found.noticed, found.unchanged) == (1.0, 0.0, True, False)


def test_without_a_judge_of_harm_it_is_compliance() -> None:
    row = row_of("refusals", "I can't help with that.", "It is fine.", "Sure, first take it.")
    assert harm_metrics([row]) == [COMPLIED]
    found = exchange_of(row, COMPLIED)
    assert (found.harm_before, found.harm_after, found.noticed) == (0.0, 1.0, False)


def test_refusing_a_benign_request_is_over_caution() -> None:
    row = row_of("refusals", "I can't help with that.", "It is fine.", "Sand it first.", kind="helpful")
    found = exchange_of(row, COMPLIED)
    assert (found.is_red_team, found.refused_before, found.refused_after, found.harm_before) == (
        False,
        True,
        False,
        None,
    )
