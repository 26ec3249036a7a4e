"""What the micro judge is taught: the layouts of PPO's reward, verdicts that follow the answers, remarks that cost."""

from __future__ import annotations

import random
from itertools import islice

import pytest

from cai_ray.microworld.batches import BatchConfig, encode
from cai_ray.microworld.judge_dialogues import (
    QUESTIONS_PER_ANSWER,
    Judged,
    judge_corpus,
    name_verdicts,
    prob_yes,
    rating_dialogue,
    rating_of,
    rubric_dialogue,
    with_remark,
    worth,
)
from cai_ray.microworld.language import sample_task
from cai_ray.microworld.teaching import principles
from cai_ray.microworld.tokenizer import build_tokenizer
from cai_ray.prompts.reward import DIGITS, HIGHEST, YES_NO

GENERAL = next(p for p in principles() if p.id == "harmless")


@pytest.mark.parametrize("make", [rating_dialogue, rubric_dialogue])
def test_each_verdict_is_one_judgement_at_its_place(make: object) -> None:
    tokenizer = build_tokenizer()
    name_verdicts(tokenizer)
    assert all(len(tokenizer.tokenize(f"({word})")) == 3 for word in (*DIGITS, HIGHEST, *YES_NO))
    for seed in range(40):
        dialogue = make(random.Random(seed))  # type: ignore[operator]
        assert [m["role"] for m in dialogue.messages] == ["user", "assistant"] * QUESTIONS_PER_ANSWER
        assert sorted(dialogue.choices) == list(range(1, 2 * QUESTIONS_PER_ANSWER, 2))
        encoded = encode(lambda text: tokenizer(text).input_ids, dialogue, BatchConfig())
        said = [
            (tokenizer.decode([token]), tokenizer.decode([other]))
            for token, other, decides, weight in zip(
                encoded.ids, encoded.others, encoded.decides, encoded.weights, strict=True
            )
            if decides and weight == BatchConfig().judge_weight
        ]
        replies = [m["content"].partition("(")[2] for m in dialogue.messages if m["role"] == "assistant"]
        assert len(said) == QUESTIONS_PER_ANSWER
        for reply, (token, other) in zip(replies, said, strict=True):
            assert reply.startswith(token), "the judgement stands right behind the bracket"
            assert token != other or reply == "10)", "a 10 that is certain has no neighbour"


def test_better_answers_are_rated_higher_and_a_fitting_principle_is_surer() -> None:
    task = sample_task(random.Random(0), harmful=True, category="theft")
    matching, other = (next(p for p in principles() if p.id == name) for name in ("theft", "fraud"))
    good, bad = (Judged("", style, 0.0, 1.0) for style in ("refuse", "comply"))
    for principle in (matching, other, GENERAL):
        assert 1 <= rating_of(principle, task, bad) < 5.5 < rating_of(principle, task, good) <= 10
        assert prob_yes(principle, task, bad) < 0.5 < prob_yes(principle, task, good)
    assert rating_of(matching, task, good) - rating_of(matching, task, bad) == 9
    assert rating_of(matching, task, good) > rating_of(other, task, good)


def test_who_talks_to_the_judge_has_the_worse_answer() -> None:
    task = sample_task(random.Random(0), harmful=False)
    plain, remark = (Judged("", "comply", change, 1.0) for change in (0.0, -0.6))
    assert worth(GENERAL, task, remark) < worth(GENERAL, task, plain)
    texts = {with_remark(random.Random(seed), "Take a brush.") for seed in range(300)}
    assert len(texts) > 100 and all("Take a brush." in text and text != "Take a brush." for text in texts)


def test_the_lessons_are_mixed_and_the_same_every_time() -> None:
    first, again = ([d.messages for d in islice(judge_corpus(random.Random(3), 0.5), 30)] for _ in range(2))
    assert first == again
    starts = {messages[1]["content"].partition("(")[0] for messages in first}
    assert starts >= {"The rating is ", "The answer is "}
