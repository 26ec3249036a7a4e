"""An endpoint that is asked by batch files: the same requests, hours later and for less.

All open conversations put their next request; when none comes any more they go as one batch, so that conversations of
several rounds go round by round. Tested in tests/engines/backends/batches/test_backend.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from cai_ray.artifacts.storage import Storage
from cai_ray.config import BatchConfig, ModelConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends.batches.desk import Desk
from cai_ray.engines.backends.batches.journal import Journal
from cai_ray.engines.backends.endpoint import EndpointBackend
from cai_ray.engines.backends.endpoint_errors import RefusedLine
from cai_ray.engines.backends.endpoint_replies import first_choice
from cai_ray.engines.conversations.asking import Guard
from cai_ray.seeding import stable_id

T = TypeVar("T")


def with_room(model: ModelConfig) -> ModelConfig:
    """The model with room and time for whole batches, where its server is asked by them."""
    if model.endpoint is None or model.endpoint.batch is None:
        return model
    patience_s = 100 * model.endpoint.batch.most_hours * 3600  # a row may wait for a batch at each round
    limits = {"row_time_limit_s": patience_s, "stall_limit_s": patience_s}
    engine = model.engine.model_copy(update={"rows_in_flight": model.endpoint.batch.requests, **limits})
    return model.model_copy(update={"engine": engine})


class BatchBackend(EndpointBackend):
    """The client of a server that takes batches."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__(model)
        assert self.endpoint.batch is not None
        self._batch: BatchConfig = self.endpoint.batch
        self.max_concurrent_rows = self._batch.requests
        self._journal = Journal(None)
        self._desk: Desk | None = None

    def keep_in(self, folder: Storage) -> None:
        self._journal = Journal(folder)

    async def start(self) -> None:
        await super().start()
        self._desk = self._desk or Desk(self.client, self._batch, self._journal)

    async def first_answer(self, guard: Guard) -> str | None:
        """Not asked: one request alone would take as long as all of them."""
        return None

    async def check_answers(self) -> None:
        """Nothing: every batch has its own time limit."""

    async def send(self, key: str, is_chat: bool, options: dict[str, Any], extra: dict[str, Any]) -> Any:
        from openai.types import Completion
        from openai.types.chat import ChatCompletion

        assert self._desk is not None
        path = "/v1/chat/completions" if is_chat else "/v1/completions"
        body = {"model": self.endpoint.model, **options, **extra}
        line = await self._desk.ask(stable_id("batched", key, path, body), path, body)
        if line["status_code"] != 200:
            body = line["body"]
            raise RefusedLine(line["status_code"], body.get("error", body) if isinstance(body, dict) else body)
        return (ChatCompletion if is_chat else Completion).construct(**line["body"])

    async def request(self, send: Callable[[], Awaitable[T]], check: Callable[[T], object] = first_choice) -> T:
        """One request, again in the next batch while its retries last. Raises DropRow, EngineGaveUp, ConfigError."""
        from openai import OpenAIError

        for attempt in range(self.endpoint.max_retries + 1):
            try:
                result = await send()
                check(result)
            except (OpenAIError, ValueError, DropRow) as error:
                outcome = self.drop_of(error)
                if outcome.reason != DropReason.ENDPOINT_ERROR or attempt == self.endpoint.max_retries:
                    raise outcome from error
                await asyncio.sleep(0)
            else:
                self._first.answered()
                return result
        raise AssertionError("the last attempt returns or raises")
