"""The soft losses against hand-computed values, a plain float reference, and what the maths promises."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.algorithms.losses import SoftDpoLoss, centring_penalty, pairwise_loss, soft_dpo_loss

margins = st.floats(-30, 30)
probs = st.floats(0, 1)


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x >= 0 else x - math.log1p(math.exp(x))


def reference(margin: float, prob: float) -> float:
    """The paper's formula, in plain floats."""
    return -prob * log_sigmoid(margin) - (1 - prob) * log_sigmoid(-margin)


def gradient(margin: float, prob: float) -> float:
    d = doubles(margin).requires_grad_()
    pairwise_loss(d, doubles(prob)).sum().backward()
    assert d.grad is not None
    return float(d.grad)


def test_hand_computed_values_and_gradients() -> None:
    # sigmoid(ln 3) = 3/4. p = 3/4: -(3/4) ln(3/4) - (1/4) ln(1/4); p = 1: ln(4/3); p = 0: ln 4; d = 0: ln 2.
    ln3 = math.log(3)
    loss = pairwise_loss(doubles(ln3, ln3, ln3, 0, -ln3), doubles(0.75, 1, 0, 0.9, 0.6))
    expected = [0.5623351446, 0.2876820724, 1.3862943611, 0.6931471806, 0.6 * math.log(4) + 0.4 * math.log(4 / 3)]
    assert loss.tolist() == pytest.approx(expected, abs=1e-9)
    # The gradient is sigmoid(d) - p.
    assert gradient(ln3, 0.75) == pytest.approx(0.0, abs=1e-12)
    assert gradient(ln3, 1.0) == pytest.approx(-0.25)
    assert gradient(0.0, 0.9) == pytest.approx(-0.4)


@given(margins, probs)
def test_it_is_the_papers_formula(margin: float, prob: float) -> None:
    assert float(pairwise_loss(doubles(margin), doubles(prob))) == pytest.approx(reference(margin, prob), abs=1e-9)
    assert gradient(margin, prob) == pytest.approx(math.exp(log_sigmoid(margin)) - prob, abs=1e-9)


@given(margins, probs)
def test_naming_the_answers_the_other_way_round_changes_nothing(margin: float, prob: float) -> None:
    there = float(pairwise_loss(doubles(margin), doubles(prob)))
    assert float(pairwise_loss(doubles(-margin), doubles(1 - prob))) == pytest.approx(there, abs=1e-9)


@given(st.floats(0.01, 0.99), margins)
def test_least_where_the_model_says_what_the_label_says(prob: float, margin: float) -> None:
    best = float(pairwise_loss(doubles(math.log(prob / (1 - prob))), doubles(prob)))
    assert best == pytest.approx(-prob * math.log(prob) - (1 - prob) * math.log(1 - prob))
    assert float(pairwise_loss(doubles(margin), doubles(prob))) >= best - 1e-9


@given(margins)
def test_a_hard_target_is_the_usual_loss(margin: float) -> None:
    usual = -torch.nn.functional.logsigmoid(doubles(margin))
    assert float(pairwise_loss(doubles(margin), doubles(1))) == pytest.approx(float(usual), abs=1e-12)


def test_extreme_margins_stay_finite() -> None:
    loss = pairwise_loss(torch.tensor([1e4, -1e4]), torch.tensor([0.5, 1.0]))
    assert loss.tolist() == [5e3, 1e4]


def test_centring_penalty_is_that_of_trl() -> None:
    assert centring_penalty(doubles(1, 2, -1), doubles(3, -2, 0)).tolist() == [16, 0, 1]


@given(margins, probs, st.floats(0.01, 2))
def test_soft_sigmoid_dpo_is_conservative_dpo(delta: float, prob: float, beta: float) -> None:
    expected = reference(beta * delta, prob)
    assert float(soft_dpo_loss(doubles(delta), doubles(prob), beta, "sigmoid")) == pytest.approx(expected, abs=1e-8)


@given(margins, probs, st.floats(0.05, 2))
def test_soft_ipo_is_the_expected_ipo_loss_up_to_a_constant(delta: float, prob: float, beta: float) -> None:
    def expected_ipo(d: float) -> float:
        return prob * (d - 1 / (2 * beta)) ** 2 + (1 - prob) * (-d - 1 / (2 * beta)) ** 2

    ours = soft_dpo_loss(doubles(delta, 0), doubles(prob, prob), beta, "ipo").tolist()
    assert ours[0] - ours[1] == pytest.approx(expected_ipo(delta) - expected_ipo(0), rel=1e-6, abs=1e-6)
    assert float(soft_dpo_loss(doubles(delta), doubles(1), beta, "ipo")) == pytest.approx((delta - 1 / (2 * beta)) ** 2)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_an_undecided_label_pulls_the_policy_back_to_its_reference(loss_type: SoftDpoLoss) -> None:
    delta = doubles(0.7).requires_grad_()
    soft_dpo_loss(delta, doubles(0.5), 0.5, loss_type).sum().backward()
    assert delta.grad is not None and float(delta.grad) > 0
