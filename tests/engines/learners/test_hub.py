"""The hub without Ray: what a call becomes when workers come, answer, vanish or refuse."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

from cai_ray.engines.learners.hub import Hub, Reply


def played(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 10))


async def together(hub: Hub, group: str, num_workers: int = 2) -> None:
    for rank in range(num_workers):
        await hub.join(group, rank, num_workers)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_every_worker_does_every_command_once() -> None:
    async def scene() -> None:
        hub = Hub()
        waiting = asyncio.create_task(hub.ready())
        await hub.join("a", 1, 2)
        await settled()
        assert not waiting.done()
        await hub.join("a", 0, 2)
        assert (await waiting).group == "a"
        for number in (1, 2):
            call = asyncio.create_task(hub.call("a", "work", [number]))
            await settled()
            for rank in (1, 0):
                assert await hub.next("a", number - 1) == (number, "work", [number])
                assert not call.done()
                await hub.answer("a", rank, number, f"{rank} did {number}")
            assert await call == Reply("done", [f"0 did {number}", f"1 did {number}"])

    played(scene())


def test_another_group_means_that_the_first_is_lost() -> None:
    async def scene() -> None:
        hub = Hub()
        await together(hub, "a")
        call = asyncio.create_task(hub.call("a", "work", []))
        await settled()
        await hub.answer("a", 0, 1, "early")
        await hub.join("b", 0, 2)
        assert (await call).outcome == "lost"
        assert await hub.next("a", 0) is None  # one that lived on
        await hub.answer("a", 1, 1, "late")
        # Also when nobody was at work: the new group's models are not those of the old.
        assert (await hub.call("a", "work", [])).outcome == "lost"
        await hub.join("b", 1, 2)
        assert (await hub.ready()).group == "b"

    played(scene())


def test_a_refusal_ends_everything() -> None:
    async def scene() -> None:
        hub = Hub()
        await together(hub, "a")
        call = asyncio.create_task(hub.call("a", "work", []))
        await settled()
        await hub.fail("bad_config", "no such model")
        assert await call == Reply("bad_config", message="no such model")
        assert await hub.next("a", 1) is None
        assert await hub.is_over()
        assert (await hub.ready()).outcome == "bad_config"

    played(scene())


def test_workers_that_are_told_to_stop_end() -> None:
    async def scene() -> None:
        hub = Hub()
        await together(hub, "a", 1)
        ended = threading.Event()
        run = asyncio.create_task(hub._run_until_over(lambda: ended.wait(10) and None))
        idle = asyncio.create_task(hub.next("a", 0))
        await settled()
        stop = asyncio.create_task(hub.stop())
        assert await idle is None
        ended.set()
        await asyncio.gather(run, stop)
        assert (await hub.call("a", "work", [])).outcome == "gave_up"

    played(scene())


def test_ray_train_giving_up_is_told() -> None:
    async def scene() -> None:
        hub = Hub()
        await together(hub, "a")
        call = asyncio.create_task(hub.call("a", "work", []))

        def fit() -> None:
            raise RuntimeError("too many losses")

        await hub._run_until_over(fit)
        assert await call == Reply("gave_up", message="too many losses")

    played(scene())
