"""Batch files against a local server that speaks their protocol: rounds, failures, an attempt that goes on."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cai_ray.artifacts.storage import Storage
from cai_ray.config import ModelConfig, SamplingConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends.batches.backend import BatchBackend, with_room
from cai_ray.engines.backends.factory import backend_factory
from cai_ray.errors import ConfigError, EngineGaveUp
from cai_ray.fingerprint import model_settings
from tests.engines.backends.batches.batch_server import BatchServer, serving_batches
from tests.field.endpoint_runs import endpoint_recipe
from tests.runs import cli, start, wait_for

BATCH = {"gather_s": 0.2, "poll_s": 0.05}
SAMPLING = SamplingConfig(temperature=1.0, max_tokens=8)


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with serving_batches() as found:
        yield found


def model(server: BatchServer, **endpoint: Any) -> ModelConfig:
    given = {"base_url": server.url, "model": "m", "max_retries": 2, "batch": BATCH, **endpoint}
    return ModelConfig.model_validate({"endpoint": given})


async def nothing(send: Callable[[], Awaitable[Any]]) -> Any:
    return await send()


def answers(
    server: BatchServer, folder: Path | None, num_rows: int, num_rounds: int = 1, words: str = "Say", **endpoint: Any
) -> list[Any]:
    """What each row hears in its last round, or why it was dropped; all rows at once."""

    async def row(backend: BatchBackend, number: int) -> Any:
        conversation = backend.open(f"row{number}", lambda k: 1000 * number + k, nothing)
        said = ""
        for k in range(num_rounds):
            messages = [{"role": "user", "content": f"{words} {number}, round {k}{said}"}]
            try:
                said = (await conversation(messages, SAMPLING)).text
            except DropRow as drop:
                return drop.reason
        return said

    async def run() -> list[Any]:
        backend = backend_factory(model(server, **endpoint))()
        assert isinstance(backend, BatchBackend)
        if folder is not None:
            backend.keep_in(Storage(str(folder)))
        await backend.start()
        try:
            return list(await asyncio.gather(*(row(backend, number) for number in range(num_rows))))
        finally:
            await backend.close()

    return asyncio.run(run())


def test_rounds_go_as_one_batch_each_and_answers_find_their_rows(server: BatchServer) -> None:
    found = answers(server, None, 20, num_rounds=3)
    assert found == [f"A calm answer. {1000 * number + 2}" for number in range(20)]
    assert server.num_requests == [20, 20, 20] and set(server.paid.values()) == {1}
    line = json.loads(server.files["file-0"].splitlines()[0])
    assert len(line["custom_id"]) <= 64 and line["body"]["model"] == "m"


def test_a_full_batch_goes_at_once(server: BatchServer) -> None:
    answers(server, None, 20, batch=BATCH | {"requests": 8})
    assert sorted(server.num_requests, reverse=True) == [8, 8, 4]


def test_what_fails_is_asked_again_or_dropped_by_reason(server: BatchServer) -> None:
    server.lose = 2
    server.model.fail_on = "Say 3,"
    found = answers(server, None, 6)
    assert found[3] == DropReason.ENDPOINT_ERROR
    assert [answer for k, answer in enumerate(found) if k != 3 and not isinstance(answer, DropReason)]
    assert len(server.num_requests) <= 3 and server.num_requests[0] == 6  # two retries
    server.lose, server.model.fail_on = 0, None
    server.model.refuse_words = "prompt is too long"
    assert answers(server, None, 2) == [DropReason.TOO_LONG] * 2
    server.model.refuse_words = "no such thing here"
    with pytest.raises(ConfigError, match="refuses the requests"):  # all alike
        answers(server, None, 4)


def test_a_refused_batch_ends_the_run(tmp_path: Path, server: BatchServer) -> None:
    server.refuse = ("invalid_json_line", "line 1 is no request")
    with pytest.raises(ConfigError, match="line 1 is no request"):
        answers(server, None, 2)
    with pytest.raises(ConfigError, match="line 1 is no request"):
        answers(server, tmp_path, 2)
    server.refuse = None
    assert len(answers(server, tmp_path, 2)) == 2  # mended: the refused batch is no hindrance
    server.refuse = ("token_limit_exceeded", "Enqueued token limit reached")
    with pytest.raises(EngineGaveUp, match=r"lower endpoint\.batch\.requests"):
        answers(server, None, 2)


def test_a_batch_that_takes_too_long_ends_the_run(server: BatchServer) -> None:
    server.is_open.clear()
    with pytest.raises(EngineGaveUp, match="most_hours"):
        answers(server, None, 2, batch=BATCH | {"most_hours": 1e-5})


def test_an_attempt_that_goes_on_pays_nothing_twice(tmp_path: Path, server: BatchServer) -> None:
    server.is_open.clear()
    with pytest.raises(EngineGaveUp):  # as good as killed while it waits
        answers(server, tmp_path, 6, num_rounds=2, batch=BATCH | {"most_hours": 1e-4})
    server.is_open.set()
    (entry,) = (tmp_path / "batches").glob("*.json")
    known = json.loads(entry.read_text())
    entry.write_text(json.dumps(known | {"batch_id": None}))  # killed between making it and writing that down
    (tmp_path / "batches" / "never.json").write_text(json.dumps({"key": "never", "custom_ids": ["x"]}))
    found = answers(server, tmp_path, 6, num_rounds=2)
    assert found == [f"A calm answer. {1000 * number + 1}" for number in range(6)]
    assert server.num_requests == [6, 6] and set(server.paid.values()) == {1}
    assert not (tmp_path / "batches" / "never.json").exists()
    again = answers(server, tmp_path, 6, num_rounds=2)  # rows that were not committed
    assert again == found and server.num_requests == [6, 6]
    other = answers(server, tmp_path, 6, words="Tell")  # another question, another answer
    assert server.num_requests == [6, 6, 6] and len(other) == 6


def test_an_earlier_failure_is_asked_again(tmp_path: Path, server: BatchServer) -> None:
    server.model.fail_on = "Say 1,"
    assert answers(server, tmp_path, 3, max_retries=0)[1] == DropReason.ENDPOINT_ERROR
    server.model.fail_on = None
    assert answers(server, tmp_path, 3)[1] == "A calm answer. 1000"
    assert server.num_requests == [3, 1]


def test_batches_change_no_fingerprint(server: BatchServer) -> None:
    with_batches = model(server)
    assert with_batches.endpoint is not None
    without = with_batches.model_copy(update={"endpoint": with_batches.endpoint.model_copy(update={"batch": None})})
    assert model_settings(with_batches) == model_settings(without)
    assert with_room(with_batches).engine.rows_in_flight == 10_000 and with_room(without) == without


@pytest.mark.slow
@pytest.mark.long
def test_a_killed_run_finds_its_batches(tmp_path: Path, server: BatchServer) -> None:
    server.is_open.clear()
    endpoint = {"base_url": server.url, "batch": BATCH | {"gather_s": 1.0}}
    rounds = {"num_revisions": 1, "scaling": {"rows_per_task": 4, "rows_per_part": 40}}
    recipe = endpoint_recipe(tmp_path, server.model, 40, models={"policy": {"endpoint": endpoint}}, revise=rounds)
    driver = start(cli(recipe), tmp_path / "log")
    wait_for(lambda: sum(server.num_requests) == 40, 120, "all rows at the provider")
    time.sleep(2)  # its id is written down
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(60) == 75
    server.is_open.set()
    again = start(cli(recipe), tmp_path / "log")
    assert again.wait(150) == 0, (tmp_path / "log").read_text()
    assert set(server.paid.values()) == {1} and len(server.paid) == 40 * 3
    manifest = json.loads((tmp_path / "run" / "revise" / "manifest.json").read_text())
    assert manifest["rows_out"] == 40 and manifest["counters"]["num_prompt_tokens"] == 40 * 3 * 10
