"""The forecast routes: ask the family, answer at once or as lines."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic_core import to_json

from deployments.ingress import body, docs, faults
from deployments.ingress.desk import Desk
from deployments.ingress.installing import Build
from deployments.messages import Call, Progress, Result
from tollama.answers import Validation
from tollama.contract import ForecastLine, ForecastRequest, ForecastResponse
from tollama.errors import DeadlineExceeded, TollamaError
from tollama.forecasting import Outcome, Prepared

logger = logging.getLogger("ray.serve")


def routes(desk: Desk) -> APIRouter:
    """``/v1/forecast``, ``/api/forecast`` and the dry run of both."""
    router = APIRouter(tags=["forecast"])

    async def forecast(request: Request, stream: bool) -> Response:
        start = Clock()
        ready = await desk.prepare(await body.read(request, desk.settings.max_body), request.is_disconnected)
        request.state.model = ready.model
        build = desk.check(ready.family, ready.adapter, ready.requires)
        if stream if ready.stream is None else ready.stream:
            if build is None and ready.n_items:
                desk.family(ready.family).admit(ready.model)  # while it can still be said by the status
            lines = _lines(desk, ready, start, request, build)
            return StreamingResponse(lines, media_type="application/x-ndjson")
        answer = await _ask(desk, ready, start, request, build)
        return Response(answer, media_type="application/json")

    @docs.post(router, "/v1/forecast", body=ForecastRequest, answer=ForecastResponse, lines=ForecastLine)
    async def v1_forecast(request: Request) -> Response:
        """Forecast one or many series; one JSON object, or NDJSON lines with ``stream: true``."""
        return await forecast(request, stream=False)

    @docs.post(router, "/api/forecast", body=ForecastRequest, answer=ForecastResponse, lines=ForecastLine)
    async def api_forecast(request: Request) -> Response:
        """The same, streamed as NDJSON lines unless ``stream: false``."""
        return await forecast(request, stream=True)

    @docs.post(router, "/api/validate", "/v1/validate", body=ForecastRequest, answer=Validation)
    async def validate(request: Request) -> Response:
        """Every check of a forecast request, without the forecast."""
        ready = await desk.prepare(await body.read(request, desk.settings.max_body), request.is_disconnected)
        request.state.model = ready.model
        return JSONResponse({"valid": True, "warnings": ready.warnings})

    return router


@dataclass(frozen=True, slots=True)
class Clock:
    """When a request arrived: for what it took, and for when it must be answered."""

    ticks: float = field(default_factory=time.perf_counter)
    epoch: float = field(default_factory=time.time)

    def elapsed_ms(self) -> float:
        return (time.perf_counter() - self.ticks) * 1e3


def _call(ready: Prepared, request: Request, start: Clock) -> Call:
    logger.debug("%d series go to the family %s for the model %s", ready.n_items, ready.family, ready.model)
    return Call(
        ready.model,
        ready.digest,
        ready.ref,
        (ready.items,),
        ready.n_items,
        ready.task,
        ready.keep_alive,
        start.epoch + ready.timeout,
        faults.request_id(request),
    )


def _outcome(ready: Prepared, result: Result | None, start: Clock) -> Outcome:
    total = start.elapsed_ms()
    if result is None:  # every series failed its own checks, there was nothing to ask
        return Outcome((), "none", 0.0, 0.0, 0.0, total, 0, 0.0)
    # What is neither the load nor the computing was spent on the way and in queues, a cold start included.
    queue = max(0.0, total - result.load_ms - result.inference_ms)
    return Outcome(
        result.parts,
        result.device,
        queue,
        result.load_ms,
        result.inference_ms,
        total,
        result.batch_series,
        result.peak_memory_mb,
    )


async def _ask(desk: Desk, ready: Prepared, start: Clock, request: Request, build: Build | None) -> bytes:
    if build is not None:
        await build.done(start.epoch + ready.timeout, request.is_disconnected)
        desk.family(ready.family).check(ready.adapter, ready.requires)
    result = None
    if ready.n_items:
        result = await desk.family(ready.family).forecast(_call(ready, request, start), request.is_disconnected)
    return await _written(desk, ready, _outcome(ready, result, start), start)


async def _written(desk: Desk, ready: Prepared, outcome: Outcome, start: Clock) -> bytes:
    """The answer's body, by the deadline: a large one may have to wait for others of its kind."""
    try:
        with desk.family(ready.family).noting():
            return await asyncio.wait_for(desk.answer(ready, outcome), start.epoch + ready.timeout - time.time())
    except TimeoutError:
        raise DeadlineExceeded("The request's timeout ran out while its answer was written.") from None


async def _lines(
    desk: Desk, ready: Prepared, start: Clock, request: Request, build: Build | None
) -> AsyncIterator[bytes]:
    yield _line({"status": "queued"})
    try:
        if build is not None:
            async with aclosing(build.follow(start.epoch + ready.timeout)) as said:
                async for line in said:
                    yield _line({"status": "installing runtime", "detail": line})
            desk.family(ready.family).check(ready.adapter, ready.requires)
        result = None
        if ready.n_items:
            async with aclosing(desk.family(ready.family).stream(_call(ready, request, start))) as messages:
                async for message in messages:
                    if isinstance(message, Progress):
                        yield _line(_progress(message))
                    else:
                        result = message
        answer = await _written(desk, ready, _outcome(ready, result, start), start)
        yield b'{"done":true,"response":' + answer + b"}\n"
    except TollamaError as error:
        yield _line(faults.body(error, request))
    except Exception as error:
        yield _line(faults.internal(error, request).record.body())


def _progress(message: Progress) -> dict[str, Any]:
    counts = {} if message.total is None else {"completed": message.completed, "total": message.total}
    return {"status": message.status, **counts}


def _line(value: Any) -> bytes:
    return to_json(value) + b"\n"
