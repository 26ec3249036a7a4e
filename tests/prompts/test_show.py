"""What `constitution show` prints is what a model gets."""

from __future__ import annotations

import pytest

from cai_ray.constitution.principles import Constitution, ConstitutionError, Principle
from cai_ray.constitution.source import load, resolve
from cai_ray.prompts.revision import NO_META, RevisionPrompts
from cai_ray.prompts.show import render_show, render_summary


def test_every_prompt_of_a_principle_is_shown_in_full() -> None:
    constitution = load(resolve("harmlessness"))
    principle = constitution.principle("privacy")
    prompts = RevisionPrompts(num_few_shot=1, critique_system="You judge answers.")
    text = render_show(constitution, [{"role": "user", "content": "one\ntwo"}], prompts, ["privacy"], 1)
    for title in ("answer: 1", "critique: 10", "revision: 11", "comparison: 4", "comparison, chain of thought: 4"):
        assert f"--- {title} messages" in text
    assert "[user]\n  one\n  two\n" in text and "[system]\n  You judge answers.\n" in text
    assert f"[critique_request]\n  {principle.critique_request}\n" in text
    assert f"[revision_request]\n  {principle.revision_request} {NO_META}\n" in text
    assert f"  {principle.comparison_question}\n  Reply with (A) or (B).\n[assistant]\n  The answer is (\n" in text
    assert constitution.few_shot[0].revision in text
    assert "\nviolence\n" not in text


def test_a_principle_is_shown_in_the_uses_it_has() -> None:
    principles = (Principle(id="direct", revision_request="r"), Principle(id="question", comparison_question="q"))
    constitution = Constitution(name="c", version="1", principles=principles)
    text = render_show(constitution)
    assert text.count("--- revision:") == text.count("--- comparison:") == 1 and "--- critique:" not in text
    assert text.count("--- rating:") == text.count("--- rubric:") == 1
    vetoes = Constitution(
        name="v", version="1", principles=(Principle(id="safe", rubric_question="Is it safe?", veto=True),)
    )
    text = render_show(vetoes)
    assert "weight 1, veto" in text and "Is it safe?\n  Reply with Yes or No." in text and "--- rating:" not in text
    assert "2 principles (1 for revision, 1 for comparison)" in render_summary(constitution)


def test_an_unknown_principle_is_an_error() -> None:
    with pytest.raises(ConstitutionError, match=r"privcy.*privacy"):
        render_show(load(resolve("harmlessness")), principle_ids=["privcy"])
