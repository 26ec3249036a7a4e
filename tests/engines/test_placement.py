"""Labels: what Ray is told, and which selector workers that start together get."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from cai_ray.config import Placement, ScalingConfig, WorkersConfig
from cai_ray.engines.placement import actor_options, first_with_room, matches
from cai_ray.fingerprint import settings
from cai_ray.stages.revision.revise import Config

SPOT_FIRST = {"labels": {"market": "spot"}, "fallback": [{"market": "on-demand"}, {}]}


def test_without_labels_ray_is_told_nothing() -> None:
    assert actor_options(ScalingConfig()) == {}
    assert actor_options(Placement(labels={"gpu": "in(A100,H100)"})) == {"label_selector": {"gpu": "in(A100,H100)"}}


def test_spot_first() -> None:
    assert actor_options(ScalingConfig.model_validate(SPOT_FIRST)) == {
        "label_selector": {"market": "spot"},
        "fallback_strategy": [{"label_selector": {"market": "on-demand"}}, {"label_selector": {}}],
    }


def test_where_a_stage_runs_is_in_no_fingerprint() -> None:
    assert settings(Config(scaling=ScalingConfig.model_validate(SPOT_FIRST))) == settings(Config())


@pytest.mark.parametrize(
    "value", ["spot", "!spot", "in(a,b)", "!in(a, b)", "a.b_c-d", "-x", "in()", "in(a", "a b", "=x"]
)
def test_a_selector_is_right_where_ray_says_so(value: str) -> None:
    from ray._private.label_utils import validate_label_selector

    try:
        Placement(labels={"ray.io/market": value})
    except ValidationError as error:
        assert validate_label_selector({"ray.io/market": value}) is not None, "Ray takes it"
        assert "write a value" in str(error)
    else:
        assert validate_label_selector({"ray.io/market": value}) is None, "Ray refuses it"


def test_a_fallback_needs_a_first_choice() -> None:
    with pytest.raises(ValidationError, match="move its first entry there"):
        WorkersConfig.model_validate({"fallback": [{"market": "spot"}]})


@pytest.mark.parametrize(
    ("value", "label", "expected"),
    [
        ("spot", "spot", True),
        ("spot", None, False),
        ("!spot", None, True),
        ("!spot", "spot", False),
        ("in(a,b)", "b", True),
        ("in(a, b)", "c", False),
        ("!in(a,b)", "c", True),
        ("!in(a,b)", "a", False),
    ],
)
def test_what_a_selector_takes(value: str, label: str | None, expected: bool) -> None:
    assert matches({"x": value}, {} if label is None else {"x": label}) is expected


def node(market: str, gpus: int, alive: bool = True) -> dict[str, Any]:
    return {"Alive": alive, "Labels": {"market": market}, "Resources": {"CPU": 8.0, "GPU": float(gpus)}}


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([node("spot", 8), node("on-demand", 8)], {"market": "spot"}),
        ([node("spot", 2), node("on-demand", 8)], {"market": "on-demand"}),
        ([node("spot", 8, alive=False), node("on-demand", 8)], {"market": "on-demand"}),
        ([node("spot", 2), node("on-demand", 2)], {}),
        ([node("spot", 2), node("spot", 2)], {"market": "spot"}),
        ([], {"market": "spot"}),
    ],
)
def test_workers_get_the_first_selector_whose_nodes_hold_them_all(
    nodes: list[dict[str, Any]], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    workers = WorkersConfig.model_validate(SPOT_FIRST)
    assert first_with_room(workers, [{"CPU": 1.0, "GPU": 1.0}] * 4) == expected
