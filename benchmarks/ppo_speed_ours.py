"""One run of our PPO stage on the work of `ppo_speed`: `python -m benchmarks.ppo_speed_ours WORK.json SIDE`.

Prints when each step ended, how long its answers were, and where its time went. The stage runs as it always does:
metrics, kept rows, a proof after every sync; only snapshots are left for the end, as TRL saves nothing either.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from cai_ray.artifacts.artifact import StageSpec
from cai_ray.artifacts.derived import Outcome, derive
from cai_ray.artifacts.metrics_file import parse_metrics, read_metrics
from cai_ray.artifacts.storage import Storage
from cai_ray.config import EngineConfig, ModelConfig
from cai_ray.engines.cluster import ClusterConfig
from cai_ray.row_ids import RESPONSES_IDS, prompt_id_of
from cai_ray.rows import PROMPT
from cai_ray.stages.context import Context
from cai_ray.stages.ppo import train_ppo
from cai_ray.stages.ppo.config import Config
from cai_ray.stages.ppo.summary import steps_of

PROMPTS = "load_prompts"
# Every core for whoever is at work: an engine of one thread on each, or the learner on all. To compare the modes, one
# core for the engine and one for the learner.
CORES = len(os.sched_getaffinity(0))
SIDES: dict[str, dict[str, Any]] = {
    "ours": {"workers": {"threads": CORES}, "rollouts": {"num_engines": CORES}},
    "on_policy": {"workers": {"threads": 1}},
    "asynchronous": {"workers": {"threads": 1}, "asynchronous": True},
}
TOKENS_PER_PASS = 1024  # what a core's cache holds of these models; less padding than with more, too


def config_of(work: dict[str, Any], side: str) -> Config:
    changes = SIDES[side]
    workers = {"steps_per_checkpoint": work["steps"], "tokens_per_pass": TOKENS_PER_PASS, **changes["workers"]}
    return Config.model_validate(
        {
            "num_steps": work["steps"],
            "prompts_per_step": work["episodes"],
            "sampling": {"max_tokens": work["max_tokens"]},
            "optim": {
                "learning_rate": work["learning_rate"],
                "batch_size": work["minibatch"],
                "epochs": work["epochs"],
            },
            "kl": {"coefficient": work["kl_coefficient"]},
            **changes,
            "workers": workers,
        }
    )


def context_of(work: dict[str, Any], folder: Path) -> Context:
    """A run whose prompts are loaded."""
    engine = EngineConfig(max_num_seqs=work["episodes"], cpu_threads=1, kv_cache_gib=1.0)
    context = Context(
        run=Storage(str(folder)),
        seed=work["seed"],
        models={
            "sl_cai": ModelConfig(path=work["policy"], engine=engine),
            "preference_model": ModelConfig(path=work["scores"]),
        },
        trained={},
        constitution=None,
        cluster=ClusterConfig(object_store_gib=0.5),
        fingerprints={train_ppo.STAGE: "speed"},
    )
    about = {"kind": "red_team", "source": "speed", "category": None, "split": "train", "license": None}
    rows = [
        {
            "prompt_id": prompt_id_of(prompt["messages"], "speed"),
            "messages": prompt["messages"],
            "source_row": f"speed:{number}",
            **about,
        }
        for number, prompt in enumerate(work["prompts"])
    ]
    spec = StageSpec(context.folder(PROMPTS), PROMPTS, "prompts", {}, {}, RESPONSES_IDS)
    derive(spec, [[Outcome(row["prompt_id"], row) for row in rows]], PROMPT)
    return context


def train(work: dict[str, Any], side: str, folder: Path) -> dict[str, Any]:
    context = context_of(work, folder)
    train_ppo.run(config_of(work, side), context, PROMPTS)
    steps = steps_of(parse_metrics(read_metrics(context.folder(train_ppo.STAGE))))
    idle = [step["step"] for step in steps if step.get("updates_skipped", 1)]
    if idle:
        raise SystemExit(f"steps {idle} were not learned from whole, so their time says nothing")
    phases = sorted(name for name in steps[-1] if name.endswith("_s") and name not in ("elapsed_s", "tokens_per_s"))
    return {
        "ends_s": [step["elapsed_s"] for step in steps],
        "lengths": [step["length"] for step in steps],
        "phases": {name: [step.get(name, 0.0) for step in steps] for name in phases if name != "episodes_per_s"},
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(train(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2], Path(scratch))))
