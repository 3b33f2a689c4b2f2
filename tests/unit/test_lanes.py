"""Who is inside beside whom, in which order."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from deployments.lanes import Lanes


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class Caller:
    """One that wants in; ``beside`` is what it was told there."""

    def __init__(self, lanes: Lanes, key: str | None) -> None:
        self.beside: bool | None = None
        self._leave = asyncio.Event()
        self.task = asyncio.ensure_future(self._run(lanes, key))

    async def _run(self, lanes: Lanes, key: str | None) -> None:
        async with AsyncExitStack() as stack:
            self.beside = await stack.enter_async_context(lanes.take(key))
            await self._leave.wait()

    async def leave(self) -> None:
        self._leave.set()
        await self.task
        await settle()


async def come(lanes: Lanes, *keys: str | None) -> list[Caller]:
    callers = [Caller(lanes, key) for key in keys]
    await settle()
    return callers


def told(callers: list[Caller]) -> list[bool | None]:
    return [caller.beside for caller in callers]


def test_two_of_a_key_are_inside_at_once_and_a_third_waits() -> None:
    async def check() -> None:
        callers = await come(Lanes(), "a", "a", "a")
        assert told(callers) == [False, True, None]
        await callers[0].leave()
        assert told(callers) == [False, True, True]
        await callers[1].leave()
        await callers[2].leave()

    asyncio.run(check())


def test_one_without_a_key_is_alone_and_nobody_overtakes_it() -> None:
    async def check() -> None:
        callers = await come(Lanes(), "a", None, "a", None)
        assert told(callers) == [False, None, None, None], "the third could join the first, but came later"
        for caller, then in zip(callers, ([False, False, None, None], [False] * 3 + [None], [False] * 4), strict=False):
            await caller.leave()
            assert told(callers) == then
        await callers[3].leave()

    asyncio.run(check())


def test_another_key_waits_until_all_have_left() -> None:
    async def check() -> None:
        callers = await come(Lanes(), "a", "a", "b")
        await callers[0].leave()
        assert told(callers) == [False, True, None]
        await callers[1].leave()
        assert told(callers) == [False, True, False]
        await callers[2].leave()

    asyncio.run(check())


def test_who_is_cancelled_while_it_waits_is_in_nobodys_way() -> None:
    async def check() -> None:
        callers = await come(Lanes(), "a", None, None, "a")
        for caller in callers[1:3]:  # the first of those who wait, and one behind it
            caller.task.cancel()
        await settle()
        assert told(callers) == [False, None, None, True]
        await callers[0].leave()
        await callers[3].leave()

    asyncio.run(check())
