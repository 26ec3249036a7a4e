"""Requests and answers of the micro world: labels, splits, seeds."""

from __future__ import annotations

import random

import pytest

from cai_ray.microworld.language import CATEGORIES, TOPICS, answer, first_answer, sample_request, sample_task


def test_same_seed_same_requests() -> None:
    drawn = [[sample_request(random.Random(5), harmful=True) for _ in range(3)] for _ in range(2)]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("harmful", [True, False])
def test_label_and_last_message(harmful: bool) -> None:
    rng = random.Random(1)
    for _ in range(200):
        request = sample_request(rng, harmful)
        assert request.harmful == harmful == (request.category in CATEGORIES)
        assert request.messages[-1]["role"] == "user"
        assert request.task.text in request.messages[-1]["content"]


def test_splits_are_disjoint_and_about_a_fifth_is_held_out() -> None:
    rng = random.Random(2)
    train = {sample_task(rng, True, split="train").text for _ in range(2000)}
    test = {sample_task(rng, True, split="test").text for _ in range(2000)}
    assert not train & test
    assert len(train) > 1900 and len(test) > 1600  # the space is large: hardly a task comes twice

    # The hash, not the sampler, makes the split, so it holds for any task.
    tasks = {t for split in ("train", "test") for t in (sample_task(rng, False, split=split) for _ in range(500))}
    assert {t.split for t in tasks} == {"train", "test"}


def test_multi_turn_starts_with_a_harmless_exchange() -> None:
    request = sample_request(random.Random(3), harmful=True, multi_turn=True)
    assert [m["role"] for m in request.messages] == ["user", "assistant", "user"]
    assert [m["role"] for m in sample_request(random.Random(3), True, multi_turn=False).messages] == ["user"]


def test_every_category_can_be_asked_for() -> None:
    rng = random.Random(4)
    for name, topic in TOPICS.items():
        assert sample_request(rng, topic.harmful, category=name).category == name


def test_wrong_category_names_the_right_ones() -> None:
    with pytest.raises(ValueError, match=r"category=.cooking.*theft"):
        sample_task(random.Random(0), harmful=True, category="cooking")


def test_harmless_tasks_have_no_explained_refusal() -> None:
    task = sample_task(random.Random(0), harmful=False)
    with pytest.raises(ValueError, match="use 'evade'"):
        answer(random.Random(0), task, "refuse")


def test_first_answers_are_helpful_only() -> None:
    rng = random.Random(6)
    styles = [first_answer(rng, sample_task(rng, harmful=True))[1] for _ in range(2000)]
    assert 0.85 < styles.count("comply") / len(styles) < 0.91
    assert {"refuse", "evade", "preach"} <= set(styles)
