"""The plan of the quickstart against what the finished quickstart measured: tokens of every stage that asks a model.

Runs the quickstart first where it is not finished; a finished one (`make quickstart`) is read and not run again.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import results_file
from cai_ray.pipeline import run as pipeline
from cai_ray.pipeline.recipe import load
from cai_ray.pipeline.steps import steps
from cai_ray.planning.devices import hardware
from cai_ray.planning.plan import plan
from cai_ray.planning.stand_in_engine import Usages

RECIPE = Path(__file__).resolve().parent.parent / "jobs" / "recipes" / "quickstart.yaml"
WITHIN = 0.15


def compared(planned: Usages, measured: Usages) -> dict[str, Any]:
    """Both, and how far the plan is off, as a share of what was measured; prompt and output tokens together."""
    tokens = [one.prompt_tokens + one.output_tokens for one in (planned, measured)]
    return {
        "planned": {name: round(value) for name, value in asdict(planned).items()},
        "measured": {name: round(value) for name, value in asdict(measured).items()},
        "off_by": round(tokens[0] / tokens[1] - 1, 4),
    }


def main() -> None:
    recipe = load(RECIPE)
    pipeline.run(recipe, steps(recipe))
    predicted = {stage.planned.stage: stage.planned for stage in plan(recipe, hardware(None), False).stages}
    found = {
        stage.planned.stage: compared(predicted[stage.planned.stage].used, stage.measured.used)
        for stage in plan(recipe, hardware(None)).stages
        if stage.measured is not None and stage.measured.used.prompt_tokens
    }
    worst = max(abs(one["off_by"]) for one in found.values())
    figures = {"worst_stage": {"off_by": worst, "target": WITHIN, "met": worst <= WITHIN}, "stages": found}
    claim = "plan predicts the tokens of every stage of the quickstart within 15%, before anything is started"
    results_file.write("plan_tokens", claim, figures, [recipe.seed])
    for name, one in found.items():
        print(f"{name}: off by {one['off_by']:+.1%}")


if __name__ == "__main__":
    main()
