"""Bodies of /v1/score: what is read, and what each mistake is told. (Scores: tests/cluster/test_serve.py.)"""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from cai_ray.serving.live_model import LiveModel
from cai_ray.serving.refusals import ApiError
from cai_ray.serving.score import ScoreRequest, read_score_request, score_route

MESSAGES = [{"role": "user", "content": "Hi"}]


def score(**fields: Any) -> ScoreRequest:
    return read_score_request(json.dumps({"model": "m"} | fields).encode())


def test_the_two_ways_to_ask() -> None:
    turns = [*MESSAGES, {"role": "assistant", "content": "Hello."}]
    assert score(messages=turns).conversation == (MESSAGES, "Hello.")
    assert score(prompt="Hi", response="Hello.", messages=None).conversation == (MESSAGES, "Hello.")
    assert score(prompt=MESSAGES, response="").conversation == (MESSAGES, "")
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    rules = [{"role": "developer", "content": parts}, *MESSAGES]
    assert score(prompt=rules, response="").conversation[0] == [{"role": "system", "content": "a\nb"}, *MESSAGES]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "give either messages, or prompt and response"),
        ({"prompt": "Hi"}, "give either"),
        ({"response": "Hi"}, "give either"),
        ({"prompt": "Hi", "response": "x", "messages": MESSAGES * 2}, "give either"),
        ({"messages": MESSAGES * 2}, "messages end in the assistant's turn"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages: "),
        ({"prompt": [{"role": "assistant", "content": "x"}], "response": "y"}, "end in the user's turn"),
        ({"prompt": [], "response": "y"}, "end in the user's turn"),
        ({"prompt": "Hi", "response": "x", "temperature": 1}, "temperature: Extra inputs"),
    ],
)
def test_half_a_request(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ApiError, match=told) as caught:
        score(**fields)
    assert caught.value.status == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*ScoreRequest.model_fields, "x"]), inner)
    ),
    max_leaves=10,
)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    try:
        read_score_request(body)
    except ApiError as error:
        assert error.status == 400 and str(error)


class Measure:
    """A score is the answer's length; stands in for LiveModel."""

    async def score(self, messages: Any, answer: str) -> tuple[float, int]:
        return float(len(answer)), 9


async def _tell(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response


def test_the_route() -> None:
    app = Starlette(routes=[score_route(cast(LiveModel, Measure()), "m")], exception_handlers={ApiError: _tell})

    async def post(model: str) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as http:
            return await http.post("/v1/score", json={"model": model, "prompt": "Hi", "response": "Hello"})

    reply = asyncio.run(post("m")).json()
    assert reply["score"] == 5.0 and reply["usage"]["prompt_tokens"] == 9 and reply["object"] == "score"
    assert asyncio.run(post("other")).status_code == 404
