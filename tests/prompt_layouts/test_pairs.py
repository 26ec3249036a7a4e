"""Every layout of comparisons gives one conversation and two answers, or a reason why not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.chat import messages_to_transcript
from cai_ray.dropped import DropReason, DropRow
from cai_ray.errors import ConfigError
from cai_ray.prompt_layouts.files import read_records
from cai_ray.prompt_layouts.pairs import ParsedPair, bind_pair_columns, parse_pair
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
    return parse_pair(Fields(record, bind_pair_columns([record], columns)))


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
    with pytest.raises(ConfigError, match=r"pairs need a column 'chosen'.*'question'"):
        bind_pair_columns([record])
    with pytest.raises(ConfigError, match="no such column"):
        bind_pair_columns([record], {"chosen": "best"})
    with pytest.raises(ConfigError, match="no field 'winner'"):
        bind_pair_columns([record], {"winner": "better"})


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
