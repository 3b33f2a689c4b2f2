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

from ray.exceptions import RayError
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.blackbox import Death
from deployments.failures import MEMORY
from deployments.ingress.courier import CAP, GPU_CAP, Courier
from deployments.ingress.metrics import FamilyMetrics
from deployments.ingress.outcomes import Died, Gone, NotTried, faults, opened
from deployments.ingress.relief import Relief
from deployments.ingress.starting import Starting
from deployments.ingress.supervision import Supervision
from deployments.ingress.turns import Turns
from deployments.messages import Call, Progress, Result, pack
from tollama.errors import (
    DeadlineExceeded,
    QueueFull,
    RunnerFailed,
    RunnerUnavailable,
)
from tollama.families import FamilySpec
from tollama.runtimes import Runtimes

logger = logging.getLogger("ray.serve")

LOOK_S = 0.5
"""How often one who waits looks whether its client is still there and its family has not failed to start."""
STARTING_AFTER_S = 0.2
"""A replica that runs accepts a request at once; one that has not by then is being started."""
AGAIN_S = 0.1
"""What has to change before a call is sent again takes longer than that."""
MEMORY_AGAIN_S = 1.0
"""The most of memory that another family holds: the wait doubles with each try."""
ASK_TIMEOUT_S = 2.0


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
        starting: Starting,
        relief: Relief,
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
        self._starting = starting
        self._turns = turns
        self._relief = relief
        self._cramped: str | None = None

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

    def admit(self, model: str) -> None:
        """Raise what a request to ``model`` would be refused with at once: the queue is full, the family or the model
        is held back."""
        if self.waiting >= self._max_queue:
            raise QueueFull(
                f"The queue of the family {self.spec.name!r} is full ({self._max_queue} requests).", retry_after=1
            )
        if pause := self._starting.pause:
            raise self._cannot_start(pause)
        self._supervision.check(model)

    async def forecast(self, call: Call, gone: Callable[[], Awaitable[bool]]) -> Result:
        """The family's answer, by the call's deadline. ``gone`` tells whether the client has disconnected."""
        came = time.time()
        with self._in_queue(call.model):
            coming = self._courier.carry(call)
            try:
                result: Result = await self._watched(coming, call.deadline, gone)
            finally:
                coming.cancel()
            if result.started > came:
                self._cold_start()
            return result

    async def _send(self, call: Call) -> Result:
        """Once; and again for as long as the call is not computed and somebody waits for it."""
        attempt = 0
        while True:
            # Others may have shown, while these waited, that the model ends every process.
            self._supervision.check(call.model)
            sent, call = time.time(), replace(call, id=secrets.token_hex(8))
            try:
                return await self._once(call)
            except (Died, NotTried) as failure:
                await self._require_untried(call, sent, failure, attempt)
            attempt += 1

    async def _once(self, call: Call) -> Result:
        await self._turns.mine(self.spec.name)
        response = self._forecast(call.model).remote(pack(call))
        self.in_flight += len(call.parts)
        try:
            with faults(self.spec.name):
                blob = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        finally:
            self.in_flight -= len(call.parts)
        self._starting.answered()
        message: Result = opened(blob, self.spec.name, alone=True)
        self._cramped = None
        self._metrics.answered(call, message)
        return message

    async def stream(self, call: Call) -> AsyncGenerator[Progress | Result]:
        """The family's progress as it happens, and last its answer."""
        with self._in_queue(call.model):
            came, attempt, last = time.time(), 0, None
            while True:
                self._supervision.check(call.model)
                sent, call = time.time(), replace(call, id=secrets.token_hex(8))
                try:
                    async with aclosing(self._lines(call, came)) as messages:
                        async for message in messages:
                            if message != last:  # another try says the same again
                                yield message
                            last = message
                    return
                except (Died, NotTried) as failure:
                    again = asyncio.ensure_future(self._require_untried(call, sent, failure, attempt))
                    try:
                        await self._watched(again, call.deadline)
                    finally:
                        again.cancel()
                attempt += 1

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
                    with faults(self.spec.name):
                        blob = await self._watched(task, call.deadline)
                    self._starting.answered()
                    message = opened(blob, self.spec.name)
                finally:
                    task.cancel()
                if isinstance(message, Progress) and message.status == "accepted":
                    continue
                if isinstance(message, Result):
                    self._cramped = None
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

    async def _require_untried(self, call: Call, sent: float, failure: Died | NotTried, attempt: int) -> None:
        """Return when a call that failed was not computed and is to be sent again, a moment later. Where nothing tells
        whether it was computed, that is done once."""
        pause = AGAIN_S
        if isinstance(failure, Died):
            try:
                death = await self._supervision.inquest(self.spec.name, call.model, call.id, sent)
            except LookupError:
                if attempt:
                    raise self._died(None) from None
            else:
                if death is not None:
                    raise self._died(death)
        elif failure.cause == MEMORY:
            if not await self._relief.make_room(self.spec.name, failure.error.detail):
                raise failure.error
            self._cramped = str(failure.error)
            pause = min(MEMORY_AGAIN_S, AGAIN_S * 2 ** min(attempt, 10))
        await asyncio.sleep(pause)

    def _died(self, death: Death | None) -> RunnerFailed:
        why = {"hang": "was ended because it hung", "cuda": "lost its GPU", "oom": "ran out of memory"}
        how = why.get(death.reason, "died") if death is not None else "died"
        return RunnerFailed(
            f"The process of the family {self.spec.name!r} {how} during the request.",
            hint="Send the request again; a new process is started.",
        )

    async def ask(self, method: str, *args: Any) -> list[Any]:
        """The answers of the running replicas to a control verb; without a replica none, and none is started."""
        return (await self.asked(method, *args))[0]

    async def asked(self, method: str, *args: Any) -> tuple[list[Any], int]:
        """The answers, and how many replicas live and did not answer in time. One that died a moment ago has nothing to
        say."""
        response, end = self._handle.broadcast(method, *args), time.monotonic() + ASK_TIMEOUT_S
        try:
            # Serve's own way of collecting has no answer at all where one replica has none.
            replicas = await asyncio.wait_for(response._fetch_replica_results_async(), ASK_TIMEOUT_S)
        except (DeploymentUnavailableError, RayError, TimeoutError, RayServeException):
            return [], 0
        if not replicas:
            return [], 0
        answers: list[Any] = replicas
        tasks = [asyncio.ensure_future(one.get_async()) for one in answers]
        done, silent = await asyncio.wait(tasks, timeout=max(0.0, end - time.monotonic()))
        for task in silent:
            task.cancel()
        return [task.result() for task in done if task.exception() is None], len(silent)

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
    def _in_queue(self, model: str) -> Iterator[None]:
        self.admit(model)
        self.waiting += 1
        try:
            with self._supervision.gate(model), self.noting():
                yield
        finally:
            self.waiting -= 1
            if not self.waiting:
                self._turns.forget(self.spec.name)
                self._cramped = None

    async def _watched(
        self, task: asyncio.Future[Any], deadline: float, gone: Callable[[], Awaitable[bool]] | None = None
    ) -> Any:
        """The task's result, unless the client leaves, the deadline passes or the family fails to start first."""
        while True:
            left = deadline - time.time()
            if left <= 0:
                why = self._turns.shortage(self.spec.name) or self._cramped
                raise DeadlineExceeded(
                    f"The request's timeout ran out before the forecast was ready{f': {why}' if why else ''}."
                )
            await asyncio.wait({task}, timeout=min(left, LOOK_S))
            if task.done():
                return task.result()
            if gone is not None and await gone():
                raise Gone
            if await self._starting.look() is not None:
                raise self._cannot_start(self._starting.pause)

    def _cannot_start(self, pause: float) -> RunnerUnavailable:
        return RunnerUnavailable(
            f"The family {self.spec.name!r} cannot start: {self._starting.failure}.",
            hint=f"tollama runtime repair {self.spec.name}",
            retry_after=max(1.0, pause),
        )


async def _next(lines: AsyncIterator[bytes]) -> bytes:
    return await anext(lines)
