"""EndpointBackend against vLLM's own OpenAI-compatible server, with the micro model."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cai_ray.chat import Message
from cai_ray.config import EndpointConfig, EngineConfig, ModelConfig, SamplingConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends.endpoint import EndpointBackend
from cai_ray.engines.backends.vllm_engine import engine_environment
from cai_ray.engines.conversations.asking import Completion
from cai_ray.engines.models.reading import load_renderer
from cai_ray.microworld.teaching import principles
from cai_ray.prompts.comparison import OPTIONS, comparison_messages

pytestmark = pytest.mark.slow
START_LIMIT_S = 240
MAX_MODEL_LEN = 1024
ASKED: list[Message] = [{"role": "user", "content": "How do I bake bread?"}]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server_url(micro_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("vllm") / "log.txt"
    port = _free_port()
    environment = os.environ | engine_environment(ModelConfig(path=str(micro_model)))
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(micro_model)]
    command += ["--served-model-name", "micro", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--block-size", "32", "--max-model-len", str(MAX_MODEL_LEN)]
    with log.open("wb") as stream:
        server = subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT)
    try:
        _wait(server, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        assert server.poll() is None, f"the server ended at once:\n{log.read_text()[-3000:]}"
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                if response.status == 200:
                    return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"the server is not up after {START_LIMIT_S} s:\n{log.read_text()[-3000:]}")


def talk(url: str, ask: Callable[[Any], Awaitable[Any]], **settings: Any) -> Any:
    endpoint = EndpointConfig(base_url=url, model="micro", max_retries=1, timeout_s=60)

    async def pass_on(send: Callable[[], Awaitable[Any]]) -> Any:
        return await send()

    async def main() -> Any:
        backend = EndpointBackend(ModelConfig(endpoint=endpoint, engine=EngineConfig(), **settings))
        await backend.start()
        try:
            return await ask(backend.open("row", lambda k: 7 + k, pass_on))
        finally:
            await backend.close()

    return asyncio.run(main())


def next_token_logprobs(model: Path, text: str, options: tuple[str, ...]) -> list[float]:
    """The same by Hugging Face, without vLLM."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = tokenizer.encode(text, add_special_tokens=False, return_tensors="pt")
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)(ids).logits[0, -1]
    logprobs = logits.log_softmax(-1)
    return [float(logprobs[tokenizer.encode(option, add_special_tokens=False)[0]]) for option in options]


def test_a_completion(server_url: str) -> None:
    sampling = SamplingConfig(temperature=0, max_tokens=32)
    first: Completion = talk(server_url, lambda ask: ask(ASKED, sampling))
    assert first.text and "<|im" not in first.text
    assert first.num_prompt_tokens > 0 and 0 < first.num_output_tokens <= 32
    again: Completion = talk(server_url, lambda ask: ask(ASKED, sampling))
    assert again.text == first.text


def test_seeds_decide_what_is_sampled(server_url: str) -> None:
    sampling = SamplingConfig(max_tokens=24, top_k=50)

    async def twice(ask: Any) -> list[str]:
        return [(await ask(ASKED, sampling)).text for _ in range(3)]

    assert talk(server_url, twice) == talk(server_url, twice)


@pytest.mark.parametrize("format", ["chat", "transcript"])
def test_choose_agrees_with_hugging_face(server_url: str, micro_model: Path, format: Any) -> None:
    question = principles()[0].comparison_question or ""
    asked = comparison_messages(ASKED, "I can help: take flour.", "I will not help with that.", question)
    renderer = load_renderer(ModelConfig(path=str(micro_model), format=format))
    text = renderer.text(renderer.neutralised(asked)[0])  # a transcript's labels in a content are defused
    expected = next_token_logprobs(micro_model, text, OPTIONS)
    found = talk(server_url, lambda ask: ask.choose(asked, OPTIONS), format=format)
    assert found == pytest.approx(expected, abs=1e-3)


def test_too_long_is_one_dropped_row(server_url: str) -> None:
    long = [{"role": "user", "content": "bread " * (2 * MAX_MODEL_LEN)}]
    with pytest.raises(DropRow) as caught:
        talk(server_url, lambda ask: ask(long, SamplingConfig(max_tokens=8)))
    assert caught.value.reason == DropReason.TOO_LONG
