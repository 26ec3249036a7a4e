"""Every layout of comparisons gives one conversation and two answers, or a reason why not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.chat import messages_to_transcript
from cai_ray.dropped import DropReason, DropRow
from cai_ray.errors import ConfigError
from cai_ray.prompt_layouts.examples import EXAMPLES
from cai_ray.prompt_layouts.files import read_records
from cai_ray.prompt_layouts.pairs import JUDGED, PAIRS, ParsedPair
from cai_ray.prompt_layouts.readings import Reading, bound_columns, read_by
from cai_ray.prompt_layouts.records import Fields
from tests.published import published

PROMPT = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "And now?"},
]
THIS, THAT = {"role": "assistant", "content": "This."}, {"role": "assistant", "content": "That."}
EXPECTED = ParsedPair(PROMPT, "This.", "That.")


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def parse(record: dict[str, Any], columns: dict[str, str | None] | None = None) -> ParsedPair:
    reading = JUDGED["chosen_rejected"]
    names = bound_columns("chosen_rejected", reading.required, reading.optional, list(record), columns or {})
    return reading.parse(Fields(record, names))


def read(folder: Path, records: list[Any], readings: Mapping[str, Reading[Any]] = PAIRS, **options: Any) -> list[Any]:
    """What a file of these records says, drops as their reasons."""
    file = folder / "set.jsonl"
    file.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in records))
    found = read_by(str(file), "auto", None, readings, options.get("layout", "auto"), options.get("columns", {}))
    return [(number, one.reason if isinstance(one, DropRow) else one) for number, one in found]


@pytest.mark.parametrize(
    "record",
    [
        {"chosen": messages_to_transcript([*PROMPT, THIS]), "rejected": messages_to_transcript([*PROMPT, THAT])},
        {"chosen": [*PROMPT, THIS], "rejected": [*PROMPT, THAT]},
        {"prompt": PROMPT, "chosen": [THIS], "rejected": [THAT]},
        {"prompt": PROMPT, "chosen": "This.", "rejected": " That. "},
        {"prompt": PROMPT, "chosen": [*PROMPT, THIS], "rejected": [*PROMPT, THAT]},
        {"prompt": messages_to_transcript(PROMPT) + "\n\nAssistant:", "chosen": " This.", "rejected": " That."},
    ],
    ids=["hh_rlhf", "implicit", "explicit", "explicit_text", "prompt_repeated", "prompt_transcript"],
)  # fmt: skip
def test_layouts(record: dict[str, Any]) -> None:
    assert parse(record) == EXPECTED


def test_a_prompt_of_plain_text() -> None:
    pair = parse({"prompt": "And now?", "chosen": "This.", "rejected": "That."})
    assert pair == ParsedPair([{"role": "user", "content": "And now?"}], "This.", "That.")


def test_the_split_is_at_the_common_prefix_not_at_the_last_answer() -> None:
    chosen, rejected = [*PROMPT, said("A"), PROMPT[2], said("This.")], [*PROMPT, said("B"), PROMPT[2], said("That.")]
    with pytest.raises(DropRow, match="3 turns, not one answer") as drop:
        parse({"chosen": chosen, "rejected": rejected})
    assert drop.value.reason is DropReason.MALFORMED


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"chosen": None, "rejected": "x"}, DropReason.NULL),
        ({"chosen": "no transcript", "rejected": "x"}, DropReason.MALFORMED),
        ({"chosen": [PROMPT[2], said("a")], "rejected": [PROMPT[0], said("a")]}, DropReason.MALFORMED),
        ({"prompt": "q", "chosen": 3, "rejected": "x"}, DropReason.NOT_TEXT),
        ({"prompt": "q", "chosen": None, "rejected": "x"}, DropReason.NULL),
        ({"prompt": " ", "chosen": "a", "rejected": "x"}, DropReason.EMPTY),
        ({"prompt": "q", "chosen": [], "rejected": "x"}, DropReason.EMPTY),
    ],
)
def test_no_pair(record: dict[str, Any], reason: DropReason) -> None:
    with pytest.raises(DropRow) as drop:
        parse(record)
    assert drop.value.reason is reason


def test_columns() -> None:
    record = {"question": "q", "better": "a", "worse": "b"}
    assert parse(record, {"prompt": "question", "chosen": "better", "rejected": "worse"}).chosen == "a"
    with pytest.raises(ConfigError, match=r"needs a column for 'chosen'.*'question'.*columns: {chosen: <column>}"):
        parse(record)
    with pytest.raises(ConfigError, match="no such column"):
        parse(record, {"chosen": "best"})
    with pytest.raises(ConfigError, match="no field 'winner'"):
        parse(record, {"winner": "better"})


Q = [{"role": "user", "content": "Q"}]


def test_ultrafeedback_gives_the_best_and_the_worst_answer(tmp_path: Path) -> None:
    rated = [
        {"response": "so-so", "fine-grained_score": 3.5, "overall_score": 10},
        {"response": "bad", "fine-grained_score": 1.25, "overall_score": 2.0},
        {"response": "good", "fine-grained_score": 4.75, "overall_score": 8.5},
        {"response": "unrated", "overall_score": "N/A"},
    ]
    same = [{"response": "one", "overall_score": 3}, {"response": "two", "overall_score": 3}]
    records = [
        {"instruction": "Q", "completions": rated},
        "{broken",
        {"instruction": "Q", "completions": rated[:1]},
        {"instruction": "Q", "completions": same},
    ]
    assert read(tmp_path, records) == [
        (0, ParsedPair(Q, "good", "bad")),
        (1, DropReason.MALFORMED),
        (2, DropReason.MALFORMED),
        (3, ParsedPair(Q, "one", "two", 0.5)),
    ]


def test_helpsteer_gathers_the_answers_of_a_prompt(tmp_path: Path) -> None:
    def rated(prompt: str, response: str, helpfulness: Any) -> dict[str, Any]:
        return {"prompt": prompt, "response": response, "helpfulness": helpfulness, "verbosity": 2}

    records = [
        *(rated("Q", text, number) for text, number in (("a", 1), ("b", 4), ("c", 2))),
        rated("Alone", "a", 3),
        "{broken",
        *(rated("Q", text, number) for text, number in (("x", 0), ("y", None), ("z", 2))),
    ]
    assert read(tmp_path, records) == [
        (0, ParsedPair(Q, "b", "a")),
        (3, DropReason.MALFORMED),
        (4, DropReason.MALFORMED),
        (5, ParsedPair(Q, "z", "x")),
    ]
    assert [one for _, one in read(tmp_path, records[:3], EXAMPLES)] == [[*Q, said("b")]]


def test_helpsteer_preferences_are_signed(tmp_path: Path) -> None:
    two = {"prompt": "Q", "response_1": "a", "response_2": "b"}
    three = {"context": [*PROMPT], "response1": "This.", "response2": "That.", "overall_preference": -2}
    found = read(tmp_path, [{**two, "preference_strength": strength} for strength in (-1, 3, 0, None)])
    assert [one for _, one in found] == [
        ParsedPair(Q, "a", "b"),
        ParsedPair(Q, "b", "a"),
        ParsedPair(Q, "a", "b", 0.5),
        DropReason.MALFORMED,
    ]
    assert read(tmp_path, [three]) == [(0, EXPECTED)]


def test_answers_without_a_verdict_are_pairs_to_label_and_no_preferences(tmp_path: Path) -> None:
    record = {"prompt": "Q", "response_a": "a", "response_b": "b"}
    assert read(tmp_path, [record]) == [(0, ParsedPair(Q, "a", "b", None))]
    with pytest.raises(ConfigError, match=r"set\.jsonl: layout chosen_rejected needs a column for 'chosen'.*helpsteer"):
        read(tmp_path, [record], JUDGED)


def test_cai_conversation_harmless(tmp_path: Path) -> None:
    sides = {"chosen": [*Q, said("kind")], "rejected": [*Q, said("rude")]}
    record = {"index": 1, "prompt": "Q", "init_response": "rude", "messages": [*Q, said("kind")], **sides}
    assert read(tmp_path, [record]) == [(0, ParsedPair(Q, "kind", "rude"))]
    assert read(tmp_path, [record], EXAMPLES) == [(0, [*Q, said("kind")])]


def test_probabilities_of_an_exported_label(tmp_path: Path) -> None:
    record = {"prompt": Q, "chosen": [said("a")], "rejected": [said("b")]}
    found = read(tmp_path, [{**record, "prob_chosen": prob} for prob in (0.75, 0.2)])
    assert [one for _, one in found] == [ParsedPair(Q, "a", "b", 0.75), DropReason.MALFORMED]


contents = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=20).map(
    lambda text: f"w {text.replace(':', '')} w".replace("\r", " ").replace("\n", " ")
)


@given(st.lists(contents, min_size=1, max_size=5).filter(lambda turns: len(turns) % 2 == 1), contents, contents)
def test_transcripts_round_trip(turns: list[str], chosen: str, rejected: str) -> None:
    import unicodedata

    turns, (chosen, rejected) = (
        [unicodedata.normalize("NFC", t) for t in turns],
        [unicodedata.normalize("NFC", t) for t in (chosen, rejected)],
    )
    prompt = [{"role": ("user", "assistant")[k % 2], "content": text} for k, text in enumerate(turns)]
    record = {
        "chosen": messages_to_transcript([*prompt, said(chosen)]),
        "rejected": messages_to_transcript([*prompt, said(rejected)]),
    }
    assert parse(record) == ParsedPair(prompt, chosen, rejected)


def test_the_real_hh_rlhf_test_file() -> None:
    """2,312 records, 71% of them multi-turn; in 5 the sides differ before the last answer, 4 have an empty answer."""
    pairs, dropped = [], []
    for _, record in read_records(str(published("hh_rlhf/harmless-base-test.jsonl.gz"))):
        assert isinstance(record, dict)
        try:
            pairs.append(parse(record))
        except DropRow as drop:
            dropped.append(drop.reason)
    assert dropped == [DropReason.MALFORMED] * 5
    assert len(pairs) == 2307
    assert sum(not (pair.chosen and pair.rejected) for pair in pairs) == 4
    assert sum(len(pair.messages) > 1 for pair in pairs) > 1600
