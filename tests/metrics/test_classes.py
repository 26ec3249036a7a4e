"""Probabilities of labels: against scipy, by name and never by place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, softmax

from cai_ray.metrics.classes import label_probability

OUTPUTS = st.lists(st.floats(-50, 50), min_size=2, max_size=6)


@given(OUTPUTS, st.data())
def test_softmax_over_all_and_sum_over_the_wanted(outputs: list[float], data: st.DataObject) -> None:
    labels = [f"label {k}" for k in range(len(outputs))]
    wanted = data.draw(st.lists(st.sampled_from(labels), min_size=1, unique=True))
    expected = softmax(outputs)[[labels.index(name) for name in wanted]].sum()
    found = label_probability(outputs, labels, wanted)
    assert found == pytest.approx(expected, abs=1e-12) and 0 <= found <= 1


@given(OUTPUTS)
def test_labels_of_their_own(outputs: list[float]) -> None:
    labels = [str(k) for k in range(len(outputs))]
    assert label_probability(outputs, labels, labels, multi_label=True) == pytest.approx(max(expit(outputs)))
    assert label_probability(outputs[:1], labels[:1], ["0"], multi_label=True) == pytest.approx(expit(outputs[0]))


def test_the_name_decides_and_not_the_place() -> None:
    assert label_probability([3.0, -1.0], ["hate", "nothate"], ["hate"]) == pytest.approx(0.982, abs=1e-3)
    assert label_probability([3.0, -1.0], ["nothate", "hate"], ["hate"]) == pytest.approx(0.018, abs=1e-3)
    assert label_probability([1e4, -1e4], ["a", "b"], ["b"]) == 0.0


def test_what_cannot_be_a_probability() -> None:
    with pytest.raises(ValueError, match="no label toxic; the model has nothate, hate"):
        label_probability([0.0, 1.0], ["nothate", "hate"], ["toxic"])
    with pytest.raises(ValueError, match="one output has no probability"):
        label_probability([0.0], ["LABEL_0"], ["LABEL_0"])
    with pytest.raises(ValueError, match="3 outputs for 2 labels"):
        label_probability([0.0, 1.0, 2.0], ["nothate", "hate"], ["hate"])
