"""PPO on the real model: 20 steps against a preference model of human choices, and episodes/s against TRL's.

The policy is that of `sft` and the preference model that of `preference_model`, seed 0 of each; both are trained first
where they are not. The speed is that of benchmarks/ppo_speed.py, sides in turn, TRL in an environment of its own.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks import ppo_speed, ppo_speed_work, results_file
from benchmarks.ppo_speed_work import BOTH, Case
from benchmarks.real_model import training
from benchmarks.real_model.recipe_run import conversations, finished_run
from cai_ray.artifacts.metrics_file import parse_metrics, read_metrics
from cai_ray.stages.ppo.summary import steps_of

NUM_STEPS = 20
EPISODES, MAX_TOKENS, MINIBATCH = 16, 64, 8
CURVES = ("score", "kl", "length", "entropy", "updates_skipped")
CASE = Case("smollm2_135m", 64, EPISODES, MINIBATCH, MAX_TOKENS, steps=4, warm_up=1, target=1.3, sides=BOTH, epochs=1)


def section(scale: float) -> dict[str, Any]:
    return {
        "ppo": {
            "model": "tuned",
            "preference_model": "people",
            "prompts": {"sources": [conversations(400)], "test_fraction": 0},
            "num_steps": max(1, round(NUM_STEPS * scale)),
            "prompts_per_step": EPISODES,
            "sampling": {"max_tokens": MAX_TOKENS},
            "optim": {"learning_rate": 2e-6, "batch_size": MINIBATCH, "epochs": 1},
            "value_learning_rate": 1e-5,
            "kl": {"coefficient": 0.05},
            "workers": {"zero_stage": 0, "threads": 2, "steps_per_checkpoint": 5},
        }
    }


def run(scale: float, folder: Path) -> None:
    """`scale`: of the steps, and of what the two models are trained on."""
    policy, scores = (training.model_of(kind, scale) for kind in ("sft", "preference_model"))
    done = finished_run("ppo", section(scale), others={"tuned": policy, "people": scores})
    steps = steps_of(parse_metrics(read_metrics(done / "train_ppo")))
    repeats = ppo_speed.REPEATS if scale >= 1 else 1
    with tempfile.TemporaryDirectory() as scratch:
        work = ppo_speed_work.write(CASE, Path(scratch), Path(policy), Path(scores))
        runs = ppo_speed.measure(CASE, BOTH, repeats, work)
    figures = {
        "scale": scale,
        "curves": {name: [round(step[name], 4) for step in steps if name in step] for name in CURVES},
        "num_steps": len(steps),
        **ppo_speed.figures_of(CASE, runs),
    }
    claim = "PPO of SmolLM2-135M-Instruct against a preference model of human choices; >= 1.3x TRL's episodes/s"
    results_file.write("real_ppo", claim, figures, [0], folder, "python -m benchmarks.real_model ppo")
