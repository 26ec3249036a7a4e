"""Clients' bodies: what is read, and what each mistake is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_ray.serving.requests import ApiError, ChatRequest, Limits, ScoreRequest, read_request

MESSAGES = [{"role": "user", "content": "Hi"}]
ASKED = {"model": "m", "messages": MESSAGES}
LIMITS = Limits(max_tokens=100)


def chat(**changes: Any) -> ChatRequest:
    return read_request(ChatRequest, json.dumps(ASKED | changes).encode())


def score(**fields: Any) -> ScoreRequest:
    return read_request(ScoreRequest, json.dumps({"model": "m"} | fields).encode())


def test_defaults_are_openais() -> None:
    options = chat().options(LIMITS)
    assert (options.temperature, options.top_p, options.stop, options.seed, options.top_logprobs) == (
        1,
        1,
        (),
        None,
        None,
    )
    assert options.max_tokens == LIMITS.max_tokens


def test_every_option() -> None:
    asked = chat(
        max_completion_tokens=7, temperature=0.5, top_p=0.9, top_k=40, stop="\n", seed=3, logprobs=True, top_logprobs=2,
        presence_penalty=1, frequency_penalty=-1, n=1, user="me", response_format={"type": "text"}, tools=None,
    )  # fmt: skip
    options = asked.options(LIMITS)
    assert options.max_tokens == 7 and options.stop == ("\n",) and options.seed == 3 and options.top_k == 40
    assert (options.temperature, options.top_p, options.top_logprobs) == (0.5, 0.9, 2)
    assert (options.presence_penalty, options.frequency_penalty) == (1, -1)
    assert chat(logprobs=True).options(LIMITS).top_logprobs == 0


def test_messages_in_all_their_forms() -> None:
    asked = chat(
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "Ann"},
            {"role": "assistant", "content": "ok", "refusal": None, "tool_calls": None},
            {"role": "user", "content": "Hi"},
        ]
    )
    assert asked.plain_messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "ok"},
        {"role": "user", "content": "Hi"},
    ]


@pytest.mark.parametrize(
    ("changes", "told", "param"),
    [
        ({"tools": [{}]}, "tools: this server does not act on it; it knows model, messages", "tools"),
        ({"n": 2}, "n = 2", "n"),
        ({"temperature": -1}, "temperature = -1: Input should be greater than or equal to 0", "temperature"),
        ({"temperature": float("nan")}, "temperature = nan", "temperature"),
        ({"top_p": 0}, "top_p = 0", "top_p"),
        ({"max_tokens": 0}, "max_tokens = 0", "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens = 'many'", "max_tokens"),
        ({"stop": [""]}, "none of them empty", "stop"),
        ({"stop": ["x"] * 17}, "at most 16 strings", "stop"),
        ({"messages": []}, "messages = []", "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role = 'tool'", "messages"),
        ({"messages": [{"role": "user"}]}, "messages.0.content: required", "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content",
            "messages",
        ),
        ({"top_logprobs": 3}, "top_logprobs needs logprobs=true", None),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs = 21", "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options needs stream=true", None),
        ({"model": None}, "model: required", "model"),
    ],
)
def test_mistakes_are_told_by_name(changes: dict[str, Any], told: str, param: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        chat(**changes)
    error = caught.value
    assert error.status == 400 and told in str(error) and error.param == param
    assert error.body["error"] == {
        "message": str(error), "type": "invalid_request_error", "param": param, "code": None,
    }  # fmt: skip


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b"3", b"[" * 100_000, b'{"model": "\\ud800"}'])
def test_what_is_no_object(body: bytes) -> None:
    with pytest.raises(ApiError, match="the body is") as caught:
        read_request(ChatRequest, body)
    assert caught.value.status == 400


def test_more_tokens_than_the_server_gives() -> None:
    with pytest.raises(ApiError, match="max_tokens = 101: this server gives at most 100") as caught:
        chat(max_tokens=101).options(LIMITS)
    assert (caught.value.status, caught.value.param) == (400, "max_tokens")


def test_the_two_ways_to_ask_for_a_score() -> None:
    turns = [*MESSAGES, {"role": "assistant", "content": "Hello."}]
    assert score(messages=turns).conversation == (MESSAGES, "Hello.")
    assert score(prompt="Hi", response="Hello.").conversation == (MESSAGES, "Hello.")
    assert score(prompt=MESSAGES, response="").conversation == (MESSAGES, "")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "give either messages, or prompt and response"),
        ({"prompt": "Hi"}, "give either"),
        ({"response": "Hi"}, "give either"),
        ({"prompt": "Hi", "response": "x", "messages": MESSAGES * 2}, "give either"),
        ({"messages": MESSAGES * 2}, "messages end in the assistant's turn"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages = "),
        ({"prompt": [{"role": "assistant", "content": "x"}], "response": "y"}, "end in the user's turn"),
        ({"prompt": [], "response": "y"}, "end in the user's turn"),
    ],
)
def test_half_a_score_request(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ApiError, match=told):
        score(**fields)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*ChatRequest.model_fields, "x"]), inner)
    ),
    max_leaves=10,
)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    for kind in (ChatRequest, ScoreRequest):
        try:
            read_request(kind, body)
        except ApiError as error:
            assert error.status == 400 and str(error)
