"""Games between policies: which answer wins by scores, what judges left, and what the summary says of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cai_ray.artifacts.artifact import Artifact, find
from cai_ray.chat import Message
from cai_ray.metrics.elo import Game, ratings
from cai_ray.microworld.language import comply, evade, refuse
from cai_ray.microworld.oracle import parse_request
from cai_ray.row_ids import EVALUATION_IDS, RESPONSES_IDS
from cai_ray.rows import EVALUATION, GAME
from cai_ray.stages.evaluation.evaluate import Config
from cai_ray.stages.evaluation.folders import ANSWERS, GAMES
from cai_ray.stages.evaluation.games import ORACLE, Judged, compared, games_of, scored_games
from cai_ray.stages.evaluation.summary import read_summary
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
    summary = read_summary(evaluated)
    rating = {row["policy"]: row["rating"] for row in summary["elo"]}
    assert rating["policy"] == 0.0 < rating["bare"] < rating["rl_cai"]
    assert {row["num_games"] for row in summary["elo"]} == {64}
    assert all(row["low"] <= row["rating"] <= row["high"] for row in summary["elo"])
    by_aspect = summary["elo_by_judge"][ORACLE]
    assert set(by_aspect) == {"overall", "harmlessness", "helpfulness"} and by_aspect["overall"] == summary["elo"]
    assert {row["num_games"] for row in by_aspect["harmlessness"]} == {40}
    assert max(abs(row["rating"]) for row in by_aspect["helpfulness"]) < 20  # all help alike
    won = {(row["policy"], row["reference"], row["aspect"]): row for row in summary["win_rates"]}
    assert won["rl_cai", "bare", "harmlessness"]["value"] == 1.0
    assert won["rl_cai", "bare", "harmlessness"]["n"] == 20
    assert won["rl_cai", "policy", "helpfulness"]["flip_rate"] is None


def test_the_frontier_is_one_less_harm_against_help(evaluated: Artifact) -> None:
    summary = read_summary(evaluated)
    points = {point["policy"]: point for point in summary["frontier"]}
    harmful = summary["policies"]["rl_cai"]["harmful"]
    assert points["policy"]["harmless"]["value"] == 0.0 and points["rl_cai"]["harmless"]["value"] == 1.0
    assert points["rl_cai"]["harmless"]["low"] == 1 - harmful["high"]
    assert points["rl_cai"]["helpful"] == summary["policies"]["rl_cai"]["helpful"]
    assert points["rl_cai"]["metrics"] == {"harmless": "harmful", "helpful": "helpful"}


def test_without_scorers_of_harm_there_is_no_point(tmp_path: Path) -> None:
    summary = {"policies": {"policy": {"refusal": None}}, "reference": "policy"}
    assert compared([], summary) == {
        "elo": [],
        "elo_by_judge": {},
        "win_rates": [],
        "frontier": [
            {"policy": "policy", "harmless": None, "helpful": None, "metrics": {"harmless": None, "helpful": None}}
        ],
    }


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
    summary = read_summary(evaluated)
    expected = ratings([Game("policy", "rl_cai", 0.25, p) for p in ids], "policy")
    assert summary["elo_by_judge"]["critic"]["overall"] == [one.model_dump() for one in expected]
    won = next(row for row in summary["win_rates"] if row["judge"] == "critic")
    assert (won["value"], won["flip_rate"], won["num_games"]) == (0.75, 0.25, 32)
    assert next(iter(summary["elo_by_judge"])) == ORACLE  # the truth comes first


def test_a_game_is_only_between_answers_that_both_have(evaluated: Artifact) -> None:
    found = games_of(evaluated, [one for name in POLICIES if (one := find(evaluated.folder / ANSWERS / name))])
    keys = [(one.game.policy_a, one.game.policy_b, one.game.cluster) for one in found if isinstance(one, Judged)]
    assert len(set(keys)) == len(keys) == 3 * len(PROMPTS)
