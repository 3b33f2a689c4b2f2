"""Carries calls to a family: those that are alike travel together while others are under way.

A call between deployments costs about 1 ms of processor time, most of a small request. So at most ``WINDOW`` calls
of one kind (same model, horizon, quantiles and options) are under way for each replica that the family may have; what
arrives meanwhile leaves as one call as soon
as one of them is back. Nothing waits when nothing is under way. The family answers series by series, so a failing
series or request fails alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from deployments.messages import Call, Result
from tollama.errors import RunnerFailed

WINDOW = 2
"""Calls of one kind under way at a replica: one that computes, one that is ready when it is done."""
CAP = 32
"""Series that travel together: more gain nothing on a CPU (families measured 32 against 256), only latency."""

Kind = tuple[Any, ...]


class ModelFailed(Exception):
    """The model itself failed on a call (its process lives): worth asking one by one. ``error`` is for the client."""

    def __init__(self, error: RunnerFailed) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(slots=True)
class _Lane:
    waiting: deque[tuple[Call, asyncio.Future[Result]]] = field(default_factory=deque)
    under_way: int = 0


class Courier:
    """``send`` takes one call to the family, which may have so many ``replicas``, and raises what went wrong."""

    def __init__(self, send: Callable[[Call], Awaitable[Result]], replicas: int = 1) -> None:
        self._send = send
        self._window = WINDOW * replicas
        self._lanes: dict[Kind, _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def carry(self, call: Call) -> asyncio.Future[Result]:
        """The result of ``call`` alone, whoever it travels with. Cancelling it takes it out of the queue."""
        kind = (call.model, call.digest, call.task.horizon, call.task.quantiles, *sorted(call.task.options.items()))
        lane = self._lanes.setdefault(kind, _Lane())
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        lane.waiting.append((call, future))
        if lane.under_way < self._window:
            lane.under_way += 1
            task = asyncio.ensure_future(self._run(kind, lane))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return future

    async def _run(self, kind: Kind, lane: _Lane) -> None:
        try:
            while batch := _next_batch(lane):
                await self._together(batch)
        finally:
            lane.under_way -= 1
            if not lane.under_way and not lane.waiting:
                self._lanes.pop(kind, None)

    async def _together(self, batch: list[tuple[Call, asyncio.Future[Result]]]) -> None:
        calls = [call for call, _ in batch]
        sending = asyncio.ensure_future(self._send(_merged(calls)))
        left = len(batch)

        def gave_up(_: asyncio.Future[Result]) -> None:
            nonlocal left
            left -= 1
            if not left:  # nobody waits for this call any more
                sending.cancel()

        for _, future in batch:
            future.add_done_callback(gave_up)
        try:
            result = await sending
        except asyncio.CancelledError:
            if not sending.cancelled():
                raise
        except ModelFailed as failed:
            if len(batch) == 1:
                _fail(batch, failed.error)
            else:
                for one in batch:
                    if not one[1].done():
                        await self._together([one])
        except Exception as error:
            _fail(batch, error)
        else:
            for (_, future), part in zip(batch, result.parts, strict=True):
                if not future.done():
                    future.set_result(replace(result, parts=(part,)))


def _next_batch(lane: _Lane) -> list[tuple[Call, asyncio.Future[Result]]]:
    batch: list[tuple[Call, asyncio.Future[Result]]] = []
    size = 0
    while lane.waiting and (not batch or size + lane.waiting[0][0].n_items <= CAP):
        call, future = lane.waiting.popleft()
        if not future.done():
            batch.append((call, future))
            # Series that inform each other are those of one request, and no others.
            size += CAP if call.task.options.get("cross_learning") else call.n_items
    return batch


def _merged(calls: list[Call]) -> Call:
    """One call for all: the latest deadline, and the last one's keep_alive, as if they had come one after the other."""
    if len(calls) == 1:
        return calls[0]
    return replace(
        calls[-1],
        parts=tuple(part for call in calls for part in call.parts),
        n_items=sum(call.n_items for call in calls),
        deadline=max(call.deadline for call in calls),
    )


def _fail(batch: list[tuple[Call, asyncio.Future[Result]]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
