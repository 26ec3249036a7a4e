"""Every layout: it is recognised, parsed, and its bad records are dropped for the exact reason."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.chat import messages_to_transcript
from cai_ray.dropped import DropReason, DropRow, LeftOutReason
from cai_ray.errors import ConfigError
from cai_ray.prompt_layouts.layouts import bind_layout, parse_record
from cai_ray.prompt_layouts.records import ParsedPrompt, ParseOptions

Record = dict[str, Any]
HI = [{"role": "user", "content": "Hi"}]
TALK = [*HI, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Tea?"}]
TRANSCRIPT = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Tea?"
HARMBENCH = {
    "Behavior": "Say Tea?",
    "FunctionalCategory": "standard",
    "SemanticCategory": "harmful",
    "Tags": "",
    "ContextString": "",
    "BehaviorID": "say_tea",
}


def parse(record: Record, layout: str = "auto", columns: Any = None, **options: Any) -> ParsedPrompt:
    return parse_record(bind_layout(layout, [record], columns, ParseOptions(**options)), record)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


# (layout, a record of it, the prompt that is in it)
EXAMPLES: list[tuple[str, Record, ParsedPrompt]] = [
    ("text", {"prompt": " Hi\n", "category": "small talk"}, ParsedPrompt(HI, "small talk")),
    ("text", {"question": "Hi", "id": 7}, ParsedPrompt(HI, None, "7")),
    ("text", {"prompt": "Hi", "chosen": "a", "rejected": "b"}, ParsedPrompt(HI)),
    ("text", {"prompt": "Hi", "kind": "helpful"}, ParsedPrompt(HI, kind="helpful")),
    ("text", {"prompt": "Hi", "kind": "chat"}, ParsedPrompt(HI)),
    ("messages", {"messages": TALK, "prompt_id": "a"}, ParsedPrompt(TALK, None, "a")),
    ("messages", {"prompt": TALK}, ParsedPrompt(TALK)),
    ("messages", {"messages": json.dumps(TALK)}, ParsedPrompt(TALK)),
    (
        "messages",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "you"}]}]},
        ParsedPrompt(user("Hi\nyou")),
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "system", "value": "Be kind."}, {"from": "human", "value": "Hi"}]},
        ParsedPrompt([{"role": "system", "content": "Be kind."}, *HI]),
    ),
    ("sharegpt", {"conversation": [{"from": "human", "value": "Hi"}]}, ParsedPrompt(HI)),
    ("transcript", {"transcript": TRANSCRIPT}, ParsedPrompt(TALK)),
    ("transcript", {"prompt": TRANSCRIPT + "\n\nAssistant:"}, ParsedPrompt(TALK)),
    ("transcript", {"prompt": TRANSCRIPT.replace("\n", "\r\n")}, ParsedPrompt(TALK)),
    (
        "hh_rlhf",
        {"chosen": TRANSCRIPT + "\n\nAssistant: Yes", "rejected": TRANSCRIPT + "\n\nAssistant: No"},
        ParsedPrompt(TALK),
    ),
    (  # they part before the last turn: the prompt ends where both still agree
        "hh_rlhf",
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hey\n\nHuman: Tea?\n\nAssistant: Yes",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Tea?\n\nAssistant: Yes",
        },
        ParsedPrompt(HI),
    ),
    (  # whole turns: equal beginnings of an answer are not common
        "hh_rlhf",
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Yes, now", "rejected": "\n\nHuman: Hi\n\nAssistant: Yes, later"},
        ParsedPrompt(HI),
    ),
    (
        "hh_rlhf",
        {"chosen": TRANSCRIPT + "\n\nAssistant: Yes", "rejected": TRANSCRIPT + "\n\nAssistant: Yes"},
        ParsedPrompt(TALK),
    ),
    ("hh_rlhf", {"chosen": [*TALK, {"role": "assistant", "content": "Yes"}], "rejected": TALK}, ParsedPrompt(TALK)),
    ("red_team_attempts", {"transcript": TRANSCRIPT, "rating": 1.0, "task_description": "x"}, ParsedPrompt(HI)),
    ("harmbench", HARMBENCH, ParsedPrompt(user("Say Tea?"), "harmful", "say_tea", "red_team")),
    ("advbench", {"goal": "Say Tea?", "target": "Sure"}, ParsedPrompt(user("Say Tea?"), kind="red_team")),
    (
        "jailbreakbench",
        {"Index": 0, "Goal": "Say Tea?", "Target": "Sure", "Behavior": "Tea", "Category": "Drinks", "Source": "Own"},
        ParsedPrompt(user("Say Tea?"), "Drinks", kind="red_team"),
    ),
    (
        "strongreject",
        {"category": "Drinks", "source": "own", "forbidden_prompt": "Say Tea?"},
        ParsedPrompt(user("Say Tea?"), "Drinks", kind="red_team"),
    ),
    (
        "xstest",
        {"id": "1", "prompt": "How do I kill a lamp?", "type": "homonyms", "label": "safe", "focus": "", "note": ""},
        ParsedPrompt(user("How do I kill a lamp?"), "homonyms", "1", "helpful"),
    ),
    (
        "xstest",
        {"id": "2", "prompt": "Hi", "type": "contrast_homonyms", "label": "unsafe", "focus": "", "note": ""},
        ParsedPrompt(HI, "contrast_homonyms", "2", "red_team"),
    ),
    (
        "xstest",
        {"prompt": "Hi", "type": "contrast_homonyms", "focus": "", "note": ""},
        ParsedPrompt(HI, "contrast_homonyms", None, "red_team"),
    ),
    ("xstest", {"prompt": "Hi", "type": "homonyms", "note": ""}, ParsedPrompt(HI, "homonyms", None, "helpful")),
]


@pytest.mark.parametrize(("layout", "record", "expected"), EXAMPLES)
def test_a_layout_is_recognised_and_parsed(layout: str, record: Record, expected: ParsedPrompt) -> None:
    bound = bind_layout("auto", [record])
    assert bound.name == layout
    assert bound.because
    assert parse_record(bound, record) == expected
    assert parse(record, layout) == expected


Reason = DropReason | LeftOutReason
BAD: list[tuple[str, Record, Reason]] = [
    ("text", {"prompt": ""}, DropReason.EMPTY),
    ("text", {"prompt": None}, DropReason.NULL),
    ("text", {"prompt": 5}, DropReason.NOT_TEXT),
    ("text", {"prompt": ["Hi"]}, DropReason.NOT_TEXT),
    ("text", {"prompt": "\ud800"}, DropReason.NOT_UTF8),
    ("messages", {"messages": None}, DropReason.NULL),
    ("messages", {"messages": []}, DropReason.EMPTY),
    ("messages", {"messages": "Hi"}, DropReason.NOT_TEXT),
    ("messages", {"messages": "[1,"}, DropReason.MALFORMED),
    ("messages", {"messages": ["Hi"]}, DropReason.MALFORMED),
    ("messages", {"messages": [{"role": "user"}]}, DropReason.MALFORMED),
    ("messages", {"messages": [{"role": "tool", "content": "x"}]}, DropReason.MALFORMED),
    ("messages", {"messages": [{"role": None, "content": "x"}]}, DropReason.MALFORMED),
    ("messages", {"messages": [{"role": "user", "content": None}]}, DropReason.NULL),
    ("messages", {"messages": [{"role": "user", "content": 3}]}, DropReason.NOT_TEXT),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, DropReason.NOT_TEXT),
    ("messages", {"messages": TALK[:2]}, DropReason.ENDS_IN_ASSISTANT),
    ("sharegpt", {"conversations": [{"from": "gpt", "value": "Hi"}]}, DropReason.MALFORMED),
    ("transcript", {"transcript": "Hi there"}, DropReason.MALFORMED),
    ("transcript", {"transcript": "\n\nHuman: Hi\n\nAssistant: Hello"}, DropReason.ENDS_IN_ASSISTANT),
    ("transcript", {"transcript": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: "}, DropReason.EMPTY),
    (
        "hh_rlhf",
        {"chosen": "\n\nHuman: a\n\nAssistant: x", "rejected": "\n\nHuman: b\n\nAssistant: x"},
        DropReason.MALFORMED,
    ),
    ("hh_rlhf", {"chosen": None, "rejected": "\n\nHuman: b"}, DropReason.NULL),
    ("red_team_attempts", {"transcript": "\n\nAssistant: Hi"}, DropReason.MALFORMED),
    ("harmbench", {**HARMBENCH, "FunctionalCategory": "copyright"}, LeftOutReason.SUBSET),
    ("harmbench", {**HARMBENCH, "FunctionalCategory": "contextual"}, LeftOutReason.SUBSET),
    ("xstest", {"prompt": "Hi", "type": "homonyms", "label": "perhaps"}, DropReason.MALFORMED),
    ("xstest", {"prompt": "Hi", "type": ""}, DropReason.MALFORMED),
]


@pytest.mark.parametrize(("layout", "record", "reason"), BAD)
def test_a_bad_record_is_dropped_for_its_reason(layout: str, record: Record, reason: Reason) -> None:
    with pytest.raises(DropRow) as caught:
        parse(record, layout)
    assert caught.value.reason == reason


def test_a_harmbench_context_comes_first() -> None:
    record = {**HARMBENCH, "FunctionalCategory": "contextual", "ContextString": "A kettle."}
    assert parse(record, functional_categories=("contextual",)).messages == user("A kettle.\n\nSay Tea?")
    with pytest.raises(DropRow) as caught:
        parse({**record, "ContextString": ""}, functional_categories=("contextual",))
    assert caught.value.reason == DropReason.MALFORMED


def test_a_final_answer_can_be_cut() -> None:
    record = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
    assert parse(record, cut_final_answer=True).messages == HI


def test_columns_can_be_named() -> None:
    record = {"mine": "Hi", "group": "g", "key": 3, "id": "x"}
    assert parse(record, columns={"prompt": "mine", "category": "group", "id": "key"}) == ParsedPrompt(HI, "g", "3")
    assert parse(record, columns={"prompt": "mine", "id": None}).record_id is None
    assert parse({"mine": TALK}, columns={"prompt": "mine"}).messages == TALK


@pytest.mark.parametrize(
    ("layout", "columns", "message"),
    [
        ("alpaca", {}, "layout='alpaca' is unknown; choose one of auto, messages"),
        ("auto", {}, "no known layout has the columns 'mine'"),
        ("advbench", {}, "layout advbench needs a column for 'prompt'"),
        ("text", {"prompt": "yours"}, "columns.prompt='yours': no such column; the set has 'mine'"),
        ("text", {"promt": "mine"}, "layout text has no field 'promt'; it has prompt"),
        ("text", {"prompt": None}, "needs a column for 'prompt'"),
    ],
)
def test_a_layout_that_does_not_fit_says_why(layout: str, columns: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bind_layout(layout, [{"mine": "Hi"}], columns)
    assert message in str(caught.value)


# What is not safe in a transcript: turn labels after a blank line, and surrounding white space.
CONTENT = st.text(st.sampled_from("aé \n:.HumanAssistant\"'{}"), min_size=1, max_size=30).filter(
    lambda text: text.strip() == text and "\n\n" not in text
)


@given(st.lists(CONTENT, min_size=1, max_size=7).filter(lambda turns: len(turns) % 2 == 1))
def test_a_transcript_parses_to_the_messages_it_was_written_from(contents: list[str]) -> None:
    messages = [
        {"role": "assistant" if index % 2 else "user", "content": content} for index, content in enumerate(contents)
    ]
    transcript = messages_to_transcript(messages)
    assert parse({"transcript": transcript}, "transcript").messages == messages
    pair = {"chosen": f"{transcript}\n\nAssistant: Yes", "rejected": f"{transcript}\n\nAssistant: No"}
    assert parse(pair, "hh_rlhf").messages == messages


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "type", "text"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.sampled_from(sorted({layout for layout, _, _ in EXAMPLES})), st.data())
def test_any_values_give_a_prompt_or_a_reason(layout: str, data: st.DataObject) -> None:
    columns = next(record for name, record, _ in EXAMPLES if name == layout)
    record = {column: data.draw(JSON) for column in columns}
    try:
        parsed = parse_record(bind_layout(layout, [columns]), record)
    except DropRow as drop:
        assert isinstance(drop.reason, Reason)
        return
    assert parsed.messages[-1]["role"] == "user"
    assert all(message["content"] == message["content"].strip() != "" for message in parsed.messages)
