"""The threads in which a replica computes, so that its event loop stays free; and how long its work may take."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import copy_context
from typing import Any, TypeVar

from deployments.blackbox import LOADING, BlackBox
from deployments.failures import CUDA, HEALTH, Refused
from deployments.lanes import LANES, Lanes
from deployments.residency import Resident
from tollama.errors import DeadlineExceeded, RunnerFailed

HANG_GRACE_S = 5.0
"""Seconds past its deadline after which a call counts as hung and the replica ends itself."""
LOAD_S = 30.0
"""What a load may take, however little time those have who wait for it: the next one finds the model."""
CHORE = "chore"
"""In the place of a call's id for what no call waits for."""
CHORE_S = 60.0
"""What unloading a model, or asking a GPU how much memory it has, may take: there is no deadline to go by, and either
takes less than a second."""

T = TypeVar("T")
Limit = Callable[[float], float]
"""When work that began at a time counts as hung; it may move while it is done."""


class Worker:
    """The threads of one replica of ``family``, with the node's compute ``slot`` and the replica's own record.

    ``threads`` is how many a call may compute with when it is alone; with one there is nothing to share. ``sick`` is
    whether the GPU's state was found bad: nothing is computed any more.
    """

    def __init__(self, family: str, slot: AbstractContextManager[None], box: BlackBox, threads: int) -> None:
        self.sick = False
        self._family = family
        self._slot = slot
        self._box = box
        self._count = threads
        self._threads = ThreadPoolExecutor(LANES, thread_name_prefix="inference")
        self._lanes = Lanes()
        self._since: dict[int, tuple[float, Limit, str]] = {}
        """Of each thread that works: when that began, how long it may take, and the call that it is for."""

    def hung(self) -> frozenset[str]:
        """The calls whose work should have been done long ago; a chore's name is ``CHORE``."""
        now = time.time()
        return frozenset(call for start, limit, call in list(self._since.values()) if now > limit(start) + HANG_GRACE_S)

    def condemn(self) -> None:
        """The GPU's state is bad: compute no more, and have this process replaced."""
        self.sick = True
        self._box.blame(CUDA)

    def require_gpu(self) -> None:
        """Raise :class:`Refused` once the GPU's state was found bad."""
        if self.sick:
            told = f"The process of the family {self._family!r} has lost its GPU and is being replaced."
            raise Refused(RunnerFailed(told, hint="Send the request again."), HEALTH)

    async def load(self, resident: Resident, work: Callable[..., T], *args: Any) -> T:
        """``work``, which loads a model, as :meth:`compute` does it. It may take as long as the most patient of those
        who wait for it, whenever they came: many who come with little time do not put off the end of one that hangs."""

        def limit(start: float) -> float:
            return start + max(LOAD_S, resident.patience)

        return await self._in_turn((resident.ref.name, LOADING), lambda: resident.deadline, limit, None, work, *args)

    async def compute(
        self,
        what: tuple[str, str],
        deadline: float,
        use_threads: Callable[[int], None] | None,
        work: Callable[..., T],
        *args: Any,
    ) -> T:
        """``work`` in a thread, with the node's compute slot; not at all when its ``deadline`` has passed by then, or
        the caller has been cancelled. ``what`` is the model and the call that it is for. With ``use_threads``, which
        sets how many threads ``work`` takes, another call of the model may be computed beside it."""
        return await self._in_turn(what, lambda: deadline, lambda _: deadline, use_threads, work, *args)

    async def chore(self, work: Callable[[], T]) -> T:
        """``work`` in a thread while no other of the replica's works, whoever computes on the node; it may take
        ``CHORE_S``."""
        async with self._lanes.take():
            return await self._ended(lambda _: self._limited(CHORE, lambda start: start + CHORE_S, work))

    async def _in_turn(
        self,
        what: tuple[str, str],
        deadline: Callable[[], float],
        limit: Limit,
        use_threads: Callable[[int], None] | None,
        work: Callable[..., T],
        *args: Any,
    ) -> T:
        def run(gone: threading.Event, threads: int) -> T:
            with self._slot, _taking(use_threads, threads, self._count):
                # What waited past its deadline has nobody to answer to any more. Waiting is no hanging, so only what
                # follows counts for the health check.
                if gone.is_set() or time.time() > deadline():
                    raise DeadlineExceeded("The request's timeout ran out before its turn came.")
                self.require_gpu()
                with self._box.computing(what[0], what[1:]):
                    try:
                        return self._limited(what[1], limit, work, *args)
                    except Refused as refused:
                        if refused.cause == CUDA:
                            self.condemn()
                        raise

        shares = use_threads is not None and self._count >= LANES
        async with self._lanes.take(what[0] if shares else None) as beside:
            return await self._ended(run, self._count // LANES if beside else self._count)

    async def _ended(self, run: Callable[..., T], *args: Any) -> T:
        """``run`` in a thread, with an event that says that nobody waits any more. Ends when it does, even so: while a
        model computes it is in use, and so is this replica."""
        gone = threading.Event()
        job = asyncio.wrap_future(self._threads.submit(copy_context().run, run, gone, *args))
        try:
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            gone.set()
            while not job.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({job})
            job.exception()  # told to nobody
            raise

    def _limited(self, call: str, limit: Limit, work: Callable[..., T], *args: Any) -> T:
        """``work``, which counts as hung from ``limit`` on, as that is when it is looked at."""
        me = threading.get_ident()
        self._since[me] = time.time(), limit, call
        try:
            return work(*args)
        finally:
            del self._since[me]


@contextmanager
def _taking(use_threads: Callable[[int], None] | None, threads: int, usual: int) -> Iterator[None]:
    """Within, what this thread computes takes so many ``threads``; what comes after and does not set it, the usual."""
    if use_threads is None:
        yield
        return
    use_threads(threads)
    try:
        yield
    finally:
        use_threads(usual)
