"""Talk about the revision in raw revisions of the micro world, three seeds, counted by the oracle.

Critiques and revisions are sampled at the paper's temperature, 1; cooler samples leak far less. Cleaning is off in
the run and applied afterwards, so that every leak is known before and after.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks import results_file
from benchmarks.recipes import microworld_recipe
from cai_ray.artifacts.artifact import Artifact
from cai_ray.engines.cluster import connected
from cai_ray.metrics.intervals import rate
from cai_ray.microworld.oracle import score
from cai_ray.microworld.pretrain import ensure_model
from cai_ray.pipeline import run as pipeline
from cai_ray.pipeline.steps import steps
from cai_ray.quality.cleaning import CleaningConfig, clean
from cai_ray.stages.revision.summary import answers

SEEDS = (0, 1, 2)
COMMON = (
    "revise.num_revisions=1",
    "revise.critique_sampling.temperature=1.0",
    "revise.revision_sampling.temperature=1.0",
    *(f"revise.cleaning.{rule}=false" for rule, on in CleaningConfig().model_dump().items() if on),
)
VARIANTS = {"told_not_to_comment": COMMON, "not_told": (*COMMON, "revise.prompts.no_meta=false")}


def leaks(artifact: Artifact) -> dict[str, Any]:
    """Meta-commentary in raw revisions before and after cleaning, and what cleaning does to the others.

    The oracle knows the openers that the language has, and not what a model makes of two of them: what cleaning changes
    in the other rows is kept word by word, to be read.
    """
    num_revisions = num_leaks = num_left = 0
    changed = []
    for row in artifact.rows(["messages", "initial_response", "revisions"]):
        for text in answers(row)[1:]:
            num_revisions += 1
            cleaned = clean(text, CleaningConfig()).text
            if score(row["messages"], text).has_meta:
                num_leaks += 1
                num_left += score(row["messages"], cleaned).has_meta
            elif cleaned != text:
                changed.append({"before": text, "after": cleaned})
    return {"revisions": num_revisions, "leaks": num_leaks, "left_after_cleaning": num_left, "others_changed": changed}


def one_run(name: str, seed: int, folder: Path) -> dict[str, Any]:
    recipe = microworld_recipe(folder, f"{name}-{seed}", ensure_model(seed=seed), seed, VARIANTS[name])
    return {"seed": seed, **leaks(pipeline.run(recipe, steps(recipe))[-1].artifact)}


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        recipe = microworld_recipe(Path(scratch), "cluster", ensure_model(seed=SEEDS[0]), 0)
        with connected(recipe.cluster):
            runs = {name: [one_run(name, seed, Path(scratch)) for seed in SEEDS] for name in VARIANTS}
    total = {
        name: {key: sum(run[key] for run in made) for key in ("revisions", "leaks", "left_after_cleaning")}
        for name, made in runs.items()
    }
    told, not_told = (rate(t["leaks"], t["revisions"]) for t in (total["told_not_to_comment"], total["not_told"]))
    if told is None or not_told is None:
        raise RuntimeError("no revisions were made")
    num_leaks = sum(t["leaks"] for t in total.values())
    num_left = sum(t["left_after_cleaning"] for t in total.values())
    figures = {
        "leak_rate": {
            "told_not_to_comment": told.model_dump(),
            "not_told": not_told.model_dump(),
            "ratio": not_told.value / max(told.value, 1 / told.n),
            "target": 3.0,
        },
        "cleaning": {
            "leaks": num_leaks,
            "removed_share": 1 - num_left / num_leaks if num_leaks else None,
            "target": 0.95,
            "others": sum(t["revisions"] for t in total.values()) - num_leaks,
            "others_changed": sum(len(run["others_changed"]) for made in runs.values() for run in made),
        },
        "per_seed": runs,
    }
    claim = "Being told not to comment cuts leaks at least threefold; cleaning removes the rest and harms no other row"
    results_file.write("meta_commentary", claim, figures, SEEDS)
    print(f"leak_rate: {figures['leak_rate']}\ncleaning: {figures['cleaning']}")


if __name__ == "__main__":
    main()
