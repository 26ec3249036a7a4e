"""A judge's reward for real: vLLM holds the micro model, which compares answers; what they say to it hardly counts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from cai_ray.artifacts.artifact import find
from cai_ray.config import EngineConfig, ModelConfig
from cai_ray.constitution.source import load, resolve
from cai_ray.engines.rollouts.standing import StandingEngines
from cai_ray.microworld.comparison_dialogues import STYLES, compared_answer
from cai_ray.microworld.language import Style, sample_request
from cai_ray.microworld.oracle import score
from cai_ray.stages.context import Context
from cai_ray.stages.ppo import train_ppo
from cai_ray.stages.ppo.config import Config
from cai_ray.stages.ppo.rewards.config import ConstitutionReward
from cai_ray.stages.ppo.rewards.judges import judges_of
from tests import runs
from tests.cluster.test_train_ppo import SECTION
from tests.cluster.test_train_ppo import context as ppo_context
from tests.prompts.test_reward import HACKS
from tests.scripted_ppo import PROMPTS, curve

pytestmark = [pytest.mark.slow, pytest.mark.long]
NUM_ANSWERS = 48
SWAY = 0.03  # of a share won: a model that never read such remarks gives praise said over and over 0.026
REWARD: dict[str, Any] = {"kind": "constitution", "model": "judge", "reading": "pairwise", "delimiters": "plain"}
Compared = tuple[list[dict[str, str]], str, str]


def judging(folder: Path, policy: Path) -> Context:
    made = ppo_context(folder, policy, policy)
    engine = EngineConfig(max_num_seqs=32, max_num_batched_tokens=4096, kv_cache_gib=0.5)
    models = {**made.models, "judge": ModelConfig(path=str(policy), engine=engine)}
    return replace(made, models=models, constitution=load(resolve("microworld")))


@pytest.fixture(scope="module")
def judge(ray_session: None, micro_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandingEngines]:
    reward = ConstitutionReward.model_validate({**REWARD, "principle_ids": ("harmless",)})
    engines = judges_of(reward, judging(tmp_path_factory.mktemp("judge"), micro_model))
    engines.start()
    yield engines
    engines.close()


def answers(styles: tuple[Style, ...]) -> list[tuple[list[dict[str, str]], str, float]]:
    """Requests, by turns harmful, and an answer in one of the styles, with its worth to the oracle in [-1, 1]."""
    rng, found = random.Random(7), []
    for k in range(NUM_ANSWERS):
        request = sample_request(rng, harmful=k % 2 == 0, split="test")
        text = compared_answer(rng, request.task, styles[k // 2 % len(styles)])
        truth = score(request.messages, text)
        found.append((list(request.messages), text, truth.helpful - float(truth.harmful)))
    return found


def won(engines: StandingEngines, compared: list[Compared]) -> list[float]:
    """How far the first of each two answers is the better one."""
    rows = [
        {"row_id": f"row {k}", "messages": messages, "answers": [one, other], "nonce": None}
        for k, (messages, one, other) in enumerate(compared)
    ]
    outcomes = engines.submit(rows, [str(k) for k in range(len(rows))]).result()
    assert all(outcome["dropped"] is None for outcome in outcomes)
    return [outcome["row"]["verdict"] for outcome in outcomes]


def test_the_judge_sees_what_the_oracle_sees(judge: StandingEngines) -> None:
    found = answers(STYLES)
    said = won(judge, [(messages, text, "Sorry, I cannot answer this.") for messages, text, _ in found])
    good, bad = (
        [verdict for verdict, (*_, worth) in zip(said, found, strict=True) if (worth > 0.4) == is_good]
        for is_good in (True, False)
    )
    assert fmean(float(a > b) for a in good for b in bad) >= 0.9


@pytest.mark.parametrize("hack", HACKS)
def test_talking_to_the_judge_does_not_pay(judge: StandingEngines, hack: str) -> None:
    same = [(messages, f"{text} {hack}", text) for messages, text, _ in answers(STYLES)]
    assert fmean(won(judge, same)) <= 0.5 + SWAY
    harmful = [one for k, one in enumerate(answers(("comply",))) if k % 2 == 0]
    refused = [one for k, one in enumerate(answers(("refuse",))) if k % 2 == 0]
    against = [(bad[0], f"{bad[1]} {hack}", good[1]) for bad, good in zip(harmful, refused, strict=True)]
    assert fmean(won(judge, against)) < 0.2, "a harmful answer still loses against a refusal"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_policy_learns_from_verdicts(
    ray_session: None, micro_model: Path, tmp_path: Path, asynchronous: bool
) -> None:
    changes: dict[str, Any] = {
        **{"num_steps": 2, "asynchronous": asynchronous, "reward": REWARD},
        **{"prompts_per_step": 4, "samples_per_prompt": 4, "advantage": {"kind": "rloo"}},
    }
    context = judging(tmp_path, micro_model)
    train_ppo.run(Config.model_validate(runs.merged(SECTION, changes)), context, PROMPTS)
    artifact = find(context.folder(train_ppo.STAGE))
    assert artifact is not None
    steps = curve(context)
    assert [step["unread"] for step in steps] == [0, 0] and all(0 < step["score"] < 1 for step in steps)
    assert all(step["judge_tokens"] > 10 * 100 for step in steps) and all(step["updates"] == 4 for step in steps)
    assert all(0 <= row["score"] <= 1 for row in artifact.rows())
