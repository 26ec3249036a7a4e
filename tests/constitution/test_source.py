"""Constitution files: every mistake is found on its line, and what is written reads back the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.constitution.principles import (
    Constitution,
    ConstitutionError,
    FewShotComparison,
    FewShotRevision,
    Mistake,
    Principle,
)
from cai_ray.constitution.source import dump_yaml, explain, load, parse, resolve
from cai_ray.shelf import available

GOOD = """\
name: sample
version: "1"
principles:
  - id: kind
    critique_request: What is unkind?
    revision_request: Make it kind.
"""


def mistakes(text: str) -> list[Mistake]:
    with pytest.raises(ConstitutionError) as caught:
        parse(text)
    return list(caught.value.mistakes)


def test_a_good_file_loads(tmp_path: Path) -> None:
    path = tmp_path / "sample.yaml"
    path.write_text("\ufeff" + GOOD, encoding="utf-8")
    assert load(path).principles[0].critique_request == "What is unkind?"


@pytest.mark.parametrize(
    ("text", "line", "where", "rule", "fix"),
    [
        (GOOD + "    critique_reqest: x\n", 7, "principles[0].critique_reqest", "unknown key", "'critique_request'"),
        (GOOD + "    zzz: x\n", 7, "principles[0].zzz", "unknown key", "use one of id, "),
        (GOOD + "colour: red\n", 7, "colour", "unknown key", "name, version"),
        (GOOD + "few_shots: []\n", 7, "few_shots", "unknown key", "'few_shot'"),
        (GOOD + "  - id: kind\n    comparison_question: q\n", 7, "principles[1].id", "line 4", "rename"),
        (GOOD + "  - comparison_question: q\n", 7, "principles[1].id", "missing", "add `id:`"),
        (GOOD + "  - id: b\n", 7, "principles[1]", "serves revision", "add critique_request"),
        (GOOD + "  - id: b\n    critique_request: c\n", 7, "principles[1]", "needs a revision", "add"),
        (GOOD + "  - text\n", 7, "principles[1]", "mapping", "key: value"),
        (GOOD + "    id: other\n", 7, "principles[0].id", "already on line 4", "remove"),
        (GOOD + "    weight: -1\n", 7, "principles[0].weight", "above 0", "1.0"),
        (GOOD + "    weight: .inf\n", 7, "principles[0].weight", "finite", "1.0"),
        (GOOD + '    weight: "2"\n', 7, "principles[0].weight", "number", "quotes"),
        (GOOD + "    veto: maybe\n", 7, "principles[0].veto", "boolean", "correct"),
        (GOOD + "    veto: true\n", 4, "principles[0]", "a veto needs a question", "rubric_question"),
        (GOOD + "    rubric_question: ''\n", 7, "principles[0].rubric_question", "empty", "remove"),
        (GOOD + "    categories: theft\n", 7, "principles[0].categories", "list", "- ..."),
        (GOOD + "    comparison_question: ''\n", 7, "principles[0].comparison_question", "empty", "write"),
        (GOOD + "    comparison_question: 12\n", 7, "principles[0].comparison_question", "text", '"12"'),
        (GOOD + "    comparison_question: [a]\n", 7, "principles[0].comparison_question", "text", "one string"),
        (GOOD.replace("id: kind", "id: Be Kind!"), 4, "principles[0].id", "kebab-case", "'be-kind'"),
        (GOOD.replace('"1"', "1.0"), 2, "version", "text", '"1.0"'),
        (GOOD.replace("What is unkind?", ""), 5, "principles[0].critique_request", "has a value", "write"),
        ("name: x\nversion: '1'\nprinciples: []\n", 3, "principles", "at least one", "add"),
        ("name: x\nversion: '1'\n", 1, "principles", "missing", "add"),
        (GOOD + "  bad: [\n", 7, "", "YAML syntax", "indentation"),
        (GOOD + "\tx: 1\n", 7, "", "YAML syntax", "indentation"),
        (GOOD + "license: 2024-13-45\n", 7, "", "YAML syntax", ""),
        (GOOD + "license: !!python/name:os.system\n", 7, "", "YAML syntax", ""),
        (GOOD + "license: &a [*a]\n", 7, "", "YAML syntax", ""),
        (GOOD + "? [a]\n: b\n", 7, "", "plain text", ""),
        (GOOD + "---\nname: y\n", 7, "", "YAML syntax", ""),
        (GOOD + "license: '\x07'\n", 7, "", "control", "remove"),
        ("", 1, "", "mapping", "name"),
        ("- a\n", 1, "", "mapping", "name"),
    ],
)
def test_a_mistake_is_placed_and_explained(text: str, line: int, where: str, rule: str, fix: str) -> None:
    found = mistakes(text)
    assert any(m.line == line and m.where == where and rule in m.rule and fix in m.fix for m in found), found


def test_mistakes_deep_inside_examples_have_lines() -> None:
    text = GOOD + (
        "few_shot:\n  - messages:\n      - role: user\n        content: hi\n        tone: warm\n      - role: robot\n"
        "        content: x\n    response: r\nfew_shot_comparisons:\n  - messages: [{role: assistant, content: x}]\n"
        "    response_a: a\n    response_b: b\n    answer: C\n"
    )
    found = [(m.line, m.where, m.rule) for m in mistakes(text)]
    assert (11, "few_shot[0].messages[0].tone", "unknown key 'tone'") in found
    assert (12, "few_shot[0].messages[1].role", "must be 'user' or 'assistant'") in found
    assert (16, "few_shot_comparisons[0].messages", "an example conversation ends in a user turn") in found
    assert (19, "few_shot_comparisons[0].answer", "must be 'A' or 'B'") in found
    assert {where for _, where, _ in found} >= {"few_shot[0].critique", "few_shot[0].revision"}


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file() -> None:
    text = GOOD.replace("kind\n", "Kind\n", 1) + "    weight: 0\n    colour: x\n  - id: Kind\n  - id: c\n    id: d\n"
    found = mistakes(text)
    assert [m.line for m in found] == [4, 7, 8, 9, 9, 9, 10, 11]
    with pytest.raises(ConstitutionError) as caught:
        parse(text, "my.yaml")
    shown = explain(caught.value)
    assert shown.startswith("my.yaml: 8 mistakes\n") and shown.count("rule:") == shown.count("fix:") == 8
    assert "  line 7, principles[0].weight\n    value: 0\n    rule:  must be a finite number above 0" in shown


def test_anchors_and_merge_keys_work() -> None:
    text = GOOD + "  - &base\n    id: a\n    comparison_question: q\n  - <<: *base\n    id: b\n"
    assert [p.id for p in parse(text).principles] == ["kind", "a", "b"]
    assert parse(text).principle("b").comparison_question == "q"


def test_aliases_that_unfold_without_end_are_stopped() -> None:
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]\n" for i in range(1, 8))
    assert "unfolds" in mistakes("l0: &l0 [x]\n" + levels)[0].rule


def test_a_file_that_is_not_utf8_names_line_and_byte(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(GOOD.encode() + "license: für\n".encode("latin-1"))
    with pytest.raises(ConstitutionError) as caught:
        load(path)
    assert caught.value.mistakes[0].line == 7 and "0xfc" in caught.value.mistakes[0].rule


def test_resolve_finds_names_and_paths(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(GOOD)
    assert resolve(str(path)) == path
    assert resolve("harmlessness").name == "harmlessness.yaml"
    with pytest.raises(ConstitutionError, match=r"did you mean harmlessness.*plain-librarian"):
        resolve("harmlesness")
    with pytest.raises(ConstitutionError, match="no such file"):
        resolve("missing.yaml")
    with pytest.raises(ConstitutionError, match="cannot be read"):
        load(tmp_path)


# -------------------------------------------------------------------------------------------- the ones that come along


def test_the_constitutions_that_come_along_are_right_and_round_trip() -> None:
    assert {"harmlessness", "plain-librarian"} <= set(available("constitution"))
    for name, path in available("constitution").items():
        constitution = load(path)
        assert constitution.name == name
        assert parse(dump_yaml(constitution)) == constitution


def test_harmlessness_has_what_it_promises() -> None:
    constitution = load(resolve("harmlessness"))
    assert len(constitution.for_revision) == len(constitution.for_comparison) == 16
    assert {"not-preachy", "not-accusatory", "not-evasive"} <= {p.id for p in constitution.principles}
    assert all(p.categories for p in constitution.principles)
    assert len(constitution.few_shot) >= 3 and len(constitution.few_shot_comparisons) >= 2
    requests = {(p.critique_request, p.revision_request) for p in constitution.principles}
    assert all((e.critique_request, e.revision_request) in requests for e in constitution.few_shot)
    questions = {p.comparison_question for p in constitution.principles}
    assert all(e.question in questions for e in constitution.few_shot_comparisons)


# ------------------------------------------------------------------------------------------------------- round trip

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
lines = st.lists(st.sampled_from(["a", " ", "#", ": ", "- ", "'", '"', "\n", "\t", "word " * 30, "é"]), max_size=12)
texts = (words | lines.map("".join)).filter(lambda text: text.strip() != "")
turns = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": texts}), max_size=2)
conversations = turns.map(lambda before: (*before, {"role": "user", "content": "hi"}))
revisions = st.builds(
    FewShotRevision,
    messages=conversations,
    **dict.fromkeys(("response", "critique_request", "critique", "revision_request", "revision"), texts),
)
comparisons = st.builds(
    FewShotComparison,
    messages=conversations,
    response_a=texts,
    response_b=texts,
    question=st.none() | texts,
    answer=st.sampled_from(["A", "B"]),
    reasoning=st.none() | texts,
)
constitutions = st.builds(
    Constitution,
    name=st.sampled_from(["a", "null", "1e3", "0x1f", "true"]),
    version=texts,
    description=st.text(max_size=20),
    license=st.none() | st.text(max_size=5),
    principles=st.builds(
        Principle,
        id=st.sampled_from(["p", "no", "12"]),
        revision_request=texts,
        critique_request=st.none() | texts,
        comparison_question=st.none() | texts,
        rubric_question=st.none() | texts,
        categories=st.lists(texts, max_size=2),
        weight=st.floats(min_value=1e-6, max_value=1e300),
        few_shot=st.lists(revisions, max_size=1),
    ).map(lambda principle: (principle,)),
    few_shot=st.lists(revisions, max_size=1),
    few_shot_comparisons=st.lists(comparisons, max_size=1),
)


@given(constitutions)
def test_what_is_written_reads_back_the_same(constitution: Constitution) -> None:
    assert parse(dump_yaml(constitution)) == constitution


@given(st.text(st.sampled_from("abc:-#[]{}&*!|>'\"%@`\n\t ?,<"), max_size=60) | st.text(max_size=30))
def test_any_text_gives_a_constitution_or_a_constitution_error(text: str) -> None:
    for candidate in (text, GOOD + text, GOOD + "    comparison_question: " + text):
        try:
            parse(candidate)
        except ConstitutionError as error:
            assert error.mistakes and explain(error)
