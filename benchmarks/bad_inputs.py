"""Bad inputs by the thousand: each ends as a person can use it, and every record of a file is in exactly one count.

Recipes, constitutions, prompt files and a server's replies are made wrong by chance, from a seed, and given to the
functions that the commands call. Fine is: accepted, exit 2, 3 or 75 with a message, or a row dropped for a reason.
Not fine is any other error (exit 1, a traceback), a record in two counts or in none, and silence in a message. How many
records a file has is known of whole files, and of damaged lines (.jsonl, .txt); of other damaged files it is checked
that the records counted are numbered without a gap, each once.
A share of the recipes and constitutions goes through the real command.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from benchmarks import results_file
from benchmarks.bad_inputs_made import ServerReply, damaged_yaml, good_reply, prompt_file, server_reply
from cai_ray import shelf
from cai_ray.config import EndpointConfig, ModelConfig, SamplingConfig
from cai_ray.constitution.source import load as load_constitution
from cai_ray.dropped import DropRow
from cai_ray.engines.backends.endpoint import EndpointBackend
from cai_ray.exits import EXIT_BAD_INPUT, EXIT_RETRYABLE, EXIT_TOO_MANY_DROPPED, exit_code
from cai_ray.pipeline.recipe import dump
from cai_ray.pipeline.recipe import load as load_recipe
from cai_ray.pipeline.steps import steps
from cai_ray.stages.inputs.sources import Config as PromptsConfig
from cai_ray.stages.inputs.sources import load as load_prompts

SEED = 0
COMMANDS_PER_INPUT = 1 / 500
MOST_TOLD = 20  # faults that are written out; all are counted
ASKED = [{"role": "user", "content": "How do I mend a chair?"}]
FIRST = [{"role": "user", "content": "Are you there?"}]
FINE_EXITS = {0, EXIT_BAD_INPUT, EXIT_TOO_MANY_DROPPED, EXIT_RETRYABLE}


class NotFine(Exception):
    """What must not happen to any input."""


def recipe(rng: Random, folder: Path) -> str:
    path = _damaged(rng, folder, "recipe")
    loaded = load_recipe(path)
    steps(loaded)
    dump(loaded)
    return "accepted"


def constitution(rng: Random, folder: Path) -> str:
    load_constitution(_damaged(rng, folder, "constitution"))
    return "accepted"


def _damaged(rng: Random, folder: Path, shelf_name: Any) -> Path:
    good = rng.choice(sorted(shelf.available(shelf_name).values()))
    path = folder / f"{shelf_name}.yaml"
    path.write_bytes(damaged_yaml(rng, good.read_text(encoding="utf-8")))
    return path


def prompts(rng: Random, folder: Path) -> str:
    made = prompt_file(rng)
    path = folder / f"prompts{made.suffix}"
    path.write_bytes(made.data)
    try:
        outcomes = list(load_prompts(PromptsConfig(path=str(path)), SEED))
    finally:
        path.unlink()
    numbers = [int(outcome.row_id.rpartition(":")[2]) for outcome in outcomes]
    if numbers != list(range(len(numbers))):
        raise NotFine(f"records {numbers} of {made.suffix}: one is in two counts or in none")
    if made.num_records is not None and len(numbers) != made.num_records:
        raise NotFine(f"{len(numbers)} of {made.num_records} records of {made.suffix} are counted")
    reasons = sorted({outcome.drop.reason for outcome in outcomes if outcome.drop is not None})
    return "rows dropped for a reason" if reasons else "accepted"


def reply(rng: Random, folder: Path) -> str:
    return asyncio.run(_asked(server_reply(rng), choose=rng.random() < 0.3))


async def _asked(answer: ServerReply, choose: bool) -> str:
    import httpx
    from openai import AsyncOpenAI

    def send(request: httpx.Request) -> httpx.Response:
        if FIRST[0]["content"].encode() in request.content:
            return httpx.Response(200, json=good_reply())
        return httpx.Response(answer.status, headers={"content-type": answer.content_type}, content=answer.body)

    endpoint = EndpointConfig(base_url="http://127.0.0.1:9/v1", model="m", max_retries=0)
    backend = EndpointBackend(ModelConfig(path="", endpoint=endpoint))
    async with httpx.AsyncClient(transport=httpx.MockTransport(send)) as client:
        backend.client = AsyncOpenAI(base_url=endpoint.base_url, api_key="none", max_retries=0, http_client=client)
        # A server that has answered once: it is no outage, and what is wrong is wrong with this reply.
        await backend.open("first", lambda number: number, lambda send: send())(FIRST, SamplingConfig(max_tokens=8))
        asking = backend.open("row", lambda number: number, lambda send: send())
        try:
            if choose:
                found = await asking.choose(ASKED, ["A", "B"])
                if not all(isinstance(value, float) for value in found):
                    raise NotFine(f"log-probabilities {found!r}")
            else:
                completion = await asking(ASKED, SamplingConfig(max_tokens=8))
                if not isinstance(completion.text, str) or not isinstance(completion.num_output_tokens, int):
                    raise NotFine(f"an answer {completion!r:.200}")
        except DropRow:
            return "row dropped for a reason"
    return "accepted"


KINDS: dict[str, Callable[[Random, Path], str]] = {
    "recipe": recipe,
    "constitution": constitution,
    "prompt file": prompts,
    "endpoint reply": reply,
}


def tried(kind: str, number: int, folder: Path, seed: int = SEED) -> tuple[str, str | None]:
    """(outcome, what is not fine about it) of one input; the same for the same seed and number."""
    try:
        return KINDS[kind](Random(f"{seed} {kind} {number}"), folder), None
    except NotFine as fault:
        return "not fine", str(fault)
    except Exception as error:
        code = exit_code(error)
        if code is None:
            at = traceback.extract_tb(error.__traceback__)[-1]
            return "not fine", f"{type(error).__name__}: {error!s:.200} at {at.filename}:{at.lineno}"
        return f"exit {code}", None if str(error).strip() else "a message without a word"


def tried_by_command(kind: str, number: int, folder: Path, seed: int = SEED) -> tuple[str, str | None]:
    """The same of a recipe or a constitution, through the command in a process of its own."""
    path = _damaged(Random(f"{seed} {kind} {number}"), folder, kind)
    words = ["config", "show"] if kind == "recipe" else ["constitution", "check"]
    command = [sys.executable, "-m", "cai_ray.cli", *words, str(path)]
    done = subprocess.run(command, capture_output=True, timeout=120)
    said = (done.stdout + done.stderr).decode(errors="replace")
    if done.returncode not in FINE_EXITS or "Traceback" in said:
        return "not fine", f"exit {done.returncode}: {said[-300:]}"
    return f"exit {done.returncode}", None


def run(count: int, by_command: int, seed: int = SEED) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Outcomes by kind, and what was not fine, of `count` inputs, a quarter of each kind; `by_command`: as commands."""
    outcomes: dict[str, Counter[str]] = {}
    faults = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        kinds = list(KINDS)
        for number in range(count):
            as_command = number < by_command
            kind = kinds[number % (2 if as_command else len(kinds))]
            outcome, fault = (tried_by_command if as_command else tried)(kind, number, folder, seed)
            outcomes.setdefault(f"{kind}, by command" if as_command else kind, Counter())[outcome] += 1
            if fault is not None:
                faults.append(f"{kind} {number}: {fault}")
    return {kind: dict(sorted(found.items())) for kind, found in outcomes.items()}, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    outcomes, faults = run(arguments.count, round(arguments.count * COMMANDS_PER_INPUT), arguments.seed)
    figures = {
        "inputs": arguments.count,
        "outcomes": outcomes,
        "not_fine": {"value": len(faults), "target": 0, "met": not faults},
        "faults": faults[:MOST_TOLD],
    }
    path = results_file.write(
        "bad_inputs",
        "No bad input ends in a traceback or exit 1; no record of a file is in two counts, or in none where damage "
        "leaves the number known.",
        figures,
        [arguments.seed],
        command=f"python -m benchmarks.bad_inputs --count {arguments.count}",
    )
    print(f"{path}: {len(faults)} of {arguments.count} not fine")
    for fault in faults[:MOST_TOLD]:
        print(f"  {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
