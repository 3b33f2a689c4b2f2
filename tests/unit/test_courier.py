"""Calls that travel together: what they share, and what they do not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from deployments.ingress.courier import CAP, WINDOW, Courier, ModelFailed
from deployments.messages import Call, Result
from tollama.errors import RunnerFailed
from tollama.seam import Task


def call(name: str, n_items: int = 1, **options: Any) -> Call:
    return Call("m", "d", b"ref", (name.encode(),), n_items, Task(3, (0.5,), options), 60.0, 1e12, name)


class Family:
    """Answers each part with itself, when told to; fails what is named in ``poison``."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.open = asyncio.Event()
        self.poison: Exception | None = None
        self.inference_ms = 0.0
        self.cancelled = 0
        self.courier = Courier(self.send)

    async def send(self, call: Call) -> Result:
        names = [part.decode() for part in call.parts]
        self.calls.append(names)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.poison is not None and "poison" in names:
            raise self.poison
        return Result(call.parts, 0.0, 0.0, self.inference_ms, call.n_items, "cpu", 1.0)

    def ask(self, *calls: Call) -> list[asyncio.Future[Result]]:
        return [self.courier.carry(one) for one in calls]

    async def busy(self) -> list[asyncio.Future[Result]]:
        """As many calls under way as there may be of one kind."""
        tasks = []
        for _ in range(WINDOW):
            tasks += self.ask(call("first"))
            await settle()
        assert self.calls == [["first"]] * WINDOW
        return tasks

    async def computing(self) -> tuple[asyncio.Event, list[asyncio.Future[Result]]]:
        """One call is computed, and another waits to leave beside it; the event that ends the first, and both.

        A tensor call is known to take three seconds.
        """
        self.inference_ms = 3000.0
        before, beside = self.open, asyncio.Event()
        tasks = self.ask(call("before"))
        await settle()
        self.open = beside
        tasks += self.ask(call("computed"))
        await settle()
        self.open = asyncio.Event()
        tasks += self.ask(call("next"))
        before.set()
        await tasks[0]
        await settle()
        assert self.calls == [["before"], ["computed"]]
        return beside, tasks[1:]


def run(check: Callable[[Family], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(5):
            await check(Family())

    asyncio.run(main())


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_beside_a_call_that_is_computed_what_is_to_leave_waits_for_others() -> None:
    async def check(family: Family) -> None:
        beside, tasks = await family.computing()
        tasks += family.ask(call("later"))
        await settle()
        assert len(family.calls) == 2
        beside.set()
        family.open.set()
        await asyncio.gather(*tasks)
        assert family.calls[2:] == [["next", "later"]]

    run(check)


def test_it_waits_a_moment_only() -> None:
    async def check(family: Family) -> None:
        _, tasks = await family.computing()
        family.open.set()
        await tasks[1]
        assert not tasks[0].done(), "the other is computed still"

    run(check)


def test_a_full_call_leaves_at_once() -> None:
    async def check(family: Family) -> None:
        await family.computing()
        family.ask(*(call(str(number)) for number in range(CAP - 1)))
        await settle()
        assert [len(names) for names in family.calls[2:]] == [CAP]

    run(check)


def test_when_nothing_is_computed_any_more_the_next_call_leaves_at_once() -> None:
    async def check(family: Family) -> None:
        beside, tasks = await family.computing()
        beside.set()
        await tasks[0]
        await settle()
        assert family.calls[2:] == [["next"]]

    run(check)


def test_a_call_of_no_series_is_answered() -> None:
    """It loads the model."""

    async def check(family: Family) -> None:
        family.open.set()
        assert (await family.ask(call("load", n_items=0))[0]).parts == (b"load",)

    run(check)


def test_the_first_calls_leave_at_once_and_the_rest_together() -> None:
    async def check(family: Family) -> None:
        first = await family.busy()
        tasks = family.ask(*(call(str(i)) for i in range(4)))
        await settle()
        assert len(family.calls) == WINDOW
        family.open.set()
        await asyncio.gather(*first)
        results = await asyncio.gather(*tasks)
        assert [result.parts for result in results] == [(str(i).encode(),) for i in range(4)]
        assert family.calls[WINDOW:] == [["0", "1", "2", "3"]]
        assert {result.batch_series for result in results} == {4}

    run(check)


def test_only_what_is_alike_travels_together() -> None:
    async def check(family: Family) -> None:
        waiting = [*(await family.busy()), *family.ask(call("alike"))]
        others = [
            call("option", seed=1),
            replace(call("horizon"), task=Task(4, (0.5,), {})),
            replace(call("snapshot"), digest="e"),
        ]
        tasks = family.ask(*others)
        await settle()
        assert family.calls[WINDOW:] == [["option"], ["horizon"], ["snapshot"]]
        family.open.set()
        await asyncio.gather(*waiting, *tasks)

    run(check)


def test_at_most_cap_series_travel_together_but_a_larger_request_goes_whole() -> None:
    async def check(family: Family) -> None:
        first = await family.busy()
        rest = family.ask(call("a", CAP - 1), call("b", 1), call("c", 1), call("big", 10 * CAP))
        await settle()
        family.open.set()
        await asyncio.gather(*first, *rest)
        assert family.calls[WINDOW:] == [["a", "b"], ["c"], ["big"]]

    run(check)


@pytest.mark.parametrize("asked", [True, False])
def test_requests_whose_series_inform_each_other_travel_alone(asked: bool) -> None:
    async def check(family: Family) -> None:
        first = []
        for _ in range(WINDOW):
            first += family.ask(call("first", cross_learning=asked))
            await settle()
        tasks = family.ask(*(call(name, cross_learning=asked) for name in "abc"))
        family.open.set()
        await asyncio.gather(*first, *tasks)
        assert family.calls[:WINDOW] == [["first"]] * WINDOW
        assert sorted(family.calls[WINDOW:]) == ([["a"], ["b"], ["c"]] if asked else [["a", "b", "c"]])

    run(check)


@pytest.mark.parametrize("error", [ModelFailed(RunnerFailed("the model refused")), RunnerFailed("the process died")])
def test_a_model_that_refuses_is_asked_one_by_one_a_dead_process_is_not(error: Exception) -> None:
    async def check(family: Family) -> None:
        family.poison = error
        first = await family.busy()
        tasks = family.ask(call("good"), call("poison"), call("fine"))
        await settle()
        family.open.set()
        await asyncio.gather(*first)
        good, poison, fine = await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(error, ModelFailed):
            assert poison is error.error
            assert isinstance(good, Result)
            assert isinstance(fine, Result)
            assert family.calls[WINDOW:] == [["good", "poison", "fine"], ["good"], ["poison"], ["fine"]]
        else:
            assert good is poison is fine is error

    run(check)


def test_who_gives_up_leaves_the_queue_and_the_last_one_ends_the_call() -> None:
    async def check(family: Family) -> None:
        first = await family.busy()
        gone, stays = family.ask(call("gone"), call("stays"))
        await settle()
        gone.cancel()
        for task in first:
            task.cancel()
        await settle()
        assert family.cancelled == WINDOW
        assert family.calls[WINDOW:] == [["stays"]]
        family.open.set()
        assert (await stays).parts == (b"stays",)

    run(check)


def test_nothing_is_kept_of_what_is_done() -> None:
    async def check(family: Family) -> None:
        family.open.set()
        await asyncio.gather(*family.ask(*(call(str(i), seed=i) for i in range(50))))
        await settle()
        assert family.courier._lanes == {}

    run(check)
