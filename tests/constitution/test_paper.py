"""The import of the paper's files, on a made-up set of the same layout and, where they lie, on the real ones."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from cai_ray.constitution.paper import import_paper
from cai_ray.constitution.principles import ConstitutionError
from cai_ray.constitution.source import dump_yaml, parse
from tests.published import published

LAYOUT = Path(__file__).parent / "paper_layout"


def test_every_part_of_the_layout_is_read() -> None:
    constitution = import_paper(LAYOUT)
    assert [p.id for p in constitution.for_revision] == ["kind0", "kind1"]
    assert [p.id for p in constitution.for_comparison] == ["comparison0", "comparison1", "comparison2"]
    assert constitution.principle("kind0").critique_request == "Say what is unkind in the last answer."
    assert constitution.principle("kind0").revision_request == "Make the answer kind."
    assert constitution.principle("comparison0").comparison_question == "Please choose the kinder answer."

    first, second = constitution.few_shot
    assert [m.content for m in first.messages] == ["Hello.", "Hello, what is it?", "Who ate my cake?"]
    assert first.response == "Your brother, I bet.\n\nHe always does."
    assert (first.critique, first.revision) == (
        "It blames someone without knowing.",
        "I don't know. You could ask around.",
    )
    assert second.revision == "I can't see the time from here, sorry."

    plain, swapped, cot = constitution.few_shot_comparisons
    assert (plain.answer, plain.response_a) == ("A", "Better not; others are waiting.")
    assert (swapped.answer, swapped.response_b) == ("B", "It suits you if you like it.")
    assert [m.content for m in cot.messages] == ["My plant is sad.", "Oh dear. Is it dry?", "Yes."]
    assert (cot.response_a, cot.response_b) == ("Water it a little,\n\nthen wait.", "Throw it out.")
    assert (cot.answer, cot.reasoning) == ("A", "(B) gives up too soon.\n\nOption (A) helps.")
    assert parse(dump_yaml(constitution)) == constitution


def test_only_the_instructions_are_needed(tmp_path: Path) -> None:
    shutil.copy(LAYOUT / "CritiqueRevisionInstructions.json", tmp_path)
    constitution = import_paper(tmp_path)
    assert len(constitution.principles) == 2 and not constitution.few_shot and not constitution.few_shot_comparisons


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("CritiqueRevisionInstructions.json", None, "no such file"),
        ("CritiqueRevisionInstructions.json", "{", "line 1: the file must be JSON"),
        ("CritiqueRevisionInstructions.json", "[]", "must be a JSON object"),
        ("CritiqueRevisionInstructions.json", {"a": {"prompt": "x"}}, r'a is .* must have "prompt" \(a list'),
        (
            "CritiqueRevisionInstructions.json",
            {"a": {"prompt": ["x"], "edit_request": "y"}},
            "between 'CritiqueRequest:'",
        ),
        ("CritiqueRevisionInstructions.json", {}, "at least one"),
        (
            "CritiqueRevisionFewShotPrompts.json",
            ["\n\nHuman: a\n\nAssistant: b"],
            r"\[0\].*then Assistant, CritiqueRequest",
        ),
        ("CritiqueRevisionFewShotPrompts.json", ["hello"], "starts with a turn's label"),
        ("CritiqueRevisionFewShotPrompts.json", {}, "must be a JSON list"),
        ("RLMadisonInstructions.json", ["Which?"], "'Options:'"),
        ("RLMadisonInstructions.json", [" Options:"], r"\[0\].comparison_question"),
        ("RLMadisonFewShotPrompts.json", [{"prompt": "x"}], '"corrects"'),
        ("RLMadisonPrecogFewShotPrompts.json", [{"prompt": "x"}], "reasoning"),
    ],
)
def test_a_file_of_another_layout_is_named_with_its_entry(
    tmp_path: Path, file: str, content: object, message: str
) -> None:
    for path in LAYOUT.iterdir():
        shutil.copy(path, tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ConstitutionError, match=message):
        import_paper(tmp_path)


def test_the_papers_own_files_import_whole() -> None:
    constitution = import_paper(published("cai_paper"))
    assert (len(constitution.for_revision), len(constitution.for_comparison)) == (16, 16)
    assert (len(constitution.few_shot), len(constitution.few_shot_comparisons)) == (5, 11)
    assert sum(c.reasoning is not None for c in constitution.few_shot_comparisons) == 6
    labels = re.compile(r"CritiqueRequest:|RevisionRequest:|Critique:|Revision:|Options:|\[\[\[|\]\]\]|\n\nHuman:")
    assert labels.search(constitution.model_dump_json()) is None
    assert parse(dump_yaml(constitution)) == constitution
