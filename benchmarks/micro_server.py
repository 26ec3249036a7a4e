"""A micro model behind OpenAI's chat API by transformers alone, where no vLLM is to be started: slow, and exact.

Its labels are those of vLLM's server: the same weights, template and token ids, sampled one request at a time.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOP = 20  # log-probabilities per token that are told


class Model:
    """One model; one request at a time."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(1)
        self._torch = torch
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self._lock = threading.Lock()

    def reply(self, body: dict[str, Any]) -> dict[str, Any]:
        """A chat completion."""
        is_begun = bool(body.get("continue_final_message"))
        rendered = self._tokenizer.apply_chat_template(
            body["messages"], tokenize=False, add_generation_prompt=not is_begun, continue_final_message=is_begun
        )
        ids = self._torch.tensor([self._tokenizer.encode(rendered, add_special_tokens=False)])
        with self._lock, self._torch.inference_mode():
            text, reason, scored = self._scored(ids) if body.get("logprobs") else self._sampled(ids, body)
        usage = {"prompt_tokens": ids.shape[1], "completion_tokens": 1, "total_tokens": ids.shape[1] + 1}
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "finish_reason": reason, "logprobs": scored, "message": message}
        about = {"id": "x", "object": "chat.completion", "created": 0, "model": "micro"}
        return {**about, "choices": [choice], "usage": usage}

    def _scored(self, ids: Any) -> tuple[str, str, dict[str, Any]]:
        values, tokens = self._model(ids).logits[0, -1].log_softmax(-1).topk(TOP)
        told = [
            {"token": self._tokenizer.decode([token]), "logprob": value, "bytes": None}
            for token, value in zip(tokens.tolist(), values.tolist(), strict=True)
        ]
        return told[0]["token"], "length", {"content": [{**told[0], "top_logprobs": told}], "refusal": None}

    def _sampled(self, ids: Any, body: dict[str, Any]) -> tuple[str, str, None]:
        self._torch.manual_seed(body.get("seed", 0))
        drawn = {"do_sample": True, "temperature": body["temperature"], "top_k": 0} if body["temperature"] else {}
        made = self._model.generate(ids, max_new_tokens=body["max_tokens"], **(drawn or {"do_sample": False}))
        answer = made[0, ids.shape[1] :]
        is_ended = self._model.generation_config.eos_token_id in answer.tolist()
        return self._tokenizer.decode(answer, skip_special_tokens=True), "stop" if is_ended else "length", None


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The base URL of the model in this folder."""
    model = Model(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_GET(self) -> None:
            self._say({"object": "list", "data": []})

        def do_POST(self) -> None:
            self._say(model.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

        def _say(self, reply: dict[str, Any]) -> None:
            content = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            self.wfile.flush()

        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/v1"
    finally:
        http.shutdown()
        http.server_close()
