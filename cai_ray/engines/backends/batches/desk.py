"""Requests wait at a desk until no further one comes; they go as one batch, and each hears its own answer.

The protocol is OpenAI's: a JSON line per request is uploaded (`/v1/files`), a batch is made of the file
(`/v1/batches`), asked after until it has ended, and its output and error files are read, by `custom_id`.

Tested in tests/engines/backends/batches/test_backend.py.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cai_ray.config import BatchConfig
from cai_ray.engines.backends.batches.journal import METADATA, Entry, Journal
from cai_ray.errors import ConfigError, EngineGaveUp

logger = logging.getLogger(__name__)
ENDED = ("completed", "expired", "failed", "cancelled")
MOST_BYTES = 150 << 20  # of one file; OpenAI takes 200 MB
Line = Mapping[str, Any]  # {"status_code": int, "body": {...}} of one request
LOST: Line = {"status_code": 503, "body": {"error": {"message": "the batch ended without an answer to it"}}}


@dataclass(frozen=True)
class Asked:
    """A request as it goes into the file, and who waits for its answer."""

    line: str
    answer: asyncio.Future[Line]

    def hears(self, line: Line) -> None:
        if not self.answer.done():
            self.answer.set_result(line)


def _fail(requests: Mapping[str, Asked], error: Exception) -> None:
    for asked in requests.values():
        if not asked.answer.done():
            asked.answer.set_exception(error)


class Desk:
    """One engine's. `client`: an AsyncOpenAI. Raises EngineGaveUp and ConfigError where a whole batch fares so."""

    def __init__(self, client: Any, config: BatchConfig, journal: Journal) -> None:
        self._client, self._config, self._journal = client, config, journal
        self._waiting: dict[str, dict[str, Asked]] = {}  # path -> custom_id -> a request
        self._num_bytes = 0
        self._last_came = 0.0
        self._sender: asyncio.Task[None] | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self._given: set[tuple[str, str]] = set()  # (batch id, custom_id) whose answers were handed out
        self._read: dict[str, asyncio.Task[dict[str, Line]]] = {}  # batch id -> its lines
        self._refused: dict[str, Exception] = {}  # batch id -> why the provider did not take it
        self._making: set[str] = set()  # keys of batches that are being made

    async def ask(self, custom_id: str, path: str, body: Mapping[str, Any]) -> Line:
        """The answer to one request; that of a batch which was sent before, where it went well."""
        line = json.dumps({"custom_id": custom_id, "method": "POST", "url": path, "body": body}) + "\n"
        answer: asyncio.Future[Line] = asyncio.get_running_loop().create_future()
        self._put(path, custom_id, Asked(line, answer))
        return await answer

    def _put(self, path: str, custom_id: str, asked: Asked) -> None:
        self._waiting.setdefault(path, {})[custom_id] = asked
        self._num_bytes += len(asked.line)
        self._last_came = time.monotonic()
        num_waiting = sum(map(len, self._waiting.values()))
        if num_waiting >= self._config.requests or self._num_bytes >= MOST_BYTES:
            self._send_all()
        elif self._sender is None:
            self._sender = asyncio.ensure_future(self._send_when_quiet())

    async def _send_when_quiet(self) -> None:
        while (left_s := self._last_came + self._config.gather_s - time.monotonic()) > 0:
            await asyncio.sleep(left_s)
        self._sender = None
        self._send_all()

    def _send_all(self) -> None:
        """What waits, as one batch per path."""
        waiting, self._waiting, self._num_bytes = self._waiting, {}, 0
        for path, requests in waiting.items():
            self._start(self._find_or_send(path, requests))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _find_or_send(self, path: str, requests: dict[str, Asked]) -> None:
        """Batches that hold some of the requests are waited for; the rest goes as a new one."""
        try:
            earlier = await self._earlier(requests)
        except Exception as error:
            _fail(requests, error)
            return
        for entry, custom_ids in earlier:
            self._start(self._hand_out(path, entry, {custom_id: requests.pop(custom_id) for custom_id in custom_ids}))
        if requests:
            self._start(self._send(path, requests))

    async def _send(self, path: str, requests: dict[str, Asked]) -> None:
        try:
            entry = await self._made(path, {custom_id: asked.line for custom_id, asked in requests.items()})
            lines = await self._lines(entry)
            if (refused := self._refused.get(str(entry.batch_id))) is not None:
                raise refused
        except Exception as error:
            _fail(requests, error)
            return
        for custom_id, asked in requests.items():
            self._given.add((str(entry.batch_id), custom_id))
            asked.hears(lines.get(custom_id, LOST))

    async def _hand_out(self, path: str, entry: Entry, requests: dict[str, Asked]) -> None:
        """Answers of a batch that was sent before; what went wrong there is asked again."""
        try:
            lines = await self._lines(entry)
        except Exception as error:
            _fail(requests, error)
            return
        for custom_id, asked in requests.items():
            self._given.add((str(entry.batch_id), custom_id))
            line = lines.get(custom_id, LOST)
            if line["status_code"] == 200:
                asked.hears(line)
            else:
                self._put(path, custom_id, asked)

    async def _made(self, path: str, requests: Mapping[str, str]) -> Entry:
        """Upload the requests and make a batch of them."""
        entry = Entry(key=uuid.uuid4().hex, custom_ids=tuple(requests))
        self._making.add(entry.key)
        content = "".join(requests.values()).encode()
        file = await self._client.files.create(file=(f"{entry.key}.jsonl", content), purpose="batch")
        await asyncio.to_thread(self._journal.write, entry)
        batch = await self._client.batches.create(
            input_file_id=file.id,
            endpoint=path,
            completion_window=self._config.window,
            metadata={METADATA: entry.key},
        )
        entry = entry.model_copy(update={"batch_id": batch.id})
        await asyncio.to_thread(self._journal.write, entry)
        logger.info("batch %s: %d requests sent", batch.id, len(requests))
        return entry

    # --- Batches that were sent before: by an earlier attempt, an engine that is gone, or this one -----------

    async def _earlier(self, custom_ids: Iterable[str]) -> list[tuple[Entry, list[str]]]:
        """Batches that hold some of these, each of them once, and no answer that was handed out already."""
        left = set(custom_ids)
        found = []
        for entry in await self._entries():
            held = [one for one in entry.custom_ids if one in left and (entry.batch_id, one) not in self._given]
            if held:
                left.difference_update(held)
                found.append((entry, held))
        return found

    async def _entries(self) -> list[Entry]:
        """All of the journal, those without an id looked up by their key."""
        entries = await asyncio.to_thread(self._journal.entries)
        if all(entry.batch_id for entry in entries):
            return entries
        ids, found = await self._made_by_key(), []
        for entry in entries:
            if batch_id := entry.batch_id or ids.get(entry.key):
                found.append(entry.model_copy(update={"batch_id": batch_id}))
            elif entry.key not in self._making:
                await asyncio.to_thread(self._journal.forget, entry)
        return found

    async def _made_by_key(self) -> dict[str, str]:
        """Key -> id of every batch that the provider has of ours."""
        found = {}
        async for batch in self._client.batches.list(limit=100):
            if key := (batch.metadata or {}).get(METADATA):
                found[key] = batch.id
        return found

    # --- Answers ------------------------------------------------------------------------------------------

    async def _lines(self, entry: Entry) -> dict[str, Line]:
        """custom_id -> answer, once the batch has ended; read once."""
        assert entry.batch_id is not None
        if entry.batch_id not in self._read:
            self._read[entry.batch_id] = asyncio.ensure_future(self._ended_lines(entry.batch_id))
        return await asyncio.shield(self._read[entry.batch_id])

    async def _ended_lines(self, batch_id: str) -> dict[str, Line]:
        until = time.monotonic() + self._config.most_hours * 3600
        while (batch := await self._client.batches.retrieve(batch_id)).status not in ENDED:
            if time.monotonic() > until:
                raise EngineGaveUp(
                    f"batch {batch_id} is {batch.status} after endpoint.batch.most_hours={self._config.most_hours:g}; "
                    "run the same command again to go on waiting"
                )
            await asyncio.sleep(self._config.poll_s)
        if batch.status == "failed":
            self._refused[batch_id] = _refused(batch)
            return {}
        found: dict[str, Line] = {}
        for file_id in (batch.error_file_id, batch.output_file_id):
            for text in (await self._client.files.content(file_id)).text.splitlines() if file_id else ():
                line = json.loads(text)
                found[line["custom_id"]] = line.get("response") or _failed(line.get("error"))
        logger.info("batch %s: %s, %d answers", batch_id, batch.status, len(found))
        return found


def _failed(error: Any) -> Line:
    """A request that was not answered: one that expired may be asked again."""
    return {"status_code": 503, "body": {"error": error if isinstance(error, dict) else {"message": str(error)}}}


def _refused(batch: Any) -> Exception:
    """A batch that the provider did not take at all."""
    errors = (batch.errors.data if batch.errors else None) or []
    said = "; ".join(dict.fromkeys(str(error.message) for error in errors[:5])) or "no reason given"
    if any("limit" in str(error.code) for error in errors):
        return EngineGaveUp(
            f"batch {batch.id} was refused ({said}); lower endpoint.batch.requests, or run it again later"
        )
    return ConfigError(f"batch {batch.id} was refused ({said}); mend the endpoint's settings, then run it again")
