"""A plan against what was then measured, in the micro world with real engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai_ray.pipeline import run as pipeline
from cai_ray.pipeline.recipe import load
from cai_ray.pipeline.steps import steps
from cai_ray.planning.devices import hardware
from cai_ray.planning.plan import plan
from tests import runs

WITHIN = 0.15
ANSWERS = {"max_tokens": 64}


@pytest.mark.slow
@pytest.mark.long
def test_the_planned_tokens_are_those_that_are_measured(tmp_path: Path, micro_model: Path, ray_session: None) -> None:
    """The stages of the quickstart that ask a model, on fewer prompts. The policy answers in place of SL-CAI."""
    recipe = load(
        runs.write_recipe(
            tmp_path,
            "microworld",
            tmp_path / "unused.jsonl",
            prompts={"path": "microworld", "layout": "auto", "num_prompts": 64, "test_fraction": 0.25},
            revise={
                "num_revisions": 2,
                "answer_sampling": ANSWERS,
                "critique_sampling": {**ANSWERS, "temperature": 0.7},
                "revision_sampling": {**ANSWERS, "temperature": 0.4},
            },
            pairs={"model": "policy", "sampling": ANSWERS},
            labels={"principles_per_pair": 2},
            evaluate={"policies": ["policy"], "split": "all", "sampling": ANSWERS},
        )
    )
    planned = {stage.planned.stage: stage.planned for stage in plan(recipe, hardware(None)).stages}
    pipeline.run(recipe, steps(recipe))

    again = plan(recipe, hardware(None))
    for stage in again.stages:
        found = stage.measured
        assert found is not None, "a finished stage is shown as it was measured"
        expected = planned[stage.planned.stage]
        assert found.rows_out == pytest.approx(expected.rows_out, rel=WITHIN)
        for name in ("requests", "prompt_tokens", "cached_tokens", "output_tokens"):
            measured = getattr(found.used, name)
            # A few dozen tokens more or less in the cache are one block here or there.
            assert getattr(expected.used, name) == pytest.approx(measured, rel=WITHIN, abs=512), (
                f"{stage.planned.stage}: {name}"
            )
    assert again.problems == []
