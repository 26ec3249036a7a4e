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
from collections.abc import Mapping
from typing import Any

from cai_ray.config import BatchConfig
from cai_ray.engines.backends.batches.journal import METADATA, Entry, Journal
from cai_ray.errors import ConfigError, EngineGaveUp

logger = logging.getLogger(__name__)
ENDED = ("completed", "expired", "failed", "cancelled")
MOST_BYTES = 150 << 20  # of one file; OpenAI takes 200 MB
Line = Mapping[str, Any]  # {"status_code": int, "body": {...}} of one request
LOST: Line = {"status_code": 503, "body": {"error": {"message": "the batch ended without an answer to it"}}}


class Desk:
    """One engine's. `client`: an AsyncOpenAI. Raises EngineGaveUp and ConfigError where a whole batch fares so."""

    def __init__(self, client: Any, config: BatchConfig, journal: Journal) -> None:
        self._client, self._config, self._journal = client, config, journal
        self._waiting: dict[str, dict[str, tuple[str, asyncio.Future[Line]]]] = {}  # path -> custom_id -> line, answer
        self._num_bytes = 0
        self._last_came = 0.0
        self._sender: asyncio.Task[None] | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self._known: dict[str, list[Entry]] | None = None  # custom_id -> batches of earlier attempts
        self._read: dict[str, asyncio.Task[dict[str, Line]]] = {}  # batch id -> its lines
        self._refused: dict[str, Exception] = {}  # batch id -> why the provider did not take it
        self._looking = asyncio.Lock()

    async def ask(self, custom_id: str, path: str, body: Mapping[str, Any]) -> Line:
        """The answer to one request; an earlier attempt's, where that was paid already and went well."""
        for entry in (await self._earlier()).pop(custom_id, ()):
            line = (await self._lines(entry)).get(custom_id)
            if line is not None and line["status_code"] == 200:
                return line
        asked = json.dumps({"custom_id": custom_id, "method": "POST", "url": path, "body": body}) + "\n"
        answer: asyncio.Future[Line] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(path, {})[custom_id] = (asked, answer)
        self._num_bytes += len(asked)
        self._last_came = time.monotonic()
        num_waiting = sum(map(len, self._waiting.values()))
        if num_waiting >= self._config.requests or self._num_bytes >= MOST_BYTES:
            self._send_all()
        elif self._sender is None:
            self._sender = asyncio.ensure_future(self._send_when_quiet())
        return await answer

    async def _send_when_quiet(self) -> None:
        while (left_s := self._last_came + self._config.gather_s - time.monotonic()) > 0:
            await asyncio.sleep(left_s)
        self._sender = None
        self._send_all()

    def _send_all(self) -> None:
        """What waits, as one batch per path."""
        waiting, self._waiting, self._num_bytes = self._waiting, {}, 0
        for path, requests in waiting.items():
            task = asyncio.ensure_future(self._run(path, requests))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _run(self, path: str, requests: dict[str, tuple[str, asyncio.Future[Line]]]) -> None:
        try:
            entry = await self._made(path, {custom_id: asked for custom_id, (asked, _) in requests.items()})
            lines = await self._lines(entry)
            if (refused := self._refused.get(str(entry.batch_id))) is not None:
                raise refused
        except Exception as error:
            for _, answer in requests.values():
                if not answer.done():
                    answer.set_exception(error)
            return
        for custom_id, (_, answer) in requests.items():
            if not answer.done():
                answer.set_result(lines.get(custom_id, LOST))

    async def _made(self, path: str, requests: Mapping[str, str]) -> Entry:
        """Upload the requests and make a batch of them."""
        entry = Entry(key=uuid.uuid4().hex, custom_ids=tuple(requests))
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

    # --- Earlier attempts ---------------------------------------------------------------------------------

    async def _earlier(self) -> dict[str, list[Entry]]:
        """custom_id -> the batches of earlier attempts that hold it, the entries without an id looked up."""
        async with self._looking:
            if self._known is None:
                entries = await asyncio.to_thread(self._journal.entries)
                self._known = {}
                ids = await self._made_by_key() if any(entry.batch_id is None for entry in entries) else {}
                for entry in entries:
                    found = entry if entry.batch_id else entry.model_copy(update={"batch_id": ids.get(entry.key)})
                    if found.batch_id is None:
                        await asyncio.to_thread(self._journal.forget, entry)
                        continue
                    for custom_id in found.custom_ids:
                        self._known.setdefault(custom_id, []).append(found)
        return self._known

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
