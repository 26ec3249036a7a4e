"""Principles, constitutions and draws: what can be built, what a draw depends on, and how it is spread."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import chisquare

from cai_ray.constitution.draw import PrincipleChoice, check_choice, draw
from cai_ray.constitution.principles import Constitution, ConstitutionError, FewShotRevision, Principle


def make(num: int = 8, **fields: object) -> Constitution:
    principles = tuple(
        Principle(id=f"p{i}", critique_request=f"c{i}", revision_request=f"r{i}", weight=float(i + 1))
        for i in range(num)
    )
    return Constitution(**{"name": "sample", "version": "1", "principles": principles, **fields})


def ids(
    constitution: Constitution, choice: PrincipleChoice, row_id: str, num_rounds: int = 4, **more: object
) -> list[str]:
    return [p.id for p in draw(constitution, choice, run_seed=7, row_id=row_id, num_rounds=num_rounds, **more)]


# ----------------------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"id": "p"}, "serves revision"),
        ({"id": "p", "critique_request": "c"}, "revision_request"),
        ({"id": "p", "critique_request": "c", "comparison_question": "q"}, "revision_request"),
        ({"id": "P one", "comparison_question": "q"}, "pattern"),
        ({"id": "p", "comparison_question": " \n"}, "at least 1"),
        ({"id": "p", "comparison_question": "q", "weight": 0.0}, "greater than 0"),
        ({"id": "p", "comparison_question": "q", "weight": float("inf")}, "finite"),
        ({"id": "p", "comparison_question": "q", "colour": 1}, "Extra"),
    ],
)
def test_a_principle_that_cannot_be_used_is_refused(fields: dict, word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        Principle(**fields)


def test_a_principle_serves_what_it_has_texts_for() -> None:
    direct = Principle(id="direct", revision_request="r")
    question = Principle(id="question", comparison_question="q")
    both = Principle(id="both", critique_request="c", revision_request="r", comparison_question="q")
    constitution = make(principles=(direct, question, both))
    assert [p.id for p in constitution.for_revision] == ["direct", "both"]
    assert [p.id for p in constitution.for_comparison] == ["question", "both"]


def test_surrounding_white_space_of_a_text_is_not_significant() -> None:
    assert Principle(id="p", comparison_question="  Which?\n").comparison_question == "Which?"


def test_ids_are_unique() -> None:
    principle = Principle(id="p", comparison_question="q")
    with pytest.raises(ValidationError, match="unique"):
        make(principles=(principle, principle))


def test_an_example_conversation_ends_in_a_user_turn() -> None:
    texts = dict.fromkeys(("response", "critique_request", "critique", "revision_request", "revision"), "x")
    with pytest.raises(ValidationError, match="ends in a user turn"):
        FewShotRevision(messages=[{"role": "assistant", "content": "hi"}], **texts)


def test_the_fingerprint_follows_what_can_change_a_prompt_and_nothing_else() -> None:
    assert make().fingerprint == make(description="other words", license="MIT").fingerprint
    assert make().fingerprint != make(7).fingerprint
    judged = {"id": "a", "rubric_question": "Is it kind?"}
    alone, veto = (
        Constitution(name="a", version="1", principles=(Principle(**{**judged, "veto": is_one}),))  # type: ignore[arg-type]
        for is_one in (False, True)
    )
    assert alone.fingerprint != veto.fingerprint and alone.for_rubric and not alone.for_comparison
    assert make().fingerprint == "ec5f7b07eb2a6eb8d35e2fa89f50ecbf"  # the same on every machine and in every process


def test_an_unknown_id_names_the_nearest() -> None:
    with pytest.raises(ConstitutionError, match=r"'p33'.*use p3"):
        make().principle("p33")
    with pytest.raises(ConstitutionError):
        make().only(["p1", "nope"])


def test_a_choice_of_principles_knows_nothing_of_the_others() -> None:
    whole = make()
    before = whole.fingerprint, whole.for_revision, whole.for_comparison  # cached from here on
    chosen = whole.only(["p3", "p1", "p3"])
    assert [p.id for p in chosen.principles] == ["p3", "p1"]
    assert chosen.fingerprint != before[0] and len(chosen.for_revision) == 2 < len(before[1])


# ------------------------------------------------------------------------------------------------------------ draws

similarities = st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0]), min_size=8, max_size=8)
choices = st.builds(
    PrincipleChoice,
    method=st.sampled_from(["random", "weighted", "contextual", "round_robin"]),
    replacement=st.booleans(),
    top_k=st.integers(1, 10),
    temperature=st.sampled_from([0.0, 0.01, 0.1, 1.0]),
)


@given(choice=choices, row_id=st.text(), sims=similarities, short=st.integers(0, 8), long=st.integers(0, 8))
def test_a_draw_depends_on_its_address_alone(choice, row_id, sims, short, long) -> None:
    constitution = make()
    few, many = (ids(constitution, choice, row_id, n, similarities=sims) for n in sorted((short, long)))
    random.seed(row_id)  # neither the ambient generator nor the number of rounds plays a part
    assert few == ids(make(), choice, row_id, len(few), similarities=sims) == many[: len(few)]


@given(choice=choices, row_id=st.text(), sims=similarities)
def test_without_replacement_nothing_repeats(choice, row_id, sims) -> None:
    choice = choice.model_copy(update={"replacement": False})
    assert len(set(ids(make(), choice, row_id, 8, similarities=sims))) == 8


@given(choice=choices, row_id=st.text(), sims=similarities, num_rounds=st.integers(1, 8))
def test_contextual_draws_from_the_top_k_first(choice, row_id, sims, num_rounds) -> None:
    choice = choice.model_copy(update={"method": "contextual"})
    drawn = [int(i[1:]) for i in ids(make(), choice, row_id, num_rounds, similarities=sims)]
    least = sorted(sims, reverse=True)[min(choice.top_k, 8) - 1]
    within = num_rounds if choice.replacement else min(num_rounds, choice.top_k)
    assert all(sims[i] >= least for i in drawn[:within])
    if choice.temperature == 0.0:
        assert sims[drawn[0]] == max(sims)


def test_rows_can_be_drawn_in_any_order() -> None:
    rows = [f"row{i}" for i in range(50)]
    choice = PrincipleChoice(replacement=False)
    forwards = {row: ids(make(), choice, row) for row in rows}
    assert forwards == {row: ids(make(), choice, row) for row in reversed(rows)}


def counts(choice: PrincipleChoice, num_rows: int = 2000, num_rounds: int = 2, **more: object) -> list[int]:
    constitution = make()
    drawn = Counter(i for row in range(num_rows) for i in ids(constitution, choice, f"row{row}", num_rounds, **more))
    return [drawn[p.id] for p in constitution.principles]


@pytest.mark.parametrize("method", ["random", "round_robin"])
@pytest.mark.parametrize("replacement", [True, False])
def test_random_and_round_robin_are_even(method: str, replacement: bool) -> None:
    assert chisquare(counts(PrincipleChoice(method=method, replacement=replacement))).pvalue > 1e-4


def test_weighted_follows_the_weights() -> None:
    got = counts(PrincipleChoice(method="weighted"))
    assert chisquare(got, [sum(got) * (i + 1) / 36 for i in range(8)]).pvalue > 1e-4


def test_contextual_temperature_goes_from_the_nearest_to_even() -> None:
    sims = [0.5, 0.4, 0.3, 0.2, 0.1, 0.0, 0.0, 0.0]
    cold = counts(PrincipleChoice(method="contextual", temperature=0.0), similarities=sims)
    warm = counts(PrincipleChoice(method="contextual", temperature=0.1), similarities=sims)
    hot = counts(PrincipleChoice(method="contextual", temperature=1000.0), similarities=sims)
    assert cold == [4000, 0, 0, 0, 0, 0, 0, 0]
    assert warm[0] > 2 * warm[1] > 0 and warm[4:] == [0, 0, 0, 0]
    assert chisquare(hot[:4]).pvalue > 1e-4


def test_a_prompt_that_matches_nothing_is_drawn_evenly() -> None:
    got = counts(PrincipleChoice(method="contextual", top_k=2, temperature=0.0), similarities=[0.0] * 8, num_rounds=1)
    assert chisquare(got).pvalue > 1e-4


def test_comparison_draws_come_from_the_comparison_questions() -> None:
    constitution = make(principles=(*make(2).principles, Principle(id="q", comparison_question="q")))
    assert ids(constitution, PrincipleChoice(), "row", 3, use="comparison") == ["q", "q", "q"]


def test_draws_that_cannot_be_made_are_refused_beforehand() -> None:
    with pytest.raises(ConstitutionError, match=r"rounds is 9: without replacement .* revision \(8\)"):
        check_choice(make(), PrincipleChoice(replacement=False), 9)
    with pytest.raises(ConstitutionError, match="comparison_question"):
        check_choice(make(), PrincipleChoice(), 1, use="comparison")
    with pytest.raises(ValueError, match="8 similarities, one per principle, got 2"):
        ids(make(), PrincipleChoice(method="contextual"), "row", similarities=[0.1, 0.2])
