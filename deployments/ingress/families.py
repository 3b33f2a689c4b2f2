"""How the ingress asks a family: runtime check, queue limit, deadline, and Serve's failures in our own terms."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from ray import serve
from ray.exceptions import RayActorError, RayError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.ingress.courier import Courier, ModelFailed
from deployments.messages import Call, Progress, Refusal, Result, pack, unpack
from tollama.errors import (
    DeadlineExceeded,
    QueueFull,
    RunnerFailed,
    RunnerUnavailable,
    from_record,
)
from tollama.families import FamilySpec
from tollama.runtimes import Runtimes
from tollama.seam import SEAM_VERSION
from tollama.version import __version__

APP = "tollama"
"""Name of the Serve application."""
LOOK_S = 0.5
"""How often a waiting request looks whether its client is still there and its family has not failed to start."""
STARTING_AFTER_S = 0.2
"""A replica that runs accepts a request at once; one that has not by then is being started."""
ASK_TIMEOUT_S = 2.0


class Gone(Exception):
    """The client went away; there is nobody to answer."""


class FamilyClient:
    """One family, as the ingress sees it. ``waiting`` counts its requests that are not answered yet."""

    def __init__(self, spec: FamilySpec, handle: DeploymentHandle[Any], runtimes: Runtimes, max_queue: int) -> None:
        self.spec = spec
        self.waiting = 0
        self._runtimes = runtimes
        self._max_queue = max_queue
        self._forecast: Any = handle.forecast
        self._courier = Courier(self._send)
        self._stream: Any = handle.options(stream=True).forecast_stream
        self._handle = handle
        self._looked = 0.0
        self.reason: str | None = None
        """Why the family failed to start when it was last looked at."""

    def require(self, adapter: str) -> None:
        """Raise :class:`RunnerUnavailable` when the family lacks the adapter."""
        if adapter not in self.spec.adapters:
            raise RunnerUnavailable(
                f"This version of tollama cannot run {adapter!r} models yet.",
                hint=f"The family {self.spec.name!r} runs: {', '.join(self.spec.adapters)}.",
            )

    def check(self, adapter: str, requires: Mapping[str, str]) -> None:
        """Raise :class:`RunnerUnavailable`, with what mends it, when the family cannot start or lacks the adapter.

        ``requires`` is what the model needs of the environment's libraries.

        Serve would wait for ever for an interpreter that is not there.
        """
        self.require(adapter)
        state = self._runtimes.state(self.spec)
        if not state.ready:
            raise RunnerUnavailable(
                f"The family {self.spec.name!r} cannot start: {state.reason.rstrip('.')}.", hint=state.repair
            )
        if requires and (missing := self._runtimes.lacks(self.spec, requires)) is not None:
            raise RunnerUnavailable(
                f"The model needs {missing} in the environment of the family {self.spec.name!r}.",
                hint="Use the version of tollama that the model was made for.",
            )

    async def forecast(self, call: Call, gone: Callable[[], Awaitable[bool]]) -> Result:
        """The family's answer, by the call's deadline. ``gone`` tells whether the client has disconnected."""
        with self._in_queue():
            coming = self._courier.carry(call)
            try:
                result: Result = await self._watched(coming, call.deadline, gone)
                return result
            finally:
                coming.cancel()

    async def _send(self, call: Call) -> Result:
        response = self._forecast.remote(pack(call))
        try:
            with self._faults():
                blob = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        message: Result | Refusal = self._open(blob)
        if isinstance(message, Refusal):
            error = from_record(message.record)
            raise ModelFailed(error) if message.alone and isinstance(error, RunnerFailed) else error
        return message

    async def stream(self, call: Call) -> AsyncIterator[Progress | Result]:
        """The family's progress as it happens, and last its answer."""
        with self._in_queue():
            response = self._stream.remote(pack(call))
            lines = aiter(response)
            accepted = False
            try:
                while True:
                    task = asyncio.ensure_future(_next(lines))
                    try:
                        if not accepted:
                            await asyncio.wait({task}, timeout=STARTING_AFTER_S)
                            if not task.done():
                                yield Progress("starting runner")
                            accepted = True
                        with self._faults():
                            blob = await self._watched(task, call.deadline)
                        message = self._open(blob)
                        if isinstance(message, Refusal):
                            raise from_record(message.record)
                    finally:
                        task.cancel()
                    if message is None or (isinstance(message, Progress) and message.status == "accepted"):
                        continue
                    yield message
                    if isinstance(message, Result):
                        return
            finally:
                with suppress(Exception):
                    response.cancel()

    async def ask(self, method: str, *args: Any) -> list[Any]:
        """The answers of every running replica to a control verb; without a replica none, and none is started."""
        try:
            response = self._handle.broadcast(method, *args)
            return list(await response.results_async(timeout_s=ASK_TIMEOUT_S))
        except (DeploymentUnavailableError, RayError, TimeoutError, RayServeException):
            return []

    @contextmanager
    def _in_queue(self) -> Iterator[None]:
        if self.waiting >= self._max_queue:
            raise QueueFull(
                f"The queue of the family {self.spec.name!r} is full ({self._max_queue} requests).", retry_after=1
            )
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    async def _watched(
        self, task: asyncio.Future[Any], deadline: float, gone: Callable[[], Awaitable[bool]] | None = None
    ) -> Any:
        """The task's result, unless the client leaves, the deadline passes or the family fails to start first."""
        while True:
            left = deadline - time.time()
            if left <= 0:
                raise DeadlineExceeded("The request's timeout ran out before the forecast was ready.")
            await asyncio.wait({task}, timeout=min(left, LOOK_S))
            if task.done():
                return task.result()
            if gone is not None and await gone():
                raise Gone
            if (reason := await self._failure()) is not None:
                raise RunnerUnavailable(
                    f"The family {self.spec.name!r} cannot start: {reason}.",
                    hint=f"tollama runtime repair {self.spec.name}",
                )

    async def _failure(self) -> str | None:
        """Why the family failed to start, if it did; Serve's controller is asked for all who wait at once."""
        now = time.monotonic()
        if now - self._looked >= LOOK_S:
            self._looked = now
            # A controller that is away for a moment tells nothing; the deadline goes on all the same.
            with suppress(Exception):
                self.reason = await asyncio.wait_for(asyncio.to_thread(_failed_start, self.spec.name), ASK_TIMEOUT_S)
        return self.reason

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Serve's and Ray's exceptions as ours."""
        try:
            yield
        except BackPressureError:
            raise QueueFull(f"The queue of the family {self.spec.name!r} is full.", retry_after=1) from None
        except DeploymentUnavailableError:
            raise RunnerUnavailable(
                f"The family {self.spec.name!r} failed to start.", hint=f"tollama runtime repair {self.spec.name}"
            ) from None
        except (RayActorError, TaskCancelledError):
            raise RunnerFailed(
                f"The process of the family {self.spec.name!r} died during the request.",
                hint="Send the request again; a new process is started.",
            ) from None
        except RayError as error:
            raise RunnerFailed(f"The family {self.spec.name!r} failed: {type(error).__name__}.") from error

    def _open(self, blob: bytes) -> Any:
        message = unpack(blob)
        if isinstance(message, Progress):
            return message
        if message.identity != (__version__, SEAM_VERSION):
            raise RunnerUnavailable(
                f"The family {self.spec.name!r} runs tollama {message.identity[0]}, this server is {__version__}.",
                hint="Restart the server.",
            )
        return message


async def _next(lines: AsyncIterator[bytes]) -> bytes:
    return await anext(lines)


def _failed_start(deployment: str) -> str | None:
    """Why Serve gave up starting a family, or None while it has not. Blocks for a few milliseconds."""
    app = serve.status().applications.get(APP)
    overview = app.deployments.get(deployment) if app is not None else None
    if overview is None or overview.status.value != "UNHEALTHY":
        return None
    if "STARTUP_FAILED" not in str(getattr(overview, "status_trigger", "")).upper():
        return None
    return "its process failed to start several times; the server's log has the cause"
