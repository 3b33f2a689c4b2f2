"""Carries calls to a family: those that are alike travel together while others are under way.

A call between deployments costs about 1 ms of processor time, most of a small request. So at most ``WINDOW`` calls of
one kind (same model, horizon, quantiles and options) are under way for each replica that the family may have; what
arrives meanwhile leaves as one call when one of them is back. Nothing waits when nothing is under way; beside a call
that is computed, a little. The family answers series by series, so a failing series or request fails alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from deployments.logs import REQUEST
from deployments.messages import Call, Result
from tollama.errors import RunnerFailed

WINDOW = 2
"""Calls of one kind under way at a replica: one that computes, and one that computes beside it or is ready when it is
done."""
CAP, GPU_CAP = 16, 128
"""Series that travel together. On a CPU more gain nothing (Chronos-Bolt small: 89 series/s at 16, 87 at 32), and two
calls of 16 keep the family computing where one of 32 would leave it waiting for the next."""
GATHER, MOST_GATHER_S = 1 / 3, 0.05
"""While another call is computed, what is to leave waits for more of its kind: this part of the time that a tensor call
takes, and so many seconds at most. Who just got an answer asks again at once, and one series computed alone takes a
fifth of the time of sixteen."""
LEAST_GATHER_S = 0.002
"""Less is not worth the wait."""

Kind = tuple[Any, ...]


class ModelFailed(Exception):
    """The model itself failed on a call (its process lives): worth asking one by one. ``error`` is for the client."""

    def __init__(self, error: RunnerFailed) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(slots=True)
class _Lane:
    """Calls of one kind. ``size`` is how many series wait, ``pace`` the seconds that one tensor call takes; ``stir`` is
    set when there is no more reason to wait for others."""

    waiting: deque[tuple[Call, asyncio.Future[Result]]] = field(default_factory=deque)
    under_way: int = 0
    size: int = 0
    pace: float = 0.0
    stir: asyncio.Event = field(default_factory=asyncio.Event)


class Courier:
    """``send`` takes one call to the family, which may have so many ``replicas``, and raises what went wrong. At most
    ``cap`` series travel together."""

    def __init__(self, send: Callable[[Call], Awaitable[Result]], replicas: int = 1, cap: int = CAP) -> None:
        self._send = send
        self._replicas = replicas
        self._window = WINDOW * replicas
        self._cap = cap
        self._lanes: dict[Kind, _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def carry(self, call: Call) -> asyncio.Future[Result]:
        """The result of ``call`` alone, whoever it travels with. Cancelling it takes it out of the queue."""
        kind = (call.model, call.digest, call.task.horizon, call.task.quantiles, *sorted(call.task.options.items()))
        lane = self._lanes.setdefault(kind, _Lane())
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        lane.waiting.append((call, future))
        lane.size += call.n_items
        if lane.size >= self._cap:
            lane.stir.set()
        if lane.under_way < self._window:
            lane.under_way += 1
            task = asyncio.ensure_future(self._run(kind, lane))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return future

    async def _run(self, kind: Kind, lane: _Lane) -> None:
        try:
            while lane.waiting:
                await self._gather(lane)
                if batch := self._next_batch(lane):
                    await self._together(lane, batch)
                    lane.stir.set()
        finally:
            lane.under_way -= 1
            if not lane.under_way and not lane.waiting:
                self._lanes.pop(kind, None)

    def _next_batch(self, lane: _Lane) -> list[tuple[Call, asyncio.Future[Result]]]:
        batch: list[tuple[Call, asyncio.Future[Result]]] = []
        size = 0
        while lane.waiting and (not batch or size + lane.waiting[0][0].n_items <= self._cap):
            call, future = lane.waiting.popleft()
            lane.size -= call.n_items
            if not future.done():
                batch.append((call, future))
                # Series that inform each other are those of one request, and no others.
                size += self._cap if call.task.options.get("cross_learning") else call.n_items
        return batch

    async def _gather(self, lane: _Lane) -> None:
        """Wait for more of the kind while another call is computed."""
        most = min(lane.pace * GATHER, MOST_GATHER_S)
        if lane.under_way <= self._replicas or lane.size >= self._cap or most < LEAST_GATHER_S:
            return
        lane.stir.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(most):
                await lane.stir.wait()

    async def _together(self, lane: _Lane, batch: list[tuple[Call, asyncio.Future[Result]]]) -> None:
        calls = [call for call, _ in batch]
        merged = _merged(calls)
        REQUEST.set(merged.request_id)  # this task began with another request
        sending = asyncio.ensure_future(self._send(merged))
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
                        await self._together(lane, [one])
        except Exception as error:
            _fail(batch, error)
        else:
            if series := sum(call.n_items for call in calls):  # one that only loads the model has none
                lane.pace = result.inference_ms / 1e3 * min(1.0, result.batch_series / series)
            for (_, future), part in zip(batch, result.parts, strict=True):
                if not future.done():
                    future.set_result(replace(result, parts=(part,)))


def _merged(calls: list[Call]) -> Call:
    """One call for all: the latest deadline, every request's id, and the last one's keep_alive, as if they had come one
    after the other."""
    if len(calls) == 1:
        return calls[0]
    return replace(
        calls[-1],
        parts=tuple(part for call in calls for part in call.parts),
        n_items=sum(call.n_items for call in calls),
        deadline=max(call.deadline for call in calls),
        request_id=",".join(call.request_id for call in calls),
    )


def _fail(batch: list[tuple[Call, asyncio.Future[Result]]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
