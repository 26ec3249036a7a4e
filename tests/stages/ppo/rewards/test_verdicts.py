"""Verdicts of a scripted judge: weights, vetoes, both orders, "10" in two tokens, and what cannot be read."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cai_ray.chat import Message
from cai_ray.config import ModelConfig
from cai_ray.constitution.principles import Constitution, ConstitutionError, Principle
from cai_ray.dropped import DropReason, DropRow
from cai_ray.errors import ConfigError
from cai_ray.stages.ppo.rewards.config import ConstitutionReward
from cai_ray.stages.ppo.rewards.verdicts import check, principles_of, verdict, weighted
from tests.stages.scripted_ask import ScriptedAsk
from tests.tiny_models import save_tiny

KIND = Principle(id="kind", comparison_question="Which is kinder?", weight=3.0)
SHORT = Principle(id="short", rubric_question="Is it short?")
SAFE = Principle(id="safe", rubric_question="Is it safe?", comparison_question="Which is safer?", veto=True)
ALL = Constitution(name="all", version="1", principles=(KIND, SHORT, SAFE))
ROW: dict[str, Any] = {
    "row_id": "1/p/0", "messages": [{"role": "user", "content": "Hello?"}], "answers": ["Hi."], "nonce": "c0de0000",
}  # fmt: skip


def read(
    say: Callable[[str], list[float]], row: dict[str, Any] = ROW, is_two_tokens: bool = False, **config: Any
) -> tuple[float, ScriptedAsk]:
    """The verdict of a judge that says these probabilities, by all that it is shown."""

    def logprobs(messages: Sequence[Message]) -> list[float]:
        return [math.log(p) if p else -math.inf for p in say("\n".join(m["content"] for m in messages))]

    ask = ScriptedAsk(lambda messages: "", logprobs=logprobs)
    made = ConstitutionReward.model_validate(config)
    found = asyncio.run(
        verdict(row, ask, config=made, constitution=ALL, form="chat", seed=0, is_two_tokens=is_two_tokens)
    )
    return found["verdict"], ask


def test_a_rubric_weighs_and_a_veto_multiplies() -> None:
    def say(text: str) -> list[float]:
        return [0.5, 0.5] if "kinder" in text else [0.9, 0.1] if "short" in text else [0.2, 0.8]

    found, ask = read(say, reading="rubric", principles_per_answer=2)
    assert found == pytest.approx((3 * 0.5 + 1 * 0.9) / 4 * 0.2) and len(ask.compared) == 3
    assert weighted([(KIND, 0.4)], []) == pytest.approx(0.4)
    assert weighted([], [0.5, 0.5]) == 0.25, "all principles may be vetoes"


def test_vetoes_are_always_asked_and_never_drawn() -> None:
    config = ConstitutionReward(reading="rubric")
    drawn = [principles_of(f"1/p/{k}", config, ALL, seed=0) for k in range(40)]
    assert {principle.id for ours, _ in drawn for principle in ours} == {"kind", "short"}
    assert all([principle.id for principle in vetoes] == ["safe"] for _, vetoes in drawn)
    others = [principles_of(f"1/p/{k}", ConstitutionReward(), ALL, seed=0) for k in range(40)]
    assert {principle.id for ours, _ in others for principle in ours} == {"kind", "safe"}
    assert not any(vetoes for _, vetoes in others), "a veto is of a rubric"
    only = ConstitutionReward(reading="rubric", principle_ids=("safe",))
    assert principles_of("1/p/0", only, ALL, seed=0) == ([], [SAFE])


@pytest.mark.parametrize("is_two_tokens", [True, False])
def test_ten_in_two_tokens_takes_a_second_question(is_two_tokens: bool) -> None:
    def say(text: str) -> list[float]:
        if text.endswith("(1"):
            return [0.75, 0.25]  # "0", ")"
        return [0.8, *[0.0] * 7, 0.2, *([] if is_two_tokens else [0.0])]

    found, ask = read(say, is_two_tokens=is_two_tokens)
    assert found == pytest.approx((0.2 * 1 + 0.2 * 9 + 0.6 * 10 - 1) / 9) and len(ask.compared) == 2
    alone, ask = read(lambda text: [0.0] * 8 + [1.0] + ([] if is_two_tokens else [0.0]), is_two_tokens=is_two_tokens)
    assert alone == pytest.approx(8 / 9) and len(ask.compared) == 1, "without a 1 there is no 10 to ask about"
    if not is_two_tokens:
        assert read(lambda text: [0.0] * 9 + [1.0])[0] == 1


def test_both_orders_take_a_liking_for_the_first_away() -> None:
    pair = ROW | {"answers": ["Hi.", "Go away."]}
    found, ask = read(lambda text: [0.7, 0.3], pair, reading="pairwise", principle_ids=("kind",))
    assert found == pytest.approx(0.5) and len(ask.compared) == 2

    def kind(text: str) -> list[float]:
        return [0.9, 0.1] if text.index("Hi.") < text.index("Go away.") else [0.2, 0.8]

    assert read(kind, pair, reading="pairwise", principle_ids=("kind",))[0] == pytest.approx(0.85)


@pytest.mark.parametrize("reading", ["rating", "rubric", "pairwise"])
def test_a_judge_that_names_no_option_gives_no_verdict(reading: str) -> None:
    row = ROW | {"answers": ["Hi.", "Go away."]} if reading == "pairwise" else ROW
    with pytest.raises(DropRow, match="unlikely to name any option") as error:
        read(lambda text: [1e-6] * (10 if reading == "rating" else 2), row, reading=reading)
    assert error.value.reason == DropReason.UNPARSABLE


def test_mistakes_are_found_before_anything_is_asked(tmp_path: Path) -> None:
    judge = ModelConfig(path=str(save_tiny(tmp_path / "judge")))
    assert check(ConstitutionReward(), judge, ALL), "a tokenizer of bytes spells 10 in two tokens"
    assert not check(ConstitutionReward(reading="pairwise"), judge, ALL)
    with pytest.raises(ConfigError, match="option 'Yes' is 3 tokens"):
        check(ConstitutionReward(reading="rubric"), judge, ALL)
    with pytest.raises(ConstitutionError, match="no more rounds than principles for rubric"):
        check(ConstitutionReward(reading="rubric", principles_per_answer=3), judge, ALL)
    with pytest.raises(ConstitutionError, match="no such principle"):
        check(ConstitutionReward(principle_ids=("kin",)), judge, ALL)
    revises = Constitution(name="r", version="1", principles=(Principle(id="r", revision_request="Rewrite it."),))
    with pytest.raises(ConstitutionError, match="none of them serves comparison"):
        check(ConstitutionReward(), judge, revises)
