from __future__ import annotations

import asyncio

from cai_ray.engines.conversations.row_gate import RowGate


def test_the_limit_is_the_smaller_of_rows_and_cache() -> None:
    assert RowGate(100, None, 500).limit == 100
    assert RowGate(100, 10_000, 500).limit == 20
    assert RowGate(100, 10_000, 20_000).limit == 1
    assert RowGate(100, 10_000, 500, fixed=7).limit == 7


def test_the_limit_follows_what_conversations_need() -> None:
    gate = RowGate(1000, 10_000, 1000)
    for _ in range(400):
        gate.learn(100)
    assert 80 <= gate.limit <= 100
    for _ in range(2000):
        gate.learn(500)
    assert gate.limit == 20


def test_never_more_rows_open_than_the_limit_and_all_get_their_turn() -> None:
    async def scenario() -> None:
        gate = RowGate(5, None, 1)
        num_open, most, order = 0, 0, []

        async def row(k: int) -> None:
            nonlocal num_open, most
            async with gate.row():
                num_open += 1
                most = max(most, num_open)
                order.append(k)
                await asyncio.sleep(0)
                num_open -= 1

        await asyncio.gather(*(row(k) for k in range(50)))
        assert most == 5
        assert order == sorted(order)

    asyncio.run(scenario())


def test_a_cancelled_wait_gives_its_place_back() -> None:
    async def scenario() -> None:
        gate = RowGate(1, None, 1)
        entered = asyncio.Event()

        async def hold() -> None:
            async with gate.row():
                entered.set()
                await asyncio.sleep(0.01)

        async def wait() -> str:
            async with gate.row():
                return "in"

        holder = asyncio.ensure_future(hold())
        await entered.wait()
        waiters = [asyncio.ensure_future(wait()) for _ in range(3)]
        await asyncio.sleep(0)
        waiters[0].cancel()
        await holder
        waiters[1].cancel()  # perhaps just when it is let in
        assert await asyncio.wait_for(waiters[2], 60) == "in"
        assert await asyncio.wait_for(wait(), 60) == "in"

    asyncio.run(scenario())


def test_whoever_watches_hears_how_many_are_open() -> None:
    async def scenario() -> list[int]:
        heard: list[int] = []
        gate = RowGate(2, None, 1, told=heard.append)

        async def row() -> None:
            async with gate.row():
                await asyncio.sleep(0)

        await asyncio.gather(*(row() for _ in range(3)))
        return heard

    heard = asyncio.run(scenario())
    assert max(heard) == 2 and heard[-1] == 0
