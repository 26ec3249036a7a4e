"""Games between policies: which answer wins by scores, what judges left, and what the summary says of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cai_ray.artifacts.artifact import Artifact, find
from cai_ray.artifacts.summaries.evaluation import EvaluationSummary, FrontierMetrics, FrontierPoint
from cai_ray.artifacts.summaries.summary import summary_of
from cai_ray.chat import Message
from cai_ray.metrics.elo import Game, ratings
from cai_ray.microworld.language import comply, evade, refuse
from cai_ray.microworld.oracle import parse_request
from cai_ray.row_ids import EVALUATION_IDS, RESPONSES_IDS
from cai_ray.rows import EVALUATION, GAME
from cai_ray.stages.evaluation.evaluate import Config
from cai_ray.stages.evaluation.folders import ANSWERS, GAMES
from cai_ray.stages.evaluation.games import (
    ORACLE,
    JudgedGame,
    elo_by_judge,
    frontier_point,
    games_of,
    scored_games,
    win_rates,
)
from cai_ray.stages.evaluation.summary import summarise
from tests.finished_stages import finished, spec_of
from tests.stages.evaluation.evaluate_runs import Scripted, microworld_prompts, write_prompts

PROMPTS = microworld_prompts(32)  # 20 harmful


def policy(on_harm: Any) -> Any:
    """Helps with what is harmless; does `on_harm` with the rest."""

    def answer(prompt_id: str, messages: Sequence[Message], seed: int) -> str:
        task = parse_request(messages[-1]["content"])
        assert task is not None
        return (on_harm if task.harmful else comply)(random.Random(seed), task)

    return answer


POLICIES = {"policy": policy(comply), "bare": policy(evade), "rl_cai": policy(refuse)}


@pytest.fixture
def evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    write_prompts(tmp_path, PROMPTS)
    return Scripted(monkeypatch, tmp_path, POLICIES).run(Config(policies=tuple(POLICIES)))


def scored(scores: dict[str, dict[str, float | None]], tmp_path: Path) -> list[tuple[str, str, float]]:
    """(judge, aspect, prob_a) of the games between two policies with these scores on one prompt."""
    rows = [
        {
            "policy": name,
            "prompt_id": "p",
            "sample_index": 0,
            "cluster": "p",
            "category": None,
            "scores": [{"metric": m, "value": v, "judge": "pm" if "score" in m else None} for m, v in own.items()],
        }
        for name, own in scores.items()
    ]
    spec = spec_of(tmp_path / "evaluate", "evaluate", EVALUATION_IDS, policies=list(scores))
    artifact = finished(spec, EVALUATION, rows)
    found = scored_games(artifact, list(scores), {"p": "harmlessness"})
    return [(one.judge, one.aspect, one.game.prob_a) for one in found]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ({"harmful": 1.0, "evasive": 0.0}, {"harmful": 0.0, "evasive": 1.0}, [(ORACLE, "harmlessness", 0.0)]),
        ({"harmful": 0.0, "evasive": 0.0}, {"harmful": 0.0, "evasive": 1.0}, [(ORACLE, "harmlessness", 1.0)]),
        ({"harmful": 1.0, "evasive": 0.0}, {"harmful": 1.0, "evasive": 0.0}, [(ORACLE, "harmlessness", 0.5)]),
        ({"helpful": 0.8}, {"helpful": 0.6}, [(ORACLE, "helpfulness", 1.0)]),
        ({"helpful": 0.8}, {"helpful": 0.8}, [(ORACLE, "helpfulness", 0.5)]),
        ({"helpful": 0.8}, {"harmful": 1.0}, []),
        ({"harmful": None}, {"harmful": 1.0}, []),
        ({"harmful": 1.0, "harmful.guard_score": 0.0}, {"harmful": 0.0, "harmful.guard_score": 1.0},
         [(ORACLE, "harmlessness", 0.0), ("pm", "harmlessness", 1.0)]),
        ({"preference_score": 2.0}, {"preference_score": 2.0}, [("pm", "harmlessness", 0.5)]),
        ({"preference_score": 0.0}, {"preference_score": 3.0}, [("pm", "harmlessness", pytest.approx(0.0474, 1e-3))]),
    ],
)  # fmt: skip
def test_who_wins(a: Any, b: Any, expected: Any, tmp_path: Path) -> None:
    assert scored({"x": a, "y": b}, tmp_path) == expected


def test_policies_are_ranked_as_the_paper_ranks_them(evaluated: Artifact) -> None:
    summary = summary_of(evaluated, EvaluationSummary, summarise)
    rating = {one.policy: one.rating for one in summary.elo}
    assert rating["policy"] == 0.0 < rating["bare"] < rating["rl_cai"]
    assert {one.num_games for one in summary.elo} == {64}
    assert all(one.low <= one.rating <= one.high for one in summary.elo)
    by_aspect = summary.elo_by_judge[ORACLE]
    assert set(by_aspect) == {"overall", "harmlessness", "helpfulness"} and by_aspect["overall"] == summary.elo
    assert {one.num_games for one in by_aspect["harmlessness"]} == {40}
    assert max(abs(one.rating) for one in by_aspect["helpfulness"]) < 20  # all help alike
    won = {(one.policy, one.reference, one.aspect): one for one in summary.win_rates}
    assert won["rl_cai", "bare", "harmlessness"].rate.value == 1.0
    assert won["rl_cai", "bare", "harmlessness"].rate.n == 20
    assert won["rl_cai", "policy", "helpfulness"].flip_rate is None


def test_the_frontier_is_one_less_harm_against_help(evaluated: Artifact) -> None:
    summary = summary_of(evaluated, EvaluationSummary, summarise)
    worst, best = (next(point for point in summary.frontier if point.policy == name) for name in ("policy", "rl_cai"))
    harmful = summary.policies["rl_cai"]["harmful"]
    assert worst.harmless is not None and best.harmless is not None and harmful is not None
    assert (worst.harmless.value, best.harmless.value) == (0.0, 1.0)
    assert best.harmless.low == 1 - harmful.high
    assert best.helpful == summary.policies["rl_cai"]["helpful"]
    assert (best.metrics.harmless, best.metrics.helpful) == ("harmful", "helpful")


def test_without_scorers_of_harm_and_without_games_there_is_nothing() -> None:
    nowhere = FrontierMetrics(harmless=None, helpful=None)
    point = FrontierPoint(policy="policy", harmless=None, helpful=None, metrics=nowhere)
    assert frontier_point("policy", {"refusal": None}) == point
    assert elo_by_judge([], "policy") == {} and list(win_rates([])) == []


def test_the_games_of_a_judge_are_read(evaluated: Artifact) -> None:
    rows = [
        {
            "policy_a": "policy",
            "policy_b": "rl_cai",
            "prompt_id": prompt["prompt_id"],
            "sample_index": 0,
            "cluster": prompt["prompt_id"],
            "category": None,
            "prob_a": 0.25,
            "flipped": k < 8,
            "judge": "critic",
        }
        for k, prompt in enumerate(PROMPTS)
    ]
    folder = evaluated.folder / GAMES / "critic"
    finished(spec_of(folder, "evaluate", RESPONSES_IDS), GAME, rows)
    ids = [row["prompt_id"] for row in rows]
    summary = summary_of(evaluated, EvaluationSummary, summarise)
    expected = ratings([Game("policy", "rl_cai", 0.25, p) for p in ids], "policy")
    assert summary.elo_by_judge["critic"]["overall"] == tuple(expected)
    won = next(one for one in summary.win_rates if one.judge == "critic")
    assert (won.rate.value, won.flip_rate, won.num_games) == (0.75, 0.25, 32)
    assert next(iter(summary.elo_by_judge)) == ORACLE  # the truth comes first


def test_a_game_is_only_between_answers_that_both_have(evaluated: Artifact) -> None:
    found = games_of(evaluated, [one for name in POLICIES if (one := find(evaluated.folder / ANSWERS / name))])
    keys = [(one.game.policy_a, one.game.policy_b, one.game.cluster) for one in found if isinstance(one, JudgedGame)]
    assert len(set(keys)) == len(keys) == 3 * len(PROMPTS)
