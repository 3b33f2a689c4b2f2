"""The one thread in which a replica computes, so that its event loop stays free; and how long its work may take."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import copy_context
from typing import Any, TypeVar

from deployments.blackbox import LOADING, BlackBox
from deployments.failures import CUDA, HEALTH, Refused
from deployments.residency import Resident
from tollama.errors import DeadlineExceeded, RunnerFailed

HANG_GRACE_S = 5.0
"""Seconds past its deadline after which a call counts as hung and the replica ends itself."""
LOAD_S = 30.0
"""What a load may take, however little time those have who wait for it: the next one finds the model."""
CHORE_S = 60.0
"""What unloading a model, or asking a GPU how much memory it has, may take: there is no deadline to go by, and either
takes less than a second."""

T = TypeVar("T")
Limit = Callable[[float], float]
"""When work that began at a time counts as hung; it may move while it is done."""


class Worker:
    """The thread of one replica of ``family``, with the node's compute ``slot`` and the replica's own record.

    ``sick`` is whether the GPU's state was found bad: nothing is computed any more.
    """

    def __init__(self, family: str, slot: AbstractContextManager[None], box: BlackBox) -> None:
        self.sick = False
        self._family = family
        self._slot = slot
        self._box = box
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._since: tuple[float, Limit] | None = None
        """When the current work began, and how long it may take."""

    def hangs(self) -> bool:
        """Whether what is done now should have been done long ago."""
        if (current := self._since) is None:
            return False
        start, limit = current
        return time.time() > limit(start) + HANG_GRACE_S

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

        return await self._in_turn((resident.ref.name, LOADING), lambda: resident.deadline, limit, work, *args)

    async def compute(self, what: tuple[str, str], deadline: float, work: Callable[..., T], *args: Any) -> T:
        """``work`` in the thread, with the node's compute slot; not at all when its ``deadline`` has passed by then, or
        the caller has been cancelled. ``what`` is the model and the call that it is for."""
        return await self._in_turn(what, lambda: deadline, lambda _: deadline, work, *args)

    async def chore(self, work: Callable[[], T]) -> T:
        """``work`` in the thread, whoever computes on the node; it may take ``CHORE_S``."""
        run = copy_context().run
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, run, self._limited, lambda start: start + CHORE_S, work
        )

    async def _in_turn(
        self,
        what: tuple[str, str],
        deadline: Callable[[], float],
        limit: Limit,
        work: Callable[..., T],
        *args: Any,
    ) -> T:
        gone = threading.Event()

        def run() -> T:
            with self._slot:
                # What waited past its deadline has nobody to answer to any more. Waiting is no hanging, so only what
                # follows counts for the health check.
                if gone.is_set() or time.time() > deadline():
                    raise DeadlineExceeded("The request's timeout ran out before its turn came.")
                self.require_gpu()
                with self._box.computing(what[0], what[1:]):
                    try:
                        return self._limited(limit, work, *args)
                    except Refused as refused:
                        if refused.cause == CUDA:
                            self.condemn()
                        raise

        job = self._thread.submit(copy_context().run, run)
        done = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            gone.set()
            job.cancel()
            await asyncio.wait({done})  # while it is computed the model is in use, and so is this replica
            raise

    def _limited(self, limit: Limit, work: Callable[..., T], *args: Any) -> T:
        """``work``, which counts as hung from ``limit`` on, as that is when it is looked at."""
        self._since = time.time(), limit
        try:
            return work(*args)
        finally:
            self._since = None
