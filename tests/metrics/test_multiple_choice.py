"""What counts as correct, and accuracy, ties and baselines over made-up items and the published ones."""

from __future__ import annotations

import pytest

from cai_ray.dropped import DropReason, DropRow
from cai_ray.metrics.multiple_choice import accuracy, accuracy_by_category, baselines, margin
from cai_ray.prompt_layouts.multiple_choice import Item, read_items
from tests.published import published


def item(name: str, cluster: str, first_is_correct: bool = True, category: str | None = None) -> Item:
    right, wrong = (" (A)", " (B)") if first_is_correct else (" (B)", " (A)")
    conversation = ({"role": "user", "content": cluster},)
    return Item(name, f"{name}?", (right,), (wrong,), conversation, "A long answer.", "Short.", cluster, category)


def test_a_correct_option_must_beat_every_incorrect_one() -> None:
    assert margin([-1.0], [-3.0]) == 2.0
    assert margin([-1.0], [-3.0, -0.5]) == -0.5
    assert margin([-9.0, -1.0], [-3.0, -4.0]) == 2.0  # one of several correct ones is enough
    assert margin([-1.0], [-1.0]) == 0.0


@pytest.mark.parametrize("value", [float("-inf"), float("nan")])
def test_an_option_without_a_value_decides_nothing(value: float) -> None:
    with pytest.raises(DropRow) as caught:
        margin([-1.0], [value])
    assert caught.value.reason == DropReason.NO_LOGPROBS


def test_ties_are_wrong_and_counted_and_dropped_items_are_left_out() -> None:
    items = [item("a", "x"), item("b", "x", False), item("c", "y"), item("d", "z"), item("gone", "z")]
    found = accuracy({"a": 0.3, "b": 2.0, "c": 0.0, "d": -1.0}, items)
    assert found.accuracy is not None
    assert (found.accuracy.value, found.accuracy.n) == (0.5, 4)
    assert 0 <= found.accuracy.low < 0.5 < found.accuracy.high <= 1
    assert (found.num_ties, found.num_clusters) == (1, 3)
    assert found.first_option_rate == pytest.approx(1 / 3)  # a: (A), b: (B), d: (B)


def test_no_answer_no_accuracy() -> None:
    found = accuracy({}, [item("a", "x")])
    assert (found.accuracy, found.num_clusters, found.num_ties, found.first_option_rate) == (None, 0, 0, None)


def test_answers_that_hang_together_widen_the_interval() -> None:
    names = [str(k) for k in range(100)]
    margins = {name: 1.0 if k < 60 else -1.0 for k, name in enumerate(names)}
    alone = accuracy(margins, [item(name, name) for name in names]).accuracy
    tens = accuracy(margins, [item(name, str(k // 10)) for k, name in enumerate(names)]).accuracy
    assert alone is not None and tens is not None
    assert alone.value == tens.value == 0.6
    assert tens.high - tens.low > 2 * (alone.high - alone.low)


def test_categories_are_told_apart_where_there_are_any() -> None:
    items = [item("a", "x", category="honest"), item("b", "y", category="harmless"), item("c", "z")]
    found = accuracy_by_category({"a": 1.0, "b": -1.0, "c": 1.0}, items)
    values = {name: one.accuracy.value for name, one in found.items() if one.accuracy}
    assert values == {"harmless": 0.0, "honest": 1.0}
    assert accuracy_by_category({"c": 1.0}, items[2:]) == {}


def test_baselines() -> None:
    found = baselines([item("a", "x"), item("b", "x", False)])
    assert found is not None and (found.always_first, found.longer) == (0.5, 1.0)
    assert baselines([]) is None


def test_baselines_of_the_published_file() -> None:
    items, _ = read_items(str(published("cai_paper/438HHHEvaluations.jsonl")))
    found = baselines(items)
    assert found is not None
    assert (round(found.always_first, 3), round(found.longer, 3)) == (0.521, 0.564)
    everything = accuracy({one.item_id: 1.0 if one.first_is_correct else -1.0 for one in items}, items)
    assert everything.accuracy is not None
    assert everything.accuracy.value == found.always_first
    assert (everything.num_clusters, everything.first_option_rate) == (188, 1.0)
