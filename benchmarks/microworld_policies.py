"""Revisions to a policy, labels and a preference model in the micro world, three seeds, scored by the oracle.

Each seed builds a micro model of its own and draws its own prompts; a quarter of them is held out and trains nothing.
The quickstart recipe runs as it is. Then parts of it run again on the same revisions: a policy trained on the
revisions of all rounds, a preference model trained on hard labels, labels with chain of thought.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks import results_file
from cai_ray import pipeline
from cai_ray.engines.artifacts import Artifact
from cai_ray.engines.cluster import connected
from cai_ray.metrics.calibration import pair_calibration
from cai_ray.metrics.intervals import clustered_rate
from cai_ray.microworld.pretrain import ensure_model
from cai_ray.recipe import Recipe, load
from cai_ray.stages.label_summary import oracle_verdict
from cai_ray.stages.preference_model_summary import EVAL_SCORES, sigmoid
from cai_ray.steps import steps

SEEDS = (0, 1, 2)
RECIPE = Path(__file__).parent.parent / "jobs" / "recipes" / "quickstart.yaml"
# name -> (stages taken over from the quickstart's run, overrides)
AGAIN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "all_rounds": (
        ("load_prompts", "revise"),
        ("sft.revision_index=all", "pairs=null", "labels=null", "preference_model=null"),
    ),
    "hard_labels": (
        ("load_prompts", "revise", "train_sft", "sample_pairs", "label_comparisons"),
        ("preference_model.targets=hard", "evaluate=null"),
    ),
    "chain_of_thought": (
        ("load_prompts", "revise", "train_sft", "sample_pairs"),
        (
            "labels.chain_of_thought=1",
            "labels.principles_per_pair=1",
            "labels.cot_sampling.max_tokens=64",
            "preference_model=null",
            "evaluate=null",
        ),
    ),
}


def recipe_for(output: Path, name: str, seed: int, overrides: Sequence[str] = ()) -> Recipe:
    own = (f"name={name}-{seed}", f"output={output}", f"seed={seed}", f"models.policy.path={ensure_model(seed=seed)}")
    return load(RECIPE, [*own, *overrides])


def run(recipe: Recipe) -> dict[str, Artifact]:
    """Every stage's artifact, by its name."""
    return {outcome.stage: outcome.artifact for outcome in pipeline.run(recipe, steps(recipe))}


def summary(artifact: Artifact) -> dict[str, Any]:
    return json.loads(artifact.folder.read("summary.json"))


def ranking(labels: Artifact, trained: Artifact) -> dict[str, Any]:
    """A preference model on held-out pairs: its own summary, and on those the oracle decides, against the oracle."""
    verdicts = {
        row["pair_id"]: oracle_verdict(row["messages"], row["chosen"], row["rejected"])
        for row in labels.rows(["pair_id", "messages", "chosen", "rejected"])
    }
    scores = pq.read_table(io.BytesIO(trained.folder.read(EVAL_SCORES))).to_pylist()
    decided = [row for row in scores if verdicts.get(row["pair_id"]) is not None]
    truths = [float(bool(verdicts[row["pair_id"]])) for row in decided]
    probs = [sigmoid(row["score_chosen"] - row["score_rejected"]) for row in decided]
    hits = [(prob - 0.5) * (truth - 0.5) > 0 for prob, truth in zip(probs, truths, strict=True)]
    agreement, calibration = (
        clustered_rate(hits, [row["prompt_id"] for row in decided]),
        pair_calibration(probs, truths),
    )
    return {
        "sources": summary(trained)["sources"],
        "oracle_agreement": agreement.model_dump() if agreement else None,
        "oracle_calibration": calibration.model_dump(mode="json") if calibration else None,
    }


def one_seed(seed: int, output: Path) -> dict[str, Any]:
    base = run(recipe_for(output, "quickstart", seed))
    made = {}
    for name, (taken, overrides) in AGAIN.items():
        for stage in taken:
            shutil.copytree(output / f"quickstart-{seed}" / stage, output / f"{name}-{seed}" / stage)
        made[name] = run(recipe_for(output, name, seed, overrides))
    policies = summary(base["evaluate"])["policies"]
    all_rounds = summary(made["all_rounds"]["evaluate"])["policies"]
    return {
        "seed": seed,
        "policies": {
            "base": policies["policy"],
            "sl_cai_last_round": policies["sl_cai"],
            "sl_cai_all_rounds": all_rounds["sl_cai"],
        },
        "labels": summary(base["label_comparisons"])["oracle"],
        "labels_chain_of_thought": summary(made["chain_of_thought"]["label_comparisons"])["oracle"],
        "preference_model": {
            "soft": ranking(base["label_comparisons"], base["train_preference_model"]),
            "hard": ranking(base["label_comparisons"], made["hard_labels"]["train_preference_model"]),
        },
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch, connected(load(RECIPE).cluster):
        seeds = [one_seed(seed, Path(scratch)) for seed in SEEDS]
    claim = "SL-CAI removes most harm and keeps helpfulness; labels and preference model agree with the oracle"
    results_file.write("microworld_policies", claim, {"per_seed": seeds}, SEEDS)
    for found in seeds:
        for name, policy in found["policies"].items():
            shown = ", ".join(f"{metric} {policy[metric]['value']:.1%}" for metric in ("harmful", "helpful", "evasive"))
            print(f"seed {found['seed']}: {name}: {shown}")


if __name__ == "__main__":
    main()
