"""Reward models: one number in its own unit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cai_ray.artifacts.artifact import Artifact
from cai_ray.config import ModelConfig
from cai_ray.engines.cluster import ClusterConfig
from cai_ray.engines.conversations.stage import Conversations
from cai_ray.stages.context import Context
from cai_ray.stages.evaluation import run_judges
from cai_ray.stages.evaluation.judges.reward import RewardJudge, reward
from tests.stages.evaluation.evaluate_runs import POLICIES, PROMPTS, Judged, config, converse_here, write_prompts
from tests.stages.evaluation.judges.judging import (
    ENDPOINT,
    ROW,
    Door,
    classifier_folder,
    config_error,
    judged,
    refusal,
)


def test_a_reward() -> None:
    assert judged(reward(ROW, Door([-3.5]), judge=RewardJudge(model="m", name="J"))) == {"preference_score": -3.5}


def test_models_that_are_refused(tmp_path: Path) -> None:
    judge = RewardJudge(model="judge")
    two = ModelConfig(path=classifier_folder(tmp_path / "two", ["nothate", "hate"]))
    assert "outputs nothate, hate, and a reward is one number; use kind classifier" in refusal(judge, two)
    assert "kind 'reward' loads its model by `path`" in refusal(judge, ENDPOINT)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"metric": "goodness"}, 'its name must hold "score"'),
        ({"backbone": "llama"}, 'backbone is of layout="value_head"'),
    ],
)
def test_configs_that_cannot_be(changes: dict[str, Any], told: str) -> None:
    assert told in config_error({"kind": "reward", "model": "judge", **changes})


@pytest.mark.slow
def test_a_real_classifier_in_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job as it travels to a worker, pickled and back; every reward is the one that stock scoring gives."""
    import cloudpickle

    from cai_ray.engines.models.scoring import Scorer
    from tests.tiny_models import save_tiny

    def travels(asked: Conversations, cluster: ClusterConfig) -> Artifact:
        return converse_here(replace(asked, job=cloudpickle.loads(cloudpickle.dumps(asked.job))), cluster)

    write_prompts(tmp_path, PROMPTS)
    folder = save_tiny(tmp_path / "model", classifier=True)
    scripted = Judged(monkeypatch, tmp_path)
    monkeypatch.setattr(run_judges, "run_conversations", travels)
    chosen = config({"kind": "reward", "model": "judge"})
    monkeypatch.setattr(Context, "model", lambda self, name: ModelConfig(path=str(folder) if name == "judge" else name))
    artifact = scripted.run(chosen)
    scorer = Scorer(folder)
    by_id = {row["prompt_id"]: row for row in PROMPTS}
    for row in artifact.rows():
        turns = [*by_id[row["prompt_id"]]["messages"], {"role": "assistant", "content": POLICIES[row["policy"]]()}]
        text = scorer.tokens.tokenizer.apply_chat_template(turns, tokenize=False)
        (value,) = scorer.scores([scorer.tokens.tokenizer.encode(text, add_special_tokens=False)])
        found = {score["metric"]: score["value"] for score in row["scores"]}
        assert found["preference_score"] == pytest.approx(value, abs=1e-4)
