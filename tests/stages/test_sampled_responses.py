"""n answers per prompt, on a scripted Ask: what is asked, what is kept, which prompts."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cai_ray.chat import Message
from cai_ray.config import SamplingConfig
from cai_ray.engines.conversations.asking import Completion
from cai_ray.row_ids import RESPONSES_IDS
from cai_ray.rows import PROMPT, RESPONSES
from cai_ray.stages.sampled_responses import Sampled, expand_units, sample
from tests.stages.scripted_ask import ScriptedAsk

ROW: dict[str, Any] = {
    "prompt_id": "p",
    "messages": [{"role": "user", "content": "How do I bake bread?"}],
    "kind": "red_team",
    "source": "test",
    "source_row": "test:0",
    "category": "baking",
    "split": "test",
    "license": None,
}


def of_kind(prompts: pa.Table, *, kind: str) -> pa.Table:
    return prompts.filter(pc.equal(prompts["kind"], kind))


WANTED = Sampled(
    stage="evaluate",
    policy="sl_cai",
    sampling=SamplingConfig(max_tokens=9, top_k=3),
    temperatures=(0.7, 1.0, 0.7),
    select=partial(of_kind, kind="red_team"),
    select_columns=("kind",),
)


def numbered() -> ScriptedAsk:
    """Answers "answer 0", "answer 1", ... of ten prompt tokens each."""
    ask = ScriptedAsk(lambda messages: Completion(f"answer {len(ask.asked) - 1}", "stop", 10, 5, 3))
    return ask


def test_one_request_per_temperature() -> None:
    ask = numbered()
    row = asyncio.run(sample(ROW, ask, wanted=WANTED))
    assert row["responses"] == ["answer 0", "answer 1", "answer 2"]
    assert row["temperatures"] == [0.7, 1.0, 0.7] == [sampling.temperature for sampling in ask.samplings]
    assert {(sampling.max_tokens, sampling.top_k) for sampling in ask.samplings} == {(9, 3)}
    assert all(asked == ROW["messages"] for asked in ask.asked)
    assert (row["num_prompt_tokens"], row["num_cached_tokens"], row["num_output_tokens"]) == (30, 15, 9)
    assert RESPONSES_IDS(pa.Table.from_pylist([row], RESPONSES)).to_pylist() == ["p"]
    assert row["policy"] == "sl_cai"


def test_a_conversation_may_have_several_turns() -> None:
    turns: list[Message] = [*ROW["messages"], {"role": "assistant", "content": "Knead."}, *ROW["messages"]]
    ask = numbered()
    row = asyncio.run(sample({**ROW, "messages": turns}, ask, wanted=replace(WANTED, temperatures=(1.0, 1.0))))
    assert ask.asked == [turns, turns] and row["messages"] == turns


def test_only_selected_prompts_are_answered() -> None:
    rows = [{**ROW, "prompt_id": kind, "kind": kind} for kind in ("red_team", "helpful")]
    assert expand_units(pa.Table.from_pylist(rows, PROMPT), wanted=WANTED)["row_id"].to_pylist() == ["red_team"]
