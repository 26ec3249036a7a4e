"""An OpenAI-compatible moderation endpoint as a backend: retries, time limits and errors are those of `endpoint`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cai_ray.engines.backends.endpoint import EndpointBackend
from cai_ray.engines.conversations.asking import Counts, Guard


class ModerationBackend(EndpointBackend):
    """The client of one server's /moderations."""

    def open(self, row_id: str, seed_of: Callable[[int], int], guard: Guard) -> ModerationConversation:  # type: ignore[override]
        return ModerationConversation(self, guard)


class ModerationConversation(Counts):
    """One row's door to a ModerationBackend."""

    def __init__(self, backend: ModerationBackend, guard: Guard) -> None:
        super().__init__()
        self._backend, self._guard = backend, guard

    async def moderate(self, text: str) -> Any:
        """The server's reply about one text, decoded and otherwise as it came. Raises DropRow as chats do."""
        backend = self._backend
        body = {"model": backend.endpoint.model, "input": text}

        async def send() -> Any:
            # The client's typed call would drop categories that it does not know.
            return await backend.request(
                lambda: backend.client.post("/moderations", cast_to=object, body=body), lambda reply: None
            )

        reply = await self._guard(send)
        self.account_read(0)
        return reply
