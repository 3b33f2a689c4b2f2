"""The models in memory: what replicas hold, and loading and unloading one without a forecast."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from deployments.ingress import body, docs, faults
from deployments.ingress.desk import Desk
from deployments.ingress.holdings import PATIENCE_S
from deployments.messages import Call, pack
from tollama import forecasting
from tollama.capabilities import Capabilities
from tollama.catalog import Model
from tollama.contract import LoadRequest, LoadResponse, parse
from tollama.durations import seconds
from tollama.errors import InvalidRequest, ModelNotFound
from tollama.protocols.ollama import GenerateRequest
from tollama.registry import canonical_name
from tollama.seam import Task

NOTHING = Task(1, (), {})
"""What a load asks of the model: it is never computed, since there is no series."""


def routes(desk: Desk) -> APIRouter:
    """``/api/generate`` and ``/v1/models/{name}/load`` and ``unload``."""
    router = APIRouter(tags=["models"])

    @docs.post(router, "/api/generate", body=GenerateRequest, answer=LoadResponse)
    async def generate(request: Request) -> Response:
        """Load a model, or unload it with ``keep_alive: 0``, as Ollama's clients do it: by a request without a prompt.

        One object, whatever ``stream`` says.
        """
        asked = parse(GenerateRequest, await body.read(request, desk.settings.max_body))
        if asked.prompt:
            raise InvalidRequest(
                "This server forecasts time series; it takes no prompt.", hint="Send series to /v1/forecast."
            )
        if asked.keep_alive is not None and seconds(asked.keep_alive) == 0:
            return await unloaded(desk, asked.model, request)
        return await loaded(desk, asked.model, LoadRequest(keep_alive=asked.keep_alive), request)

    @docs.post(router, "/v1/models/{name}/load", body=LoadRequest, answer=LoadResponse, optional=True)
    async def load(request: Request) -> Response:
        """Load a model ahead of its first forecast; answers when it is in memory.

        A model that is loaded already has its timer restarted.
        """
        sent = await body.read(request, desk.settings.max_body)
        return await loaded(desk, request.path_params["name"], parse(LoadRequest, sent or b"{}"), request)

    @docs.post(router, "/v1/models/{name}/unload", answer=LoadResponse)
    async def unload(request: Request) -> Response:
        """Unload a model: at once if idle, else as soon as it is. One that is not loaded is answered alike."""
        return await unloaded(desk, request.path_params["name"], request)

    return router


async def loaded(desk: Desk, name: str, asked: LoadRequest, request: Request) -> Response:
    """Have a replica load the model, by the checks and on the way of a forecast; it is one of no series."""
    start = time.time()
    model = desk.catalog.runnable(name)
    request.state.model = model.name
    client = desk.family(model.family)
    needed = (model.about.adapter, model.about.requires.libraries)
    deadline = start + forecasting.timeout(model, asked.timeout, desk.settings)
    if (build := desk.check(model.family, *needed)) is not None:
        await build.done(deadline, request.is_disconnected)
        client.check(*needed)
    call = Call(
        model.name,
        model.digest,
        model.ref,
        (pack([]),),
        0,
        NOTHING,
        forecasting.keep_alive(model, asked.keep_alive, desk.settings),
        deadline,
        faults.request_id(request),
    )
    await client.forecast(call, request.is_disconnected)
    return _answer(LoadResponse(model=model.name, created_at=_now(), done_reason="load"))


async def unloaded(desk: Desk, name: str, request: Request) -> Response:
    """Have every replica drop the model. What is held goes, whether or not it could be loaded again."""
    name = canonical_name(name)
    if not await drop(desk, name):
        desk.catalog.runnable(name)  # says why there was nothing to unload, unless it just was not loaded
    request.state.model = name
    return _answer(LoadResponse(model=name, created_at=_now(), done_reason="unload"))


async def drop(desk: Desk, name: str) -> int:
    """How many replicas held the model; each unloads it as soon as nobody uses it. Of a model that was deleted nobody
    knows the family, so every one is asked."""
    try:
        known = desk.families.get(desk.catalog.find(name).family)
        clients = [] if known is None else [known]
    except ModelNotFound:
        clients = list(desk.families.values())
    return sum(held for one in await asyncio.gather(*(client.ask("drop", name) for client in clients)) for held in one)


async def held(desk: Desk) -> list[dict[str, Any]]:
    """The models that replicas hold now, each with its family."""
    reports = await desk.holdings.now(PATIENCE_S)
    return [{**one, "family": name} for name, told in reports.items() for report in told for one in report["models"]]


def states(held: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Model name -> ``loaded`` if any replica has it ready, else ``loading``."""
    found: dict[str, str] = {}
    for one in held:
        if found.get(one["name"]) != "loaded":
            found[one["name"]] = one["state"]
    return found


async def capabilities(desk: Desk, model: Model) -> Capabilities:
    """What the model itself says where a replica holds it, else what its manifest or the registry says of it."""
    client = desk.families.get(model.family)
    told = [] if client is None else [one for one in await client.ask("capabilities", model.name) if one is not None]
    return Capabilities.model_validate(told[0]) if told else model.capabilities


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _answer(told: LoadResponse) -> Response:
    return Response(told.model_dump_json(), media_type="application/json")
