"""How the ingress asks a family: runtime check, queue limit, deadline, and Serve's failures in our own terms."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import replace
from functools import cache
from typing import Any

from ray.exceptions import RayActorError, RayError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.blackbox import Death
from deployments.ingress.courier import CAP, GPU_CAP, Courier, ModelFailed
from deployments.ingress.metrics import FamilyMetrics
from deployments.ingress.starting import Starting
from deployments.ingress.supervision import Supervision
from deployments.ingress.turns import Turns
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

logger = logging.getLogger("ray.serve")

LOOK_S = 0.5
"""How often one who waits looks whether its client is still there and its family has not failed to start."""
STARTING_AFTER_S = 0.2
"""A replica that runs accepts a request at once; one that has not by then is being started."""
ASK_TIMEOUT_S = 2.0


class Gone(Exception):
    """The client went away; there is nobody to answer."""


class _Died(Exception):
    """The process that had the call is gone."""


class FamilyClient:
    """One family, as the ingress sees it. ``waiting`` counts its requests that are not answered yet, ``in_flight``
    those of them that were handed to it."""

    def __init__(
        self,
        spec: FamilySpec,
        handle: DeploymentHandle[Any],
        runtimes: Runtimes,
        supervision: Supervision,
        max_queue: int,
        turns: Turns,
        metrics: FamilyMetrics,
        replicas: int = 1,
    ) -> None:
        self.spec = spec
        self.waiting = 0
        self.in_flight = 0
        self.last_error: tuple[str, float] | None = None
        """The code of the family's last failure, and when it was (epoch seconds)."""
        self._metrics = metrics
        self._runtimes = runtimes
        self._supervision = supervision
        self._max_queue = max_queue
        # The router of a family of several replicas reads the model's name as the session's.
        forecast, stream = handle.forecast, handle.options(stream=True).forecast_stream
        self._forecast: Callable[[str], Any] = cache(lambda model: forecast.options(session_id=model))
        self._stream: Callable[[str], Any] = cache(lambda model: stream.options(session_id=model))
        self._courier = Courier(self._send, replicas, GPU_CAP if spec.name in turns.gpus.shares else CAP)
        self._handle = handle
        self._starting = Starting(spec.name, turns)
        self._turns = turns

    @property
    def refused(self) -> str | None:
        """Why the family can never have the GPU that it needs, if it cannot."""
        return self._turns.gpus.refused.get(self.spec.name)

    @property
    def failure(self) -> str | None:
        """Why the family failed to start when somebody last waited for it."""
        return self._starting.failure

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
        if self.refused is not None:
            raise RunnerUnavailable(self.refused, hint="Change its num_gpus or its device in serve_config.yaml.")
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
        came = time.time()
        with self._in_queue(), self._supervision.gate(call.model), self.noting():
            coming = self._courier.carry(call)
            try:
                result: Result = await self._watched(coming, call.deadline, gone)
            finally:
                coming.cancel()
            if result.started > came:
                self._cold_start()
            return result

    async def _send(self, call: Call) -> Result:
        sent = time.time()
        call = replace(call, id=secrets.token_hex(8))
        try:
            return await self._once(call)
        except _Died:
            await self._require_unstarted(call, sent)
        return await self._once(replace(call, id=secrets.token_hex(8)), last=True)

    async def _once(self, call: Call, last: bool = False) -> Result:
        await self._turns.mine(self.spec.name)
        response = self._forecast(call.model).remote(pack(call))
        self.in_flight += len(call.parts)
        try:
            with self._faults():
                blob = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except _Died:
            if last:
                raise self._died(None) from None
            raise
        finally:
            self.in_flight -= len(call.parts)
        self._starting.answered()
        message: Result | Refusal = self._open(blob)
        if isinstance(message, Refusal):
            error = from_record(message.record)
            raise ModelFailed(error) if message.alone and isinstance(error, RunnerFailed) else error
        self._metrics.answered(call, message)
        return message

    async def stream(self, call: Call) -> AsyncGenerator[Progress | Result]:
        """The family's progress as it happens, and last its answer."""
        with self._in_queue(), self._supervision.gate(call.model), self.noting():
            sent = time.time()
            first = replace(call, id=secrets.token_hex(8))
            try:
                async with aclosing(self._lines(first, sent)) as messages:
                    async for message in messages:
                        yield message
                return
            except _Died:
                await self._require_unstarted(first, sent)
            try:
                async with aclosing(self._lines(replace(call, id=secrets.token_hex(8)), sent)) as messages:
                    async for message in messages:
                        yield message
            except _Died:
                raise self._died(None) from None

    async def _lines(self, call: Call, came: float) -> AsyncGenerator[Progress | Result]:
        turn = asyncio.ensure_future(self._turns.mine(self.spec.name))
        try:
            await self._watched(turn, call.deadline)
        finally:
            turn.cancel()
        response = self._stream(call.model).remote(pack(call))
        lines = aiter(response)
        accepted = False
        self.in_flight += 1
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
                    self._starting.answered()
                    message = self._open(blob)
                    if isinstance(message, Refusal):
                        raise from_record(message.record)
                finally:
                    task.cancel()
                if isinstance(message, Progress) and message.status == "accepted":
                    continue
                if isinstance(message, Result):
                    self._metrics.answered(call, message)
                    if message.started > came:
                        self._cold_start()
                yield message
                if isinstance(message, Result):
                    return
        finally:
            self.in_flight -= 1
            with suppress(Exception):
                response.cancel()

    async def _require_unstarted(self, call: Call, sent: float) -> None:
        """Return when a call whose process died was not being computed, and may be sent once more."""
        death = await self._supervision.inquest(self.spec.name, call.model, call.id, sent)
        if death is not None:
            raise self._died(death)

    def _died(self, death: Death | None) -> RunnerFailed:
        why = {"hang": "was ended because it hung", "cuda": "lost its GPU", "oom": "ran out of memory"}
        how = why.get(death.reason, "died") if death is not None else "died"
        return RunnerFailed(
            f"The process of the family {self.spec.name!r} {how} during the request.",
            hint="Send the request again; a new process is started.",
        )

    async def ask(self, method: str, *args: Any) -> list[Any]:
        """The answers of every running replica to a control verb; without a replica none, and none is started."""
        try:
            response = self._handle.broadcast(method, *args)
            answers = await response.results_async(timeout_s=ASK_TIMEOUT_S, return_exceptions=True)
            # One that died a moment ago has nothing to say, and the others have.
            return [answer for answer in answers if not isinstance(answer, BaseException)]
        except (DeploymentUnavailableError, RayError, TimeoutError, RayServeException):
            return []

    @contextmanager
    def noting(self) -> Iterator[None]:
        """What the family's work is awaited or read in: its failure is remembered."""
        try:
            yield
        except (RunnerFailed, RunnerUnavailable) as error:
            self.last_error = (error.code, time.time())
            raise

    def _cold_start(self) -> None:
        self._metrics.cold_start()
        logger.info("a process of the family %s was started for the request", self.spec.name)

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
            if not self.waiting:
                self._turns.forget(self.spec.name)

    async def _watched(
        self, task: asyncio.Future[Any], deadline: float, gone: Callable[[], Awaitable[bool]] | None = None
    ) -> Any:
        """The task's result, unless the client leaves, the deadline passes or the family fails to start first."""
        while True:
            left = deadline - time.time()
            if left <= 0:
                why = self._turns.shortage(self.spec.name)
                raise DeadlineExceeded(
                    f"The request's timeout ran out before the forecast was ready{f': {why}' if why else ''}."
                )
            await asyncio.wait({task}, timeout=min(left, LOOK_S))
            if task.done():
                return task.result()
            if gone is not None and await gone():
                raise Gone
            if (reason := await self._starting.look()) is not None:
                raise RunnerUnavailable(
                    f"The family {self.spec.name!r} cannot start: {reason}.",
                    hint=f"tollama runtime repair {self.spec.name}",
                )

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
            raise _Died from None
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
