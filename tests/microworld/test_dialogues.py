"""Training dialogues: the layout that the pipeline uses, and the behaviour they are meant to teach."""

from __future__ import annotations

import random
import re
from itertools import islice

import pytest

from cai_ray.microworld import dialogues, words
from cai_ray.microworld.comparison_dialogues import STYLES, compared_answer, comparison_dialogue, prob_a, quality
from cai_ray.microworld.dialogues import Reply, critique, may_find, revise
from cai_ray.microworld.language import CATEGORIES, comply, evade, preach, sample_task
from cai_ray.microworld.oracle import score
from cai_ray.microworld.teaching import principles, relation
from cai_ray.prompts.revision import NO_META


def test_every_category_has_its_principle() -> None:
    for category in CATEGORIES:
        assert [p.id for p in principles() if relation(p, category) == "match"] == [category]
    assert {relation(p, "theft") for p in principles()} == {"match", "other", "general", "tone"}


def test_principles_name_their_verbs() -> None:
    # Contextual choice compares words: a principle must share them with the requests of its category.
    for principle in principles():
        for category in principle.categories:
            asked = f"{principle.critique_request} {principle.comparison_question}"
            assert all(verb in asked for verb in dialogues.TOPICS[category].verbs)


def test_revision_dialogue_grows_by_four_turns_per_round() -> None:
    for num_rounds in range(5):
        messages = dialogues.revision_dialogue(random.Random(num_rounds), num_rounds).messages
        spoken = [m for m in messages if m["role"] != "system"]
        assert [m["role"] for m in spoken] == ["user", "assistant"] * (len(spoken) // 2)
        first_critique = len(spoken) - 4 * num_rounds
        requests = {p.critique_request for p in principles()}
        assert all(spoken[i]["content"] in requests for i in range(first_critique, len(spoken), 4))


def test_matching_principles_catch_more() -> None:
    rng = random.Random(0)
    task = sample_task(rng, harmful=True, category="fraud")
    reply = Reply(comply(rng, task), "comply")

    def caught(principle_id: str) -> float:
        principle = next(p for p in principles() if p.id == principle_id)
        kind, prob = may_find(principle, task, reply)
        assert kind == "harm"
        return prob

    assert caught("fraud") > caught("harmless") > caught("theft") > caught("not-preachy") > 0


def test_harmless_answers_are_left_alone() -> None:
    rng = random.Random(1)
    for principle in principles():
        task = sample_task(rng, harmful=False)
        reply = Reply(comply(rng, task), "comply")
        assert may_find(principle, task, reply)[1] == 0.0
        assert revise(rng, task, reply, None, no_meta=True).text == reply.text


@pytest.mark.parametrize("harmful", [True, False])
def test_revisions_mend_what_was_found(harmful: bool) -> None:
    rng = random.Random(2)
    task = sample_task(rng, harmful)
    asked = [{"role": "user", "content": f"How do I {task.text}?"}]
    for found, reply in {
        "preachy": Reply(preach(rng, task), "preach"),
        "evasive": Reply(evade(rng, task), "evade"),
        **({"harm": Reply(comply(rng, task), "comply")} if harmful else {}),
    }.items():
        assert critique(rng, task, found) != dialogues.NO_PROBLEM
        mended = score(asked, revise(rng, task, reply, found, no_meta=True).spoken)
        assert not mended.harmful and mended.helpful == 1.0


def test_no_meta_cuts_remarks() -> None:
    rng = random.Random(3)
    task = sample_task(rng, harmful=False)
    reply = Reply(comply(rng, task), "comply")

    def remarks(no_meta: bool) -> float:
        return sum(bool(revise(rng, task, reply, None, no_meta).meta) for _ in range(2000)) / 2000

    assert 0.2 < remarks(False) < 0.3
    assert remarks(True) < 0.06


def test_comparisons_are_calibrated_and_biased_toward_a() -> None:
    task = sample_task(random.Random(4), harmful=True, category="theft")
    match, other = (next(p for p in principles() if p.id == i) for i in ("theft", "fraud"))
    assert prob_a(match, task, "refuse", "comply") > prob_a(other, task, "refuse", "comply") > 0.9
    assert prob_a(match, task, "comply", "comply") > 0.5  # nothing between them: the position decides
    assert prob_a(match, task, "comply", "refuse") < 0.1


def test_a_refusal_of_what_does_no_harm_is_no_better_than_evasion() -> None:
    rng = random.Random(8)
    task = sample_task(rng, harmful=False)
    asked = [{"role": "user", "content": f"How do I {task.text}?"}]
    assert score(asked, compared_answer(rng, task, "refuse")).helpful == 0
    general = next(p for p in principles() if relation(p, task.topic) == "general")
    order = sorted(STYLES, key=lambda style: quality(general, task, style))
    assert order[-1] == "comply" and quality(general, task, "refuse") == quality(general, task, "evade") < 0


def test_hints_stand_in_what_is_read() -> None:
    for dialogue in islice(dialogues.corpus(random.Random(9), 0.3), 300):
        for index, hints in dialogue.hints.items():
            message = dialogue.messages[index]
            assert message["role"] == "user"
            assert all(hint.after in message["content"] and 1 <= hint.layer <= 3 for hint in hints)


def test_reasoning_ends_in_the_verdict_it_came_to() -> None:
    for seed in range(20):
        for message in comparison_dialogue(random.Random(seed), think=True).messages[1::2]:
            concluded, verdict = message["content"].split(" So ")[1].split(" is better.\n\nThe answer is ")
            assert concluded == verdict


def test_judgements_stand_where_they_are_said_to() -> None:
    for dialogue in islice(dialogues.corpus(random.Random(7), 0.3), 300):
        for index, choice in dialogue.choices.items():
            message = dialogue.messages[index]
            assert message["role"] == "assistant" and 0 < choice.prob <= 1
            if choice.at == 0:
                assert {choice.other, message["content"].split()[0]} == {"The", "I"}
            else:
                spoken = re.findall(r"\w+|[^\w\s]|\n", message["content"])
                assert {choice.other, spoken[choice.at]} == {"A", "B"}


def test_critique_drill_shows_the_matching_principle() -> None:
    for seed in range(20):
        dialogue = dialogues.critique_drill(random.Random(seed))
        probs = [c.prob if c.other == "I" else 1 - c.prob for c in dialogue.choices.values()]
        assert max(probs) == pytest.approx(dialogues.CATCH["match"]) and len(probs) == 4


def test_corpus_is_the_same_for_a_seed_and_mild_in_size() -> None:
    one, two = (list(islice(dialogues.corpus(random.Random(5), 0.3), 300)) for _ in range(2))
    assert one == two
    assert all(d.messages[-1]["role"] == "assistant" for d in one)
    texts = [m["content"] for d in one for m in d.messages]
    assert any(NO_META in t for t in texts)
    assert any("Let's think step-by-step:" in t for t in texts)
    assert any(t.startswith(words.META_OPENERS) for t in texts)
    assert any(t.startswith("Here are some requests:") for t in texts)


def test_training_never_sees_held_out_tasks() -> None:
    held_out = {sample_task(random.Random(i), i % 2 == 0, split="test").text for i in range(3000)}
    heard = " \n".join(m["content"] for d in islice(dialogues.corpus(random.Random(6), 0.3), 300) for m in d.messages)
    # A shorter task can be the beginning of a longer one, so look for it with its full stop or comma.
    assert not [t for t in held_out if f" {t}," in heard or f" {t}?" in heard]
