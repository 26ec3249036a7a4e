from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.algorithms.guards import CollapseConfig, GuardConfig, GuardState, Verdict, judge_rollouts, judge_update

HEALTHY = {"loss": 0.1, "grad_norm": 1.0, "outliers": 0.001, "kl": 0.05}
WRITING = (0.6, 2.0, 30.0)  # distinct-n, entropy, length
LIMITS = GuardConfig(max_grad_norm=50.0, max_kl=20.0, max_skips=2, collapse=CollapseConfig(window=2))


@pytest.mark.parametrize(
    ("measured", "reason"),
    [
        ({"loss": math.nan}, "loss=nan is not finite"),
        ({"grad_norm": math.inf}, "grad_norm=inf is not finite"),
        ({"kl": math.nan}, "kl=nan is not finite"),
        ({"grad_norm": 51.0}, "above max_grad_norm=50"),
        ({"outliers": 0.02}, "2.00% of the tokens changed more than max_ratio=100-fold"),
        ({"kl": 1.5}, "1.5 nats per token in one step, above max_update_kl=1"),
    ],
)
def test_bad_updates_are_skipped_then_stop_with_the_reason(measured: dict[str, float], reason: str) -> None:
    state = GuardState()
    actions = []
    for _ in range(3):
        verdict, state = judge_update(state, LIMITS, **{**HEALTHY, **measured})
        actions.append(verdict.action)
        assert reason in verdict.reason
    assert actions == ["skip", "skip", "stop"]
    assert "3 bad updates in a row, max_skips=2" in verdict.reason


def test_a_healthy_update_ends_the_count() -> None:
    state = GuardState()
    for _ in range(5):
        for measured in ({"loss": math.nan}, {"loss": math.nan}, {}):
            verdict, state = judge_update(state, LIMITS, **{**HEALTHY, **measured})
            assert verdict.action == ("skip" if measured else "go")
    assert verdict == Verdict("go", "")


@pytest.mark.parametrize(
    ("measured", "reason"),
    [
        ({"kl": 21.0}, "21 nats per answer, above max_kl=20"),
        ({"kl": math.nan}, "kl=nan"),
        ({"logprobs_finite": False, "kl": math.nan}, "a token's log-probability is not finite"),
        ({"scores_finite": False}, "a score or value is not finite"),
        ({"writing": (0.5, math.nan, 3.0)}, "entropy=nan"),
    ],
)
def test_bad_rollouts_are_skipped_then_stop_with_the_reason(measured: dict[str, Any], reason: str) -> None:
    state = GuardState()
    actions = []
    for _ in range(3):
        arguments: dict[str, Any] = {"kl": 1.0, "writing": WRITING, **measured}
        verdict, state = judge_rollouts(state, LIMITS, **arguments)
        actions.append(verdict.action)
        assert reason in verdict.reason
    assert actions == ["skip", "skip", "stop"] and "3 bad steps in a row" in verdict.reason


def test_updates_and_steps_are_counted_apart() -> None:
    _, state = judge_update(GuardState(), LIMITS, **{**HEALTHY, "loss": math.nan})
    _, state = judge_rollouts(state, LIMITS, kl=1.0, writing=WRITING)
    assert (state.skipped_updates, state.skipped_steps) == (1, 0)


def run(steps: list[tuple[float, float, float]], collapse: CollapseConfig) -> list[Verdict]:
    state, verdicts = GuardState(), []
    for writing in steps:
        verdict, state = judge_rollouts(state, GuardConfig(max_skips=1, collapse=collapse), kl=1.0, writing=writing)
        verdicts.append(verdict)
        assert GuardState.model_validate_json(state.model_dump_json()) == state
        assert len(state.recent) <= collapse.window
    return verdicts


def test_a_policy_that_repeats_one_short_phrase_is_stopped_and_told_why() -> None:
    verdicts = run([WRITING] * 6 + [(0.05, 0.1, 30.0)] * 4, CollapseConfig(window=3))
    actions = [verdict.action for verdict in verdicts]
    assert actions[:7] == ["go"] * 7  # one odd step in a window of three is no collapse yet
    assert "stop" in actions
    reason = verdicts[actions.index("stop")].reason
    assert "distinct-n fell from 0.6" in reason and "entropy fell from 2" in reason and "KL coefficient" in reason


@pytest.mark.parametrize(
    "changed", [(0.05, 2.0, 30.0), (0.6, 0.1, 30.0), (0.6, 2.0, 300.0), (0.6, 2.0, 3.0), (0.9, 4.0, 60.0)]
)
def test_one_sign_alone_is_no_collapse_unless_asked(changed: tuple[float, float, float]) -> None:
    steps = [WRITING] * 4 + [changed] * 8
    assert {verdict.action for verdict in run(steps, CollapseConfig(window=2))} == {"go"}
    strict = {verdict.action for verdict in run(steps, CollapseConfig(window=2, num_signs=1))}
    assert ("stop" in strict) == (changed != (0.9, 4.0, 60.0))


@given(steps=st.lists(st.tuples(st.floats(0.4, 0.6), st.floats(1, 2), st.floats(20, 40)), max_size=12))
def test_ordinary_noise_never_stops_a_run(steps: list[tuple[float, float, float]]) -> None:
    assert {verdict.action for verdict in run(steps, CollapseConfig(window=2, num_signs=1))} <= {"go"}


def test_limits_can_be_switched_off() -> None:
    off = GuardConfig(max_outliers=1.0, max_update_kl=None, collapse=None)
    verdict, _ = judge_update(GuardState(), off, **{**HEALTHY, "outliers": 1.0, "kl": 1e9, "grad_norm": 1e9})
    assert verdict.action == "go"
    verdict, state = judge_rollouts(GuardState(), off, kl=1e9, writing=(0.0, 0.0, 0.0))
    assert verdict.action == "go" and state == GuardState()


def test_a_stopped_guard_stays_stopped_while_the_policy_is_sick() -> None:
    state = GuardState(skipped_steps=2)
    for _ in range(2):
        verdict, state = judge_rollouts(state, LIMITS, kl=99.0, writing=WRITING)
        assert verdict.action == "stop"
