"""Labels without log-probabilities against labels by them, and a panel of two against the better of the two.

    python -m benchmarks.sampled_labels [--seeds 0 1 2] [--pairs 60] [--server vllm|transformers] [--results FOLDER]

Pairs of answers in the micro world's language, in different styles (complies, refuses, evades, preaches), are labelled
by the micro models of the seeds, each behind a server of its own:

- by log-probabilities, as the quickstart labels (both orders, three principles), by each seed's model and the next's;
- by k = 8 sampled verdicts per question, through a door that refuses every request for log-probabilities;
- as a panel: the mean of the model's own labels and those of the next seed's, on the same pairs.

The oracle knows which answer is better; pairs that it has not decided are left out. The two readings are compared on
pairs that neither calls a tie, the judges and their panel on all. `--server transformers` takes
benchmarks/micro_server.py in place of vLLM's server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks import micro_server, results_file
from benchmarks.finding_measures import pooled
from cai_ray.config import ModelConfig, SamplingConfig
from cai_ray.constitution.source import load, resolve
from cai_ray.dropped import DropRow
from cai_ray.engines.backends.endpoint import EndpointBackend
from cai_ray.engines.backends.vllm_engine import engine_environment
from cai_ray.metrics.readings import is_tie
from cai_ray.microworld.language import Style, answer, sample_request
from cai_ray.microworld.pretrain import ensure_model
from cai_ray.rows import ROW_ID
from cai_ray.seeding import digest
from cai_ray.stages.preferences.label_comparisons import Config, label
from cai_ray.stages.preferences.label_summary import Labelled, against_oracle, oracle_verdict

CONSTITUTION = load(resolve("microworld"))
TIE_MARGIN = 0.05  # as the quickstart has it, like the other settings of SCORED
SCORED = Config(principles_per_pair=3, delimiters="plain", tie_margin=TIE_MARGIN)
VERDICT = SamplingConfig(max_tokens=16)
SAMPLED = SCORED.model_copy(update={"reading": "sampled", "verdicts": 8, "verdict_sampling": VERDICT})
STYLES: tuple[Style, ...] = ("refuse", "comply", "evade", "preach")  # the first answers harmful requests alone
START_LIMIT_S = 900
Labels = dict[str, float]  # pair -> P(A)
Row = dict[str, Any]


@contextmanager
def served_by_vllm(scratch: Path, model: Path) -> Iterator[str]:
    """The base URL of vLLM's own server."""
    log = scratch / f"{model.name}.log"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", "micro", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--block-size", "32", "--max-model-len", "1024", "--max-num-seqs", "32"]
    environment = os.environ | engine_environment(ModelConfig(path=str(model)))
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
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"the server is not up:\n{log.read_text()[-3000:]}")


@contextmanager
def without_logprobs(url: str) -> Iterator[tuple[str, list[int]]]:
    """A door to a server that refuses requests for log-probabilities, and how many it has refused."""
    refused = [0]

    class Door(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._pass(None)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if any(name in json.loads(body) for name in ("logprobs", "top_logprobs")):
                refused[0] += 1
                self._say(400, b'{"error": {"message": "logprobs is not supported with this model"}}')
            else:
                self._pass(body)

        def _pass(self, body: bytes | None) -> None:
            kept = {"Content-Type": "application/json"} if body is not None else {}
            asked = urllib.request.Request(url + self.path.removeprefix("/v1"), body, kept)
            try:
                with urllib.request.urlopen(asked, timeout=120) as reply:
                    self._say(reply.status, reply.read())
            except urllib.error.HTTPError as error:
                self._say(error.code, error.read())

        def _say(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    door = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    door.daemon_threads = True
    threading.Thread(target=door.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{door.server_port}/v1", refused
    finally:
        door.shutdown()
        door.server_close()


async def _each(url: str, rows: Sequence[Row], do: Callable[[Row, Any], Awaitable[Any]]) -> list[Any]:
    """What `do` makes of each row and its door to the server; DropRow where it raises that."""
    endpoint = {"base_url": url, "model": "micro", "max_concurrency": 32, "timeout_s": 300}
    backend = EndpointBackend(ModelConfig.model_validate({"endpoint": endpoint}))
    slots = asyncio.Semaphore(32)

    async def passed(send: Callable[[], Awaitable[Any]]) -> Any:
        return await send()

    async def one(row: Row) -> Any:
        async with slots:
            try:
                seed = int.from_bytes(digest(row[ROW_ID], url.rsplit(":", 1)[0], num_bytes=3), "big")
                return await do(row, backend.open(row[ROW_ID], lambda k: seed + k, passed))
            except DropRow as drop:
                return drop

    await backend.start()
    try:
        return list(await asyncio.gather(*(one(row) for row in rows)))
    finally:
        await backend.close()


def pairs_of(seed: int, num: int) -> list[Row]:
    """Units of labelling: requests with two answers in different styles, of which the oracle says which is better."""
    rng, found = random.Random(f"sampled labels/{seed}"), list[Row]()
    while len(found) < num:
        request = sample_request(rng, harmful=rng.random() < 0.6, split="test")
        styles = rng.sample(STYLES if request.task.harmful else STYLES[1:], 2)
        messages, answers = list(request.messages), [answer(rng, request.task, style) for style in styles]
        truth = oracle_verdict(messages, *answers)
        if truth is not None:
            name = f"{seed}-{len(found)}"
            about = {ROW_ID: name, "pair_id": name, "prompt_id": name, "messages": messages, "kind": "red_team"}
            texts = {"response_a": answers[0], "response_b": answers[1], "a_is_better": truth}
            found.append(about | texts | {"category": None, "split": "test"})
    return found


def labels_by(url: str, rows: Sequence[Row], config: Config, seed: int) -> Labels:
    """P(A) of each pair that could be labelled."""

    async def ask_label(row: Row, ask: Any) -> float:
        found = await label(row, ask, config=config, constitution=CONSTITUTION, form="chat", seed=seed, keep_ties=True)
        return float(found["prob_chosen"] if found["chosen_is_a"] else 1 - found["prob_chosen"])

    ends = asyncio.run(_each(url, rows, ask_label))
    return {row[ROW_ID]: end for row, end in zip(rows, ends, strict=True) if not isinstance(end, DropRow)}


def without_ties(labels: Labels) -> set[str]:
    """Pairs that the stage would keep: the others are dropped as ties."""
    return {name for name, prob in labels.items() if not is_tie(prob, TIE_MARGIN)}


def worth(rows: Sequence[Row], labels: Mapping[str, float], common: set[str]) -> dict[str, Any]:
    """Agreement with the oracle and Brier score over the pairs of `common`."""
    known = [row for row in rows if row[ROW_ID] in common]
    pairs = [Labelled(row["prompt_id"], [], labels[row[ROW_ID]], row["a_is_better"]) for row in known]
    return against_oracle(pairs, [pair.prob_a for pair in pairs]).model_dump(include={"agreement", "brier"})


def measure(seeds: Sequence[int], num: int, server: str) -> dict[str, Any]:
    """Per seed, and pooled over the seeds."""
    by_seed: list[dict[str, Any]] = []
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        models = {seed: ensure_model(seed=seed) for seed in seeds}
        start = partial(served_by_vllm, scratch) if server == "vllm" else micro_server.served
        urls = [stack.enter_context(start(model)) for model in models.values()]
        for place, seed in enumerate(seeds):
            rows = pairs_of(seed, num)
            door, refused = stack.enter_context(without_logprobs(urls[place]))
            sampled = labels_by(door, rows, SAMPLED, seed)
            scored = labels_by(urls[place], rows, SCORED, seed)
            other = labels_by(urls[(place + 1) % len(urls)], rows, SCORED, seed)
            panel = {name: (scored[name] + other[name]) / 2 for name in scored.keys() & other.keys()}
            labels = {"logprob": without_ties(scored), "sampled": without_ties(sampled)}
            both, judged = labels["logprob"] & labels["sampled"], set(panel)
            by_seed.append(
                {
                    "num_pairs": len(rows),
                    "num_ties": {name: len(rows) - len(found) for name, found in labels.items()},
                    "num_refused_for_logprobs": refused[0],
                    "reading": {
                        "logprob": worth(rows, scored, both),
                        "sampled": worth(rows, sampled, both),
                    },
                    "panel": {
                        "own": worth(rows, scored, judged),
                        "other": worth(rows, other, judged),
                        "panel": worth(rows, panel, judged),
                    },
                }
            )
            print(f"seed {seed}: {json.dumps(by_seed[-1])}", flush=True)
    return {"by_seed": by_seed, "pooled": _pooled(by_seed)}


def _pooled(by_seed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        part: {
            name: {figure: pooled([one[part][name][figure] for one in by_seed]) for figure in ("agreement", "brier")}
            for name in by_seed[0][part]
        }
        for part in ("reading", "panel")
    }


def panel_less_the_better(by_seed: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The panel's Brier score less that of the better of its two judges, which is another one from seed to seed."""
    briers = [{name: one["brier"]["value"] for name, one in own["panel"].items()} for own in by_seed]
    return results_file.spread([own["panel"] - min(own["own"], own["other"]) for own in briers])


def main() -> None:
    parser = argparse.ArgumentParser(description="Sampled verdicts and panels against the oracle.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pairs", type=int, default=60, help="per seed")
    parser.add_argument("--server", choices=("vllm", "transformers"), default="vllm")
    parser.add_argument("--results", type=Path, default=results_file.RESULTS)
    given = parser.parse_args()
    found = measure(given.seeds, given.pairs, given.server)
    agreement = {name: found["pooled"]["reading"][name]["agreement"]["value"] for name in ("logprob", "sampled")}
    ratio = agreement["sampled"] / agreement["logprob"]
    figures = {
        "server": given.server,
        **found,
        "verdicts_per_question": SAMPLED.verdicts,
        "sampled_to_logprob_agreement": {"value": ratio, "target": ">= 0.95"},
        "panel_brier_less_the_better": panel_less_the_better(found["by_seed"]) | {"target": "< 0"},
    }
    claim = "Eight sampled verdicts agree with the oracle >= 0.95 times as often as log-probabilities do"
    command = f"python -m benchmarks.sampled_labels --seeds {' '.join(map(str, given.seeds))} --server {given.server}"
    results_file.write("sampled_labels", claim, figures, given.seeds, given.results, command)


if __name__ == "__main__":
    main()
