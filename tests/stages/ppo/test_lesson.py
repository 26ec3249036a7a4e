"""From scores to advantages, against plain arithmetic; and what the loop's health numbers mean."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from cai_ray.algorithms.episodes import Episode, Scored
from cai_ray.algorithms.kl import KlState
from cai_ray.algorithms.scores import ScoreState
from cai_ray.stages.ppo import health
from cai_ray.stages.ppo.config import Config
from cai_ray.stages.ppo.lesson import Lesson, distance_of, lesson_of


def episode(number: int, length: int, **changes: Any) -> Episode:
    made = Episode(
        prompt_id=f"p{number}",
        sample_index=0,
        prompt_ids=(1, 2),
        response_ids=tuple(range(length)),
        logprobs=(-1.0,) * length,
        truncated=False,
        text="take the brush and paint it",
        policy_version=0,
    )
    return replace(made, **changes)


def scored(length: int, score: float, **changes: Any) -> Scored:
    made = Scored(score, logprobs=(-1.0,) * length, ref_logprobs=(-1.5,) * length, values=(0.25,) * length)
    return replace(made, **changes)


def config(**changes: Any) -> Config:
    plain: dict[str, Any] = {"prompts_per_step": 2, "optim": {"batch_size": 2}, "advantage": {"whiten": False}}
    return Config.model_validate({**plain, **changes})


LENGTHS, SCORES = (3, 1), (2.0, -1.0)
EPISODES = [episode(k, length) for k, length in enumerate(LENGTHS)]
SCORED = [scored(length, score) for length, score in zip(LENGTHS, SCORES, strict=True)]


def lesson(made: Config, scored_by: list[Scored] = SCORED, episodes: list[Episode] = EPISODES) -> Lesson:
    return lesson_of(episodes, scored_by, made, KlState(coefficient=0.1), ScoreState())


def test_gae_by_hand() -> None:
    made = config(advantage={"whiten": False, "gamma": 1.0, "lam": 1.0})
    found = lesson(made)
    # k1 is 0.5 nats per token: rewards are -0.05 per token and the score on the last.
    assert found.returns[0] == pytest.approx((2 - 0.15, 2 - 0.10, 2 - 0.05))
    assert found.returns[1] == pytest.approx((-1.05,))
    assert found.advantages[0] == pytest.approx((1.6, 1.65, 1.7))
    assert found.advantages[1] == pytest.approx((-1.3,))
    assert found.measured["reward"] == pytest.approx(((2 - 0.15) + (-1 - 0.05)) / 2)
    assert (found.score_state.count, found.score_state.mean) == (2, 0.5)


def test_whitened_over_the_whole_step() -> None:
    advantages = [a for row in lesson(config(advantage={"whiten": True})).advantages for a in row]
    assert sum(advantages) == pytest.approx(0, abs=1e-5)
    assert sum(a * a for a in advantages) / 4 == pytest.approx(1, abs=1e-5)


def test_truncated_answers_and_clipping() -> None:
    cut = [replace(EPISODES[0], truncated=True), EPISODES[1]]
    made = config(scores={"clip": 1.5, "truncated_penalty": 0.5}, kl={"coefficient": 0.0})
    found = lesson_of(cut, SCORED, made, KlState(coefficient=0.0), ScoreState())
    assert found.measured["score_shaped"] == pytest.approx((1.5 - 0.5 - 1.0) / 2)


def test_groups_are_answers_to_the_same_prompt() -> None:
    made = config(samples_per_prompt=2, advantage={"kind": "rloo"}, optim={"batch_size": 4}, kl={"coefficient": 0.0})
    rows = [scored(2, score, values=()) for score in (1.0, 3.0, 10.0, 10.0)]
    found = lesson_of([episode(k // 2, 2) for k in range(4)], rows, made, KlState(coefficient=0.0), ScoreState())
    assert [row[0] for row in found.advantages] == pytest.approx([-2, 2, 0, 0])
    assert found.returns == [(), (), (), ()]
    assert "explained_variance" not in found.measured


def test_distance_from_the_reference() -> None:
    found = distance_of(EPISODES, SCORED)
    k3 = math.expm1(-0.5) + 0.5
    assert found.kl == pytest.approx([3 * k3, k3])
    assert found.logprobs_finite and found.scores_finite
    bad = [replace(SCORED[0], values=(math.nan, 0.0, 0.0)), SCORED[1]]
    assert not distance_of(EPISODES, bad).scores_finite
    worse = [replace(EPISODES[0], logprobs=(-math.inf, -1.0, -1.0)), EPISODES[1]]
    assert not distance_of(worse, SCORED).logprobs_finite


def test_what_is_said_of_the_answers() -> None:
    texts = ["I can't help with that.", "I can't do that, because it is illegal.", "take the brush", "take the brush"]
    episodes = [episode(k, k + 1, truncated=k == 3) for k in range(4)]
    found = health.writing(episodes, texts, ["how?"] * 4)
    assert (found["length"], found["length_max"], found["truncated"]) == (2.5, 4, 0.25)
    assert (found["refusal_rate"], found["evasive_rate"]) == (0.5, 0.25)
    assert 0 < found["stock_phrases"] < 1 and 0 < found["distinct"] <= 1
    assert health.writing(episodes, [""] * 4, [""] * 4)["distinct"] == 0.0


def test_what_the_models_say() -> None:
    found = health.sampled(EPISODES, SCORED, [0.3, 0.1])
    assert (found["score"], found["score_std"]) == (0.5, 1.5)
    assert found["kl"] == pytest.approx(0.2) and found["kl_per_token"] == pytest.approx(0.1)
    assert found["entropy"] == 1.0 and found["sampler_gap"] == 0.0
    assert math.isnan(health.sampled(EPISODES, [replace(SCORED[0], score=math.nan), SCORED[1]], [0, 0])["score_std"])


def test_updates_of_a_step_as_one() -> None:
    stats = [
        {"policy_loss": 1.0, "ratio_min": 0.5, "ratio_max": 2.0, "num_tokens": 10.0, "skipped": 0.0},
        {"policy_loss": 3.0, "ratio_min": 0.9, "ratio_max": 1.1, "num_tokens": 10.0, "skipped": 0.0},
        {"policy_loss": math.nan, "ratio_min": 0.0, "ratio_max": math.inf, "num_tokens": 10.0, "skipped": 1.0},
    ]
    assert health.updates(stats) == {
        "updates": 3, "updates_skipped": 1, "policy_loss": 2.0, "ratio_min": 0.5, "ratio_max": 2.0,
    }  # fmt: skip
    assert health.updates(stats[2:]) == {"updates": 1, "updates_skipped": 1}
    assert health.plain({"a": math.nan, "b": 1.0}) == {"a": None, "b": 1.0}
