"""Whether a model can choose between options is known before the first row: one message, exit code 2."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cai_ray.config import EndpointConfig, ModelConfig
from cai_ray.engines.backends.option_check import check_options
from cai_ray.engines.backends.vllm_backend import option_token_id
from cai_ray.engines.conversations import outage
from cai_ray.engines.models.reading import load_renderer
from cai_ray.errors import ConfigError, EngineGaveUp
from cai_ray.exits import EXIT_BAD_INPUT, exit_code
from cai_ray.microworld.tokenizer import build_tokenizer

OPTIONS = ("A", "B")
ASKED = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "The answer is ("}]
LOGPROBS = {"content": [{"token": "A", "logprob": -0.1, "top_logprobs": [{"token": t, "logprob": -1} for t in "AB"]}]}


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(num_dialogues=50).save_pretrained(folder)
    return folder


def test_letters_of_one_token_pass(tokenizer_folder: Path) -> None:
    check_options(ModelConfig(path=str(tokenizer_folder)), OPTIONS, ASKED)


def test_options_of_several_tokens_are_refused(tokenizer_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"'the first one' is \d+ tokens in this tokenizer; options must be") as told:
        check_options(ModelConfig(path=str(tokenizer_folder)), ("A", "the first one"), ASKED)
    assert exit_code(told.value) == EXIT_BAD_INPUT


def test_options_of_the_same_token_are_refused(tokenizer_folder: Path) -> None:
    with pytest.raises(ConfigError, match="begin with the same token"):
        check_options(ModelConfig(path=str(tokenizer_folder)), ("A", "A"), ASKED)


def test_a_letter_behind_a_bracket_is_not_the_one_that_starts_a_word(tmp_path: Path) -> None:
    """SentencePiece has both; asked for the wrong one, the model would answer with next to no probability."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "</s>", "\u2581", "A", "B", "(", "\u2581(", "\u2581A", "\u2581B", "\u2581answer", "\u2581is:"]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(len(pieces) - k)) for k, piece in enumerate(pieces)], 0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")
    fast.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    fast.save_pretrained(tmp_path)
    renderer = load_renderer(ModelConfig(path=str(tmp_path)))
    text = "answer is: ("
    ids = [option_token_id(renderer, option, text) for option in OPTIONS]
    assert fast.convert_ids_to_tokens(ids) == ["A", "B"]
    assert renderer.encode(f"{text}A")[-1] == ids[0]
    assert fast.convert_ids_to_tokens([option_token_id(renderer, "A")]) == ["\u2581A"]


@pytest.fixture
def server() -> Iterator[dict[str, Any]]:
    """A server whose answer to a completion is `status` and `logprobs` of the dict; its address is `url`."""
    state: dict[str, Any] = {"status": 200, "logprobs": LOGPROBS, "num_asked": 0}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            state["num_asked"] += 1
            message = {"role": "assistant", "content": "A"}
            choice = {"index": 0, "finish_reason": "length", "message": message, "logprobs": state["logprobs"]}
            body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
            refused = {"error": {"message": "logprobs is not supported with this model"}}
            self.reply(state["status"], body if state["status"] == 200 else refused)

        def do_GET(self) -> None:
            self.reply(200, {"object": "list", "data": []})

        def reply(self, status: int, body: Any) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("retry-after-ms", "5")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state["url"] = f"http://127.0.0.1:{http.server_port}/v1"
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


def at(server: dict[str, Any]) -> ModelConfig:
    return ModelConfig(endpoint=EndpointConfig(base_url=server["url"], model="m", max_retries=1))


def test_an_endpoint_with_log_probabilities_passes_after_one_request(server: dict[str, Any]) -> None:
    check_options(at(server), OPTIONS, ASKED)
    assert server["num_asked"] == 1


@pytest.mark.parametrize(
    ("status", "logprobs", "told"),
    [(200, None, "gives no log-probabilities"), (400, None, "logprobs is not supported")],
)
def test_an_endpoint_without_is_refused(server: dict[str, Any], status: int, logprobs: Any, told: str) -> None:
    server.update(status=status, logprobs=logprobs)
    with pytest.raises(ConfigError, match=told) as error:
        check_options(at(server), OPTIONS, ASKED)
    assert exit_code(error.value) == EXIT_BAD_INPUT


def test_a_server_that_fails_everybody_is_away(server: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "PAUSES_S", (0.01,))
    server["status"] = 500
    with pytest.raises(EngineGaveUp, match="has answered no request yet"):
        check_options(at(server), OPTIONS, ASKED)
