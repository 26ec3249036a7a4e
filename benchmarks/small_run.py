"""How soon a small run has its first result: the whole command, Python's, Ray's and the engine's start included.

`endpoint`: 40 rows of one round against a server that answers at once. `quickstart`: the quickstart until `revise`, 640
prompts and 4 rounds. `staged`: the same dialogues by the shortest script one would write, vLLM's own `LLM.chat` over
all rows, step by step. Each in a process of its own, in turn, three times; seconds of the clock, and of all cores'
work in all processes (Linux), which other programs disturb less.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

from benchmarks import results_file
from cai_ray.microworld.pretrain import ensure_model

REPEATS = 3
NUM_ROWS = 40
NUM_PROMPTS = 640
NUM_ROUNDS = 4
QUICKSTART = Path(__file__).parents[1] / "jobs/recipes/quickstart.yaml"
TARGETS = {"endpoint": 10.0, "quickstart": 70.0}  # seconds on two cores with nothing else to do
ANSWER = "Sand the wood first, then put on two thin coats of paint and let each of them dry for a day."
ORPHANS_TO_ME = 36  # PR_SET_CHILD_SUBREAPER of prctl(2): what Ray leaves behind is then counted here too


class _Server(BaseHTTPRequestHandler):
    """Answers every chat completion with ANSWER."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _say(self, body: dict[str, object]) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def do_GET(self) -> None:
        self._say({"object": "list", "data": [{"id": "m", "object": "model", "created": 0, "owned_by": "me"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        message = {"role": "assistant", "content": ANSWER}
        choice = {"index": 0, "finish_reason": "stop", "logprobs": None, "message": message}
        usage = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
        self._say(
            {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
        )


@contextmanager
def _serving() -> Iterator[str]:
    """The base URL of a server that answers at once."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()


def _endpoint_recipe(folder: Path, url: str) -> Path:
    prompts = [{"prompt": f"How do I paint the garden chair number {k} of our school?"} for k in range(NUM_ROWS)]
    (folder / "prompts.jsonl").write_text("".join(f"{json.dumps(prompt)}\n" for prompt in prompts))
    recipe = {
        "name": "small",
        "output": str(folder),
        "constitution": "harmlessness",
        "models": {"policy": {"endpoint": {"base_url": url, "model": "m", "api_key_env": None}}},
        "prompts": {"path": str(folder / "prompts.jsonl")},
        "revise": {"num_revisions": 1},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def staged() -> None:
    """All first answers, then all critiques, all revisions, and so on: vLLM's whole-batch way."""
    from vllm import LLM, SamplingParams

    from cai_ray.constitution.source import load, resolve
    from cai_ray.microworld.prompt_set import sample_prompts

    requests = sample_prompts(NUM_PROMPTS, 0, 0.5)
    principles = load(resolve("microworld")).for_revision
    llm = LLM(
        str(ensure_model()),
        dtype="float32",
        enforce_eager=True,
        max_num_seqs=128,
        enable_prefix_caching=True,
        block_size=32,
        enable_chunked_prefill=False,
        max_num_batched_tokens=4096,
        disable_log_stats=True,
    )
    chats = [list(request.messages) for request in requests]

    def ask(temperature: float, seed: int) -> None:
        params = [SamplingParams(max_tokens=64, temperature=temperature, seed=seed + k) for k in range(len(chats))]
        for chat, output in zip(chats, llm.chat(chats, params, use_tqdm=False), strict=True):
            chat.append({"role": "assistant", "content": output.outputs[0].text.strip()})

    ask(1.0, 0)
    for k in range(NUM_ROUNDS):
        principle = principles[k % len(principles)]
        for request, temperature in ((principle.critique_request, 0.7), (principle.revision_request, 0.4)):
            for chat in chats:
                chat.append({"role": "user", "content": str(request)})
            ask(temperature, 1000 * k)


def _measured(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Wall seconds and CPU seconds of a command, the processes that it started included."""
    before = _cpu_s()
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **environment})
    wall_s = time.perf_counter() - begun
    limit = time.monotonic() + 20
    with suppress(ChildProcessError):  # no child is left
        while time.monotonic() < limit:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.05)
    return wall_s, _cpu_s() - before


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    ensure_model()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(ORPHANS_TO_ME, 1, 0, 0, 0)
    # Like the stage's engine: both cores are vLLM's, and one thread suits a model of a million weights.
    alone = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    alone |= {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    cli = [sys.executable, "-m", "cai_ray.cli", "run"]
    seconds: dict[str, list[float]] = {"endpoint": [], "quickstart": [], "staged": []}
    cpu_seconds: dict[str, list[float]] = {side: [] for side in seconds}
    with _serving() as url:
        for repeat in range(REPEATS):
            with tempfile.TemporaryDirectory() as scratch:
                commands = {
                    "endpoint": [*cli, str(_endpoint_recipe(Path(scratch), url)), "--until", "revise"],
                    "quickstart": [*cli, str(QUICKSTART), "--until", "revise", "--set", f"output={scratch}"],
                    "staged": [sys.executable, "-m", "benchmarks.small_run", "staged"],
                }
                for side, command in commands.items():
                    wall_s, cpu_s = _measured(command, alone if side == "staged" else {})
                    seconds[side].append(wall_s)
                    cpu_seconds[side].append(cpu_s)
                    print(f"round {repeat + 1}: {side} {wall_s:.1f} s, {cpu_s:.1f} s of CPU", flush=True)
    figures = {
        "seconds": {
            side: results_file.spread(values, 1) | ({"target": TARGETS[side]} if side in TARGETS else {})
            for side, values in seconds.items()
        },
        "cpu_seconds": {side: results_file.spread(values, 1) for side, values in cpu_seconds.items()},
        "rows": {"endpoint": NUM_ROWS, "quickstart": NUM_PROMPTS, "staged": NUM_PROMPTS},
        "rounds": {"endpoint": 1, "quickstart": NUM_ROUNDS, "staged": NUM_ROUNDS},
        "repeats": REPEATS,
    }
    claim = (
        "As whole commands on two cores: 40 rows against an endpoint in <= 10 s, the quickstart until revise in <= 70 s"
    )
    results_file.write("small_run", claim, figures, [0])


if __name__ == "__main__":
    staged() if sys.argv[1:] == ["staged"] else main()
