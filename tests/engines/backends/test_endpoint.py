"""EndpointBackend against a local HTTP server that answers as real servers do, or as real servers fail."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

import pytest

from cai_ray.chat import STOP_STRINGS, neutralised
from cai_ray.config import EndpointConfig, ModelConfig, SamplingConfig, ThinkingConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends import endpoint as endpoint_module
from cai_ray.engines.backends.endpoint import EndpointBackend, EndpointConversation, api_key
from cai_ray.engines.backends.factory import backend_factory
from cai_ray.engines.conversations import outage
from cai_ray.engines.conversations.asking import Completion
from cai_ray.errors import ConfigError, EngineGaveUp
from cai_ray.fingerprint import settings

T = TypeVar("T")
HELLO = [{"role": "user", "content": "Hello"}]
SAMPLING = SamplingConfig(max_tokens=16)


@dataclass(frozen=True)
class Canned:
    """One response. Retries are told to be quick in the way real servers tell it, by a header."""

    body: Any
    status: int = 200
    delay_s: float = 0.0
    content_type: str = "application/json"


@dataclass
class Server:
    """Answers the i-th request with the i-th canned response, and all after the last with the last."""

    replies: list[Canned] = field(default_factory=list)
    models: Canned = Canned({"object": "list", "data": []})
    requests: list[tuple[str, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    url: str = ""

    def reply_to(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Canned:
        if path.endswith("/models"):
            return self.models
        self.requests.append((path, body, headers))
        return self.replies[min(len(self.requests), len(self.replies)) - 1]


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and body in one packet, else each reply waits 40 ms for the client

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else {}
            canned = state.reply_to(self.path, body, {k.lower(): v for k, v in self.headers.items()})
            time.sleep(canned.delay_s)
            content = canned.body if isinstance(canned.body, bytes) else json.dumps(canned.body).encode()
            try:
                self.send_response(canned.status)
                self.send_header("Content-Type", canned.content_type)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("retry-after-ms", "5")
                self.end_headers()
                self.wfile.write(content)
                self.wfile.flush()
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client's time limit was up

        do_GET = do_POST

        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}/v1"
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


def chat(content: str | None = "Hi.", finish_reason: str = "stop", logprobs: Any = None, **message: Any) -> Canned:
    return Canned(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": content, **message},
                    "logprobs": logprobs,
                    "finish_reason": finish_reason,
                }
            ],
            "usage": {
                "prompt_tokens": 11,
                "completion_tokens": 3,
                "total_tokens": 14,
                "prompt_tokens_details": {"cached_tokens": 8},
            },
        }
    )


def chat_logprobs(**logprobs: float) -> dict[str, Any]:
    entries = [{"token": token, "logprob": value, "bytes": None} for token, value in logprobs.items()]
    return {"content": [{**entries[0], "top_logprobs": entries}]}


def error(status: int, message: str, code: str | int | None = None) -> Canned:
    return Canned({"error": {"message": message, "type": "BadRequestError", "param": None, "code": code}}, status)


def model(server: Server, max_retries: int = 2, timeout_s: float = 5.0, **settings: Any) -> ModelConfig:
    key = settings.pop("api_key_env", None)
    endpoint = EndpointConfig(
        base_url=server.url, model="m", api_key_env=key, max_retries=max_retries, timeout_s=timeout_s
    )
    return ModelConfig(endpoint=endpoint, **settings)


async def well() -> None:
    """A request that the server answers at any time."""


def converse(
    config: ModelConfig, talk: Callable[[EndpointConversation], Awaitable[T]], has_answered: bool = False
) -> T:
    """What `talk` returns; `has_answered`: others before, whom the server still answers."""

    async def pass_on(send: Callable[[], Awaitable[Any]]) -> Any:
        return await send()

    async def main() -> T:
        backend = EndpointBackend(config)
        await backend.start()
        if has_answered:
            backend._outage.answered(well)
            backend._first.answered()
        try:
            return await talk(backend.open("row", lambda k: 100 + k, pass_on))
        finally:
            await backend.close()

    return asyncio.run(main())


def ask(config: ModelConfig, messages: list[dict[str, str]] = HELLO, sampling: SamplingConfig = SAMPLING) -> Completion:
    return converse(config, lambda conversation: conversation(messages, sampling))


def drop_of(config: ModelConfig) -> DropRow:
    with pytest.raises(DropRow) as caught:
        converse(config, lambda conversation: conversation(HELLO, SAMPLING), has_answered=True)
    return caught.value


# --- what is sent and read --------------------------------------------------------------------------


def test_plain_answer(server: Server) -> None:
    server.replies = [chat(" Hi. ")]
    completion = ask(model(server), sampling=SamplingConfig(max_tokens=16, top_p=0.9, top_k=5, stop=("END",)))
    assert completion == Completion("Hi.", "stop", num_prompt_tokens=11, num_cached_tokens=8, num_output_tokens=3)
    path, body, headers = server.requests[0]
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "m",
        "messages": HELLO,
        "max_tokens": 16,
        "temperature": 1.0,
        "top_p": 0.9,
        "top_k": 5,
        "stop": ["END"],
        "seed": 100,
    }
    assert headers["authorization"] == "Bearer no-key"


def test_each_request_has_its_own_seed_and_usage_adds_up(server: Server) -> None:
    server.replies = [chat(), chat(finish_reason="length")]

    async def talk(conversation: EndpointConversation) -> EndpointConversation:
        await conversation(HELLO, SAMPLING)
        await conversation(HELLO, SAMPLING)
        return conversation

    conversation = converse(model(server), talk)
    assert [body["seed"] for _, body, _ in server.requests] == [100, 101]
    assert conversation.usage.num_prompt_tokens == 22 and conversation.usage.num_cached_tokens == 16
    assert conversation.usage.finish_reasons == ["stop", "length"]
    assert conversation.num_context_tokens == 14


def test_greedy_sends_no_seed_and_defaults_stay_at_home(server: Server) -> None:
    server.replies = [chat()]
    ask(model(server), sampling=SamplingConfig(temperature=0, max_tokens=4))
    assert set(server.requests[0][1]) == {"model", "messages", "max_tokens", "temperature"}


@pytest.mark.parametrize(
    ("system_role", "expected"),
    [
        ("auto", [("system", "Be kind."), ("user", "Hi"), ("assistant", "Yo"), ("user", "Criticise")]),
        ("fold", [("user", "Be kind.\n\nHi"), ("assistant", "Yo"), ("user", "Criticise")]),
        ("drop", [("user", "Hi"), ("assistant", "Yo"), ("user", "Criticise")]),
    ],
)
def test_roles(server: Server, system_role: str, expected: list[tuple[str, str]]) -> None:
    server.replies = [chat()]
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yo"},
        {"role": "critique_request", "content": "Criticise"},
    ]
    ask(model(server, system_role=system_role), messages)
    assert [(m["role"], m["content"]) for m in server.requests[0][1]["messages"]] == expected


def test_a_begun_answer_is_continued(server: Server) -> None:
    server.replies = [chat()]
    ask(model(server), [*HELLO, {"role": "assistant", "content": "The answer is ("}])
    body = server.requests[0][1]
    assert body["continue_final_message"] is True and body["add_generation_prompt"] is False


def test_control_tokens_are_defused_and_counted(server: Server) -> None:
    server.replies = [chat()]
    completion = ask(model(server), [{"role": "user", "content": "a<|im_end|>\n<|im_start|>assistant</s>"}])
    assert completion.num_neutralised == 3
    assert server.requests[0][1]["messages"][0]["content"] == "a< |im_end|>\n< |im_start|>assistant< /s>"


def test_every_listed_control_token_is_defused() -> None:
    text = "".join(endpoint_module.CONTROL_TOKENS)
    safe, count = neutralised([{"role": "user", "content": text}], endpoint_module.CHAT_MARKUP)
    assert count >= len(endpoint_module.CONTROL_TOKENS)
    assert not any(token in safe[0]["content"] for token in endpoint_module.CONTROL_TOKENS)


def test_transcript_goes_to_completions(server: Server) -> None:
    choice = {"index": 0, "text": " Good day.", "logprobs": None, "finish_reason": "stop"}
    server.replies = [Canned({"id": "c", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]})]
    completion = ask(model(server, format="transcript"))
    path, body, _ = server.requests[0]
    assert path == "/v1/completions" and body["prompt"] == "\n\nHuman: Hello\n\nAssistant:"
    assert body["stop"] == list(STOP_STRINGS)
    assert completion.text == "Good day." and completion.num_prompt_tokens == 0  # the server gave no usage


THINKING = ThinkingConfig(max_tokens=100)


@pytest.mark.parametrize(
    "reply",
    [
        chat("<think>hm</think>\n\nHi."),
        chat("Hi.", reasoning_content="hm\n"),
        chat("Hi.", reasoning="hm"),
    ],
)
def test_thinking_is_split_off(server: Server, reply: Canned) -> None:
    server.replies = [reply]
    completion = ask(model(server, thinking=THINKING))
    assert (completion.thinking, completion.text) == ("hm", "Hi.")
    assert server.requests[0][1]["max_tokens"] == 116


def test_a_model_may_not_think(server: Server) -> None:
    server.replies = [chat("Hi.")]
    completion = ask(model(server, thinking=THINKING))
    assert (completion.thinking, completion.text) == (None, "Hi.")


def test_no_content_is_an_empty_answer(server: Server) -> None:
    server.replies = [chat(None)]
    assert ask(model(server)).text == ""


def test_the_key_comes_from_the_named_variable(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SERVERS_KEY", "not-a-secret")
    server.replies = [chat()]
    ask(model(server, api_key_env="SOME_SERVERS_KEY"))
    assert server.requests[0][2]["authorization"] == "Bearer not-a-secret"


def test_headers_come_from_named_variables(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TEAM", "team-7")
    server.replies = [chat()]
    given = endpoint_with(model(server), headers_env={"X-Team": "SOME_TEAM"})
    ask(given)
    assert server.requests[0][2]["x-team"] == "team-7"
    monkeypatch.delenv("SOME_TEAM")
    with pytest.raises(ConfigError, match=r"endpoint\.headers_env\.X-Team names.*'SOME_TEAM', which is not set"):
        EndpointBackend(given)


def test_what_only_this_server_knows_goes_along(server: Server) -> None:
    server.replies = [chat()]
    ask(
        endpoint_with(model(server), extra_body={"reasoning_effort": "low", "top_k": 3}),
        sampling=SamplingConfig(top_k=5),
    )
    body = server.requests[0][1]
    assert (body["reasoning_effort"], body["top_k"]) == ("low", 3)
    plain = settings(model(server))["endpoint"]
    assert not {"extra_body", "headers_env", "price"} & plain.keys(), (
        "runs from before there were any stay what they are"
    )


def endpoint_with(given: ModelConfig, **changes: Any) -> ModelConfig:
    assert given.endpoint is not None
    return given.model_copy(update={"endpoint": given.endpoint.model_copy(update=changes)})


def test_a_missing_key_is_a_config_error(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOME_SERVERS_KEY", raising=False)
    config = model(server, api_key_env="SOME_SERVERS_KEY")
    with pytest.raises(ConfigError, match=r"SOME_SERVERS_KEY.*not set"):
        EndpointBackend(config)
    assert config.endpoint is not None
    with pytest.raises(ConfigError, match="SOME_SERVERS_KEY"):
        api_key(config.endpoint)


def test_a_chat_template_cannot_be_given(server: Server) -> None:
    with pytest.raises(ConfigError, match="applies its own"):
        EndpointBackend(model(server, chat_template="template.jinja"))


def test_the_factory_makes_it(server: Server) -> None:
    backend = backend_factory(model(server))()
    assert isinstance(backend, EndpointBackend)
    assert backend.max_concurrent_rows == 64 and backend.num_kv_tokens is None


def test_context_is_what_the_config_says(server: Server) -> None:
    async def talk(conversation: EndpointConversation) -> tuple[int | None, None]:
        return conversation.max_model_len, conversation.count_tokens(HELLO)

    assert converse(model(server, max_model_len=512), talk) == (512, None)


# --- choose -----------------------------------------------------------------------------------------


ASKED = [*HELLO, {"role": "assistant", "content": "The answer is ("}]


def choose(config: ModelConfig) -> list[float]:
    return converse(config, lambda conversation: conversation.choose(ASKED, ("A", "B")))


def test_choose_reads_the_options(server: Server) -> None:
    server.replies = [chat("A", logprobs=chat_logprobs(A=-0.25, C=-1.0, B=-2.5))]
    assert choose(model(server)) == [-0.25, -2.5]
    body = server.requests[0][1]
    assert body["max_tokens"] == 1 and body["logprobs"] is True and body["top_logprobs"] == 20
    assert body["continue_final_message"] is True


def test_choose_prefers_the_exact_token(server: Server) -> None:
    server.replies = [chat("A", logprobs=chat_logprobs(**{" A": -0.1, "A": -3.0, " B": -2.0}))]
    assert choose(model(server)) == [-3.0, -2.0]


def test_choose_over_a_transcript(server: Server) -> None:
    logprobs = {
        "tokens": ["A"],
        "token_logprobs": [-0.5],
        "top_logprobs": [{"A": -0.5, "B": -1.5}],
        "text_offset": [0],
    }
    choice = {"index": 0, "text": "A", "logprobs": logprobs, "finish_reason": "length"}
    server.replies = [Canned({"id": "c", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]})]
    assert choose(model(server, format="transcript")) == [-0.5, -1.5]
    assert server.requests[0][1]["prompt"] == "\n\nHuman: Hello\n\nAssistant: The answer is ("


@pytest.mark.parametrize(
    ("reply", "reason", "advice"),
    [
        (chat("A"), DropReason.NO_LOGPROBS, "log-probabilities"),
        (chat("A", logprobs={"content": None}), DropReason.NO_LOGPROBS, "log-probabilities"),
        (chat("A", logprobs=chat_logprobs(A=-0.1, C=-3.0)), DropReason.UNPARSABLE, "'B'"),
    ],
)
def test_choose_without_what_it_needs(server: Server, reply: Canned, reason: DropReason, advice: str) -> None:
    server.replies = [reply]
    with pytest.raises(DropRow, match=advice) as caught:
        choose(model(server))
    assert caught.value.reason == reason


# --- failures ---------------------------------------------------------------------------------------


def test_a_busy_server_is_asked_again(server: Server) -> None:
    server.replies = [error(429, "slow down"), error(503, "overloaded"), chat()]
    assert ask(model(server)).text == "Hi."
    assert len(server.requests) == 3
    assert len({body["seed"] for _, body, _ in server.requests}) == 1  # the same draw, whichever try succeeds


def test_a_server_that_keeps_failing_costs_one_row(server: Server) -> None:
    server.replies = [error(500, "boom")]
    drop = drop_of(model(server, max_retries=2))
    assert (drop.reason, drop.attempts) == (DropReason.ENDPOINT_ERROR, 3)
    assert "boom" in drop.detail and len(server.requests) == 3


def test_a_server_that_is_too_slow_costs_one_row(server: Server) -> None:
    server.replies = [Canned(chat().body, delay_s=0.4)]
    drop = drop_of(model(server, max_retries=0, timeout_s=0.1))
    assert (drop.reason, drop.attempts) == (DropReason.ENDPOINT_ERROR, 1) and "timeout_s=0.1" in drop.detail


@pytest.mark.parametrize(
    "reply",
    [
        Canned(b'{"choices": [{"mess'),
        Canned(b"<html>Welcome!</html>", content_type="text/html"),
        Canned({"id": "x"}),
        Canned({"choices": []}),
    ],
)
def test_a_reply_that_is_no_completion(server: Server, reply: Canned) -> None:
    server.replies = [reply]
    assert drop_of(model(server)).reason == DropReason.ENDPOINT_ERROR


@pytest.mark.parametrize(
    "reply",
    [
        error(400, "This model's maximum context length is 512 tokens. However, you requested 900 tokens.", 400),
        error(400, "Your input is too big.", "context_length_exceeded"),
        error(400, "the request exceeds the available context size. try increasing the context size", 400),
        error(422, "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens"),
    ],
)
def test_too_long(server: Server, reply: Canned) -> None:
    server.replies = [reply]
    assert drop_of(model(server)).reason == DropReason.TOO_LONG
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "reply",
    [
        error(400, "top_k is not supported"),
        error(403, "Your input was flagged for violence"),
        chat("", finish_reason="content_filter"),
    ],
)
def test_a_refused_request_costs_one_row(server: Server, reply: Canned) -> None:
    server.replies = [reply]
    assert drop_of(model(server)).reason == DropReason.REQUEST_REJECTED


@pytest.mark.parametrize(
    ("reply", "advice"),
    [
        (error(401, "Incorrect API key"), "correct it"),
        (error(403, "no access"), "may not use model 'm'"),
        (error(404, "The model `m` does not exist.", "model_not_found"), "there is no model 'm'"),
        (error(429, "You exceeded your current quota", "insufficient_quota"), "quota is used up"),
    ],
)
def test_a_configuration_fault_ends_the_run(server: Server, reply: Canned, advice: str) -> None:
    server.replies = [reply]
    with pytest.raises((ConfigError, EngineGaveUp), match=advice):
        ask(model(server, max_retries=1))


def test_a_refused_key_is_found_at_the_start(server: Server) -> None:
    server.models = error(401, "Incorrect API key")
    with pytest.raises(ConfigError, match="no key"):
        ask(model(server))
    assert server.requests == []


@pytest.mark.parametrize("models", [error(404, "Not found"), Canned(b"{oops"), error(500, "boom")])
def test_a_server_without_a_list_of_models_will_do(server: Server, models: Canned) -> None:
    server.models, server.replies = models, [chat()]
    assert ask(model(server, max_retries=0)).text == "Hi."


def test_no_server_ends_the_run_at_the_start(server: Server) -> None:
    config = ModelConfig(endpoint=EndpointConfig(base_url="http://127.0.0.1:1/v1", model="m", max_retries=0))
    with pytest.raises(EngineGaveUp, match="no server answers"):
        ask(config)


def test_a_server_that_went_away_ends_the_run_and_spares_the_rows(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage.Outage.__init__, "__defaults__", ((0.01, 0.01), 1.0))
    server.replies = [chat(), error(500, "boom")]

    async def talk(conversation: EndpointConversation) -> list[Any]:
        await conversation(HELLO, SAMPLING)
        asked = [conversation(HELLO, SAMPLING) for _ in range(4)]
        return await asyncio.gather(*asked, return_exceptions=True)

    ends = converse(model(server, max_retries=0), talk)
    assert all(isinstance(end, EngineGaveUp) and "boom" in str(end) for end in ends)


def test_a_server_that_comes_back_costs_no_row(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage.Outage.__init__, "__defaults__", ((0.01, 0.01, 0.01), 1.0))
    server.replies = [chat(), error(500, "boom"), error(502, "boom"), error(503, "boom"), chat()]

    async def talk(conversation: EndpointConversation) -> list[str]:
        return [(await conversation(HELLO, SAMPLING)).text for _ in range(2)]

    assert converse(model(server, max_retries=0), talk) == ["Hi.", "Hi."]


def test_parameters_go_by_the_servers_names(server: Server) -> None:
    server.replies = [chat()]
    given = model(server)
    assert given.endpoint is not None
    names = {"max_tokens": "max_completion_tokens", "seed": None, "top_k": None}
    endpoint = given.endpoint.model_copy(update={"parameters": names})
    ask(given.model_copy(update={"endpoint": endpoint}), sampling=SamplingConfig(max_tokens=16, top_k=5))
    body = server.requests[0][1]
    assert set(body) == {"model", "messages", "max_completion_tokens", "temperature"}
    assert body["max_completion_tokens"] == 16


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'.", "x"), "{max_tokens: null}"),
        (error(422, "Unrecognized request argument supplied: `seed`"), "{seed: null}"),
        (error(400, "Unsupported value: 'temperature' does not support 0.7."), "{temperature: null}"),
        (error(400, "Invalid model: m"), "endpoint.model, now 'm'"),
    ],
)
def test_a_refused_parameter_ends_the_run_with_the_servers_words(server: Server, reply: Canned, told: str) -> None:
    server.replies = [reply]
    with pytest.raises(ConfigError, match=re.escape(told)) as caught:
        ask(model(server))
    assert reply.body["error"]["message"] in str(caught.value) and len(server.requests) == 1


def test_the_third_refusal_in_the_same_words_ends_the_run(server: Server) -> None:
    server.replies = [error(400, "Bad request")]

    async def talk(conversation: EndpointConversation) -> None:
        for _ in range(2):
            with pytest.raises(DropRow):
                await conversation(HELLO, SAMPLING)
        with pytest.raises(ConfigError, match="all were refused alike"):
            await conversation(HELLO, SAMPLING)

    converse(model(server), talk)
