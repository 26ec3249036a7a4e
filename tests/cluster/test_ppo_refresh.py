"""The preference model's refresh for real: Ray Train learners teach it, vLLM answers and labels, the loop goes on."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cai_ray.artifacts.artifact import Artifact, find
from cai_ray.config import OptimConfig
from cai_ray.constitution.source import load, resolve
from cai_ray.engines.learners.learners import Learners
from cai_ray.row_ids import PAIR_IDS
from cai_ray.rows import TRAINING_PAIR
from cai_ray.stages.context import Context
from cai_ray.stages.ppo import train_ppo
from cai_ray.stages.ppo.config import Config
from cai_ray.stages.ppo.refresh.relearning import slopes_of
from cai_ray.stages.preferences import label_comparisons
from tests import runs
from tests.cluster.test_policy_learners import STEP, running
from tests.cluster.test_train_ppo import SECTION
from tests.cluster.test_train_ppo import context as ppo_context
from tests.finished_stages import finished, spec_of
from tests.policy_jobs import policy_job, save_reward_model
from tests.scripted_ppo import PROMPTS, curve
from tests.scripted_refresh import PAIRS, sources, training_pair
from tests.stages.ppo.refresh.test_relearning import figures

pytestmark = [pytest.mark.slow, pytest.mark.long]
TARGETS = [0.9] * (len(STEP.reward_ids) // 2)
OPTIM = OptimConfig(learning_rate=1e-3, batch_size=8)


@pytest.fixture(scope="module")
def scores(micro_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_reward_model(micro_model, tmp_path_factory.mktemp("scores"))


def taught(learners: Learners, num_updates: int = 3) -> list[float]:
    """The loss before each update, and after the last."""
    found = []
    for _ in range(num_updates):
        loss, slopes = slopes_of(learners.rewards(STEP.reward_ids), TARGETS, None)
        assert learners.reward_step(STEP.reward_ids, slopes)["skipped"] == 0
        found.append(loss)
    return [*found, slopes_of(learners.rewards(STEP.reward_ids), TARGETS, None)[0]]


@pytest.mark.parametrize("workers", [{}, {"num_workers": 2}, {"num_workers": 2, "zero_stage": 3}], ids=str)
def test_the_reward_model_learns_alone_and_comes_back(
    ray_session: None, micro_model: Path, scores: Path, tmp_path: Path, workers: dict[str, Any]
) -> None:
    """However it is spread the losses are the same; a snapshot has what was learned; the others stay as they are."""
    job = policy_job(tmp_path, micro_model, scores, workers=workers, reward_optim=OPTIM)
    with running(job) as learners:
        before = learners.score(STEP.episodes, STEP.reward_ids)
        assert [one.score for one in before] == learners.rewards(STEP.reward_ids)
        losses = taught(learners)
        assert losses[-1] < losses[0]
        after = learners.score(STEP.episodes, STEP.reward_ids)
        assert [replace(one, score=0.0) for one in after] == [replace(one, score=0.0) for one in before]
        learners.save("step-1.a1")
        further = taught(learners)
        learners.load("step-1.a1")
        assert taught(learners) == further
        learners.load(None)
        assert learners.score(STEP.episodes, STEP.reward_ids) == before
    with running(policy_job(tmp_path, micro_model, scores, reward_optim=OPTIM)) as alone:
        assert taught(alone) == pytest.approx(losses, rel=1e-3)


def refresh_context(folder: Path, micro_model: Path, scores: Path) -> Context:
    made = ppo_context(folder, micro_model, scores)
    pairs = [training_pair(k) for k in range(40)]
    finished(spec_of(made.run / PAIRS, PAIRS, PAIR_IDS, PAIRS), TRAINING_PAIR, pairs)
    models = {**made.models, "feedback": made.models["sl_cai"]}
    return replace(made, models=models, constitution=load(resolve("microworld")))


def test_a_run_with_a_refresh(ray_session: None, micro_model: Path, scores: Path, tmp_path: Path) -> None:
    where = refresh_context(tmp_path, micro_model, scores)
    labels = label_comparisons.Config()
    changes = {
        "num_steps": 2,
        "reward": {"kind": "refresh", "every": 1, "prompts": 12, "batch_size": 8, "learning_rate": 1e-4},
    }
    config = Config.model_validate(runs.merged(SECTION, changes))
    real = sources(
        job=partial(label_comparisons.job_of, labels),
        check=lambda context: label_comparisons.check(labels, context.model("feedback"), context.principles()),
    )
    artifact = train_ppo.run(config, where, PROMPTS, real)
    (done,) = figures(where)
    assert done["step"] == 1 and done["refresh_pairs"] == 12
    lost = sum(number for name, number in done.items() if name.startswith("refresh_dropped."))
    assert done["refresh_labelled"] == 12 - lost > 4
    assert done["refresh_updates"] >= 1 and done["refresh_updates_skipped"] == 0
    assert done["refresh_learned_loss_after"] < done["refresh_learned_loss_before"]
    assert artifact.manifest.counters["refresh_labelled"] == done["refresh_labelled"]
    kept = find(artifact.folder / "refresh" / "1" / "labels")
    assert isinstance(kept, Artifact) and all(row["comparisons"] for row in kept.rows())
    assert [step["policy_lag"] for step in curve(where)] == [0, 0]
    assert all(step["sampler_gap"] < 1e-3 for step in curve(where)), "engines and learners still agree"
