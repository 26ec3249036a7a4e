"""Matches of policies' answers, and the games that judges make of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from cai_ray.artifacts.artifact import find
from cai_ray.row_ids import match_id_of
from cai_ray.rows import GAME
from cai_ray.stages.evaluation.folders import GAMES
from tests.stages.evaluation.evaluate_runs import PAIRS, PROMPTS, Judged, config, write_prompts


def test_games_of_all_pairs_or_against_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_prompts(tmp_path, PROMPTS)
    scripted = Judged(monkeypatch, tmp_path)
    scripted.policies["rl_cai"] = lambda *_: "I will not help with that, sorry."
    against_first = {**PAIRS, "name": "first", "pairs": "reference", "prompts": "helpful"}
    artifact = scripted.run(config(PAIRS, against_first, policies=["policy", "sl_cai", "rl_cai"]))
    games = find(artifact.folder / GAMES / "pairs")
    assert games is not None and next(games.tables()).schema == GAME
    rows = list(games.rows())
    pairs = Counter((row["policy_a"], row["policy_b"]) for row in rows)
    assert pairs == {("policy", "sl_cai"): 4, ("policy", "rl_cai"): 4}
    # Of two answers that it cannot tell apart the scripted judge finds no verdict.
    assert {row["row_id"].rpartition("/")[0].rpartition("/")[0] for row in games.dropped()} == {
        "policy/sl_cai", "policy/rl_cai", "sl_cai/rl_cai",
    }  # fmt: skip
    assert {(row["prob_a"], row["flipped"], row["judge"]) for row in rows} == {(0.0, False, "pairs")}
    helpful = next(row["prompt_id"] for row in PROMPTS if row["kind"] == "helpful")
    first = find(artifact.folder / GAMES / "first")
    assert first is not None
    found = {match_id_of(row["policy_a"], row["policy_b"], row["prompt_id"], 0) for row in first.rows()}
    assert found == {f"policy/{other}/{helpful}/0" for other in ("sl_cai", "rl_cai")}
