"""Runtimes installed when a forecast needs them (``auto_install_runtimes``): one build per family, whoever waits."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from deployments.ingress.outcomes import Gone
from tollama.errors import DeadlineExceeded, QueueFull, RunnerUnavailable
from tollama.families import FamilySpec
from tollama.runtime_build import failure
from tollama.runtimes import Runtimes

logger = logging.getLogger("ray.serve")

RETRY_S = 60.0
"""How long after a failed build requests are told of it instead of starting the next."""
LOOK_S = 0.2
"""How often who waits for a build looks for news of it, and whether its own client is still there."""

Builder = Callable[[FamilySpec], AsyncGenerator[str]]
"""Builds a family's runtime: yields lines of progress, raises :class:`RunnerUnavailable` if it fails."""


class Build:
    """One build, under way or over. It belongs to nobody who waits for it: it goes on when they leave."""

    def __init__(self, spec: FamilySpec, builder: Builder, max_waiting: int, clock: Callable[[], float]) -> None:
        self.failure: RunnerUnavailable | None = None
        """Why it failed, once it has."""
        self.ended = 0.0
        """When it ended, by the clock."""
        self._spec = spec
        self._clock = clock
        self._max_waiting = max_waiting
        self._waiting = 0
        self._said: list[str] = []
        self.task = asyncio.ensure_future(self._run(builder))

    async def follow(self, deadline: float, gone: Callable[[], Awaitable[bool]] | None = None) -> AsyncGenerator[str]:
        """What the build says, from its latest line on, until it has succeeded.

        ``deadline`` is in seconds since the epoch; ``gone`` tells whether the client has disconnected. Raises
        :class:`RunnerUnavailable` when the build fails, :class:`DeadlineExceeded`, :class:`QueueFull` or ``Gone``.
        """
        if self._waiting >= self._max_waiting:
            raise QueueFull(
                f"{self._waiting} requests wait for the runtime of family {self._spec.name!r} already.", retry_after=10
            )
        self._waiting += 1
        heard = max(0, len(self._said) - 1)
        try:
            while True:
                over = self.task.done()
                news, heard = self._said[heard:], len(self._said)
                for line in news:
                    yield line
                if over:
                    break
                left = deadline - time.time()
                if left <= 0:
                    raise DeadlineExceeded(
                        f"The request's timeout ran out while the runtime of family {self._spec.name!r} was installed.",
                        hint="The installation goes on: ask again in a while, or with a longer timeout.",
                    )
                await asyncio.wait({self.task}, timeout=min(left, LOOK_S))
                if gone is not None and await gone():
                    raise Gone
        finally:
            self._waiting -= 1
        if self.failure is not None:
            raise self.again(RETRY_S)

    async def done(self, deadline: float, gone: Callable[[], Awaitable[bool]] | None = None) -> None:
        """Wait until the build has succeeded; raises as :meth:`follow` does."""
        async with aclosing(self.follow(deadline, gone)) as lines:
            async for _ in lines:
                pass

    def again(self, retry_after: float) -> RunnerUnavailable:
        """The failure, to be raised once more."""
        assert self.failure is not None
        return RunnerUnavailable(str(self.failure), hint=self.failure.hint, retry_after=retry_after)

    async def _run(self, builder: Builder) -> None:
        name = self._spec.name
        logger.info("installing the runtime of family %s", name)
        by_hand = f"tollama runtime install {name}"
        try:
            async with aclosing(builder(self._spec)) as lines:
                async for line in lines:
                    self._said.append(line)
            logger.info("the runtime of family %s is installed", name)
        except RunnerUnavailable as error:
            self.failure = error
            logger.warning("%s", error)
        except asyncio.CancelledError:
            self.failure = failure(self._spec, "the server stops", by_hand)
            raise
        except Exception:
            self.failure = failure(self._spec, "a fault of ours", f"The log has the cause; then run: {by_hand}")
            logger.exception("the runtime of family %s could not be installed", name)
        finally:
            self.ended = self._clock()


class Installing:
    """The builds of one ingress replica. Used from its event loop only.

    Builds of other processes are waited for by the builder: a family's folder has a lock.
    """

    def __init__(
        self,
        runtimes: Runtimes,
        builder: Builder,
        max_waiting: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runtimes = runtimes
        self._builder = builder
        self._max_waiting = max_waiting
        self._clock = clock
        self._builds: dict[str, Build] = {}

    def needed(self, spec: FamilySpec) -> Build | None:
        """The build to wait for before the family can start, begun now unless it is under way.

        None when the family can start, and when no build would help. Raises :class:`RunnerUnavailable` for `RETRY_S`
        after one that failed, unless somebody has mended the runtime meanwhile.
        """
        state = self._runtimes.state(spec)
        build = self._builds.get(spec.name)
        if state.ready and build is not None and build.task.done():
            del self._builds[spec.name]  # an old failure says nothing of what happens to it from now on
        if state.ready or not state.repair.startswith("tollama runtime "):
            return None
        if build is not None:
            if not build.task.done():
                return build
            left = build.ended + RETRY_S - self._clock()
            if build.failure is not None and left > 0:
                raise build.again(left)
        build = self._builds[spec.name] = Build(spec, self._builder, self._max_waiting, self._clock)
        return build

    async def close(self) -> None:
        """End the builds under way; who waits for one is told."""
        tasks = [build.task for build in self._builds.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
