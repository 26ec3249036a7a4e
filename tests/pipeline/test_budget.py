"""Limits of a run and of its stages: which binds, what is left, and that they decide no result."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from cai_ray.artifacts.storage import Storage
from cai_ray.errors import ConfigError, LimitReached
from cai_ray.pipeline import run as pipeline
from cai_ray.pipeline.budget import allowance_of, ending_in_time
from cai_ray.pipeline.recipe import Recipe
from cai_ray.pipeline.steps import steps
from cai_ray.rows import ROW_ID
from cai_ray.stopping import hearing
from tests.artifacts.test_spending import COST, ROWS
from tests.finished_stages import finished, spec_of
from tests.small_recipes import SERVER, fields, recipe

PRICED = {"endpoint": {**SERVER["endpoint"], "price": {"prompt": 2.0, "output": 8.0}}}


def of_revise(made: Recipe) -> Any:
    all_steps = steps(made)
    (step,) = [one for one in all_steps if one.stage == "revise"]
    return allowance_of(made, step, all_steps, pipeline.folder_of(made))


def spend(made: Recipe, stage: str) -> None:
    finished(spec_of(pipeline.folder_of(made) / stage, stage, _ids()), ROWS, [{ROW_ID: "x"}], counters=COST)


def _ids() -> Any:
    from cai_ray.row_ids import SHOT_IDS

    return SHOT_IDS


def test_the_nearer_of_two_limits_binds(tmp_path: Path) -> None:
    data = fields(tmp_path)
    assert of_revise(recipe(data)) is None
    made = recipe(data, limits={"tokens": 1000}, revise={"limits": {"tokens": 400, "hours": 2.0}}, sft={})
    found = of_revise(made)
    assert (found.tokens, found.microdollars) == (400, None)
    assert found.until == pytest.approx(time.time() + 7200, abs=5)
    assert found.limits["tokens"] == "revise.limits.tokens=400"
    spend(made, "train_sft")  # of the run, though no stage before it
    assert of_revise(recipe(data, limits={"tokens": 150}, sft={})).tokens == 30


def test_a_limit_that_is_reached_begins_nothing_and_a_higher_one_goes_on(tmp_path: Path) -> None:
    data = {**fields(tmp_path), "models": {"policy": PRICED}}
    spend(recipe(data), "revise")
    with pytest.raises(LimitReached, match=r"revise\.limits\.tokens=120 is reached.*Raise it"):
        of_revise(recipe(data, revise={"limits": {"tokens": 120}}))
    with pytest.raises(LimitReached, match=r"^limits\.dollars=5e-06 is reached"):
        of_revise(recipe(data, limits={"dollars": 5e-6}))
    assert of_revise(recipe(data, limits={"dollars": 1.0})).microdollars == 999_993


def test_limits_and_prices_change_no_fingerprint(tmp_path: Path) -> None:
    def fingerprints(**changes: Any) -> dict[str, str]:
        made = recipe({**fields(tmp_path), **changes})
        return dict(pipeline.prepare(made, steps(made)).fingerprints)

    limited = fingerprints(models={"policy": PRICED}, limits={"dollars": 1}, revise={"limits": {"tokens": 5}})
    assert limited == fingerprints()


def test_dollars_need_a_price(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"revise\.limits\.dollars=2, and no server has a price; set models\.NAME"):
        recipe(fields(tmp_path), revise={"limits": {"dollars": 2}})


def test_a_training_ends_when_its_time_is_up(tmp_path: Path) -> None:
    made = recipe(fields(tmp_path), sft={"limits": {"hours": 0.1 / 3600}})
    (step,) = [one for one in steps(made) if one.stage == "train_sft"]
    allowance = allowance_of(made, step, steps(made), Storage(str(tmp_path)))
    with pytest.raises(LimitReached, match=r"sft\.limits\.hours"), hearing(), ending_in_time(step, allowance):
        time.sleep(5)
    with ending_in_time(step, None):
        pass
