"""The model routes: what there is, what it can do, pull it, remove it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic_core import to_json

from deployments.ingress import body, docs, faults, resident
from deployments.ingress.desk import Desk
from tollama import licenses
from tollama.answers import BrokenModel, LicenseInfo, ModelDetail, ModelInfo, ModelList, Removed, RuntimeInfo
from tollama.capabilities import Capabilities
from tollama.catalog import Model
from tollama.contract import parse
from tollama.errors import (
    ErrorRecord,
    InvalidRequest,
    ModelNotInstalled,
    RunnerUnavailable,
    TollamaError,
    from_record,
)
from tollama.network import on_loopback
from tollama.protocols.ollama import Status
from tollama.pull_child import pull_in_child
from tollama.registry import Entry, canonical_name
from tollama.wanted import PullRequest, target

logger = logging.getLogger("ray.serve")


def routes(desk: Desk) -> APIRouter:
    """``/v1/models...``."""
    router = APIRouter(tags=["models"])

    @router.get("/v1/models")
    async def models() -> ModelList:
        """Every known model, every installed one, and those whose manifest cannot be read."""
        states = resident.states(await resident.held(desk))
        return ModelList(
            available=[ModelInfo(**view(desk, model, states)) for model in desk.catalog.available()],
            installed=[ModelInfo(**view(desk, model, states)) for model in desk.catalog.installed()],
            broken=[BrokenModel(name=name, reason=reason) for name, reason in desk.catalog.broken().items()],
        )

    @docs.post(router, "/v1/models/pull", body=PullRequest, answer=Status, lines=Status)
    async def pull(request: Request) -> Response:
        """Download a model and its family's environment; the last status, or every one with ``stream: true``."""
        return await pulled(desk, request, stream=False)

    @router.get("/v1/models/{name}")
    async def model(name: str) -> ModelDetail:
        """One model, with its manifest when it is installed."""
        found = desk.catalog.find(name)
        shown = view(desk, found, resident.states(await resident.held(desk)))
        shown["capabilities"] = await resident.capabilities(desk, found)
        return ModelDetail(**shown, manifest=found.manifest)

    @router.get("/v1/models/{name}/capabilities")
    async def capabilities(name: str) -> Capabilities:
        """Limits, quantiles, covariates and options of one model; where it is loaded, as its library has them."""
        return await resident.capabilities(desk, desk.catalog.find(name))

    @router.delete("/v1/models/{name}")
    async def remove(name: str) -> Removed:
        """Unload a model, then delete its files; the licence receipt stays."""
        return Removed(name=await removed(desk, name))

    return router


def view(desk: Desk, model: Model, states: Mapping[str, str]) -> dict[str, Any]:
    """The fields of :class:`ModelInfo`; ``states`` are those of the models in memory."""
    about, terms = model.about, model.about.license
    client = desk.families.get(model.family)
    runtime = desk.runtimes.state(client.spec) if client is not None else None
    return {
        "name": model.name,
        "family": model.family,
        "source": about.source,
        "license": LicenseInfo(
            id=terms.id,
            needs_acceptance=terms.needs_acceptance,
            accepted=desk.catalog.accepted(model),
            notice=terms.notice,
            url=terms.url,
        ),
        "capabilities": about.capabilities,
        "installed": model.installed,
        "state": states.get(model.name, "installed" if model.installed else "available"),
        "runtime": RuntimeInfo(installed=bool(runtime and runtime.installed), ready=bool(runtime and runtime.ready)),
    }


async def removed(desk: Desk, name: str) -> str:
    """Unload and delete; the model's canonical name. 404 for what is unknown or not installed."""
    name = canonical_name(name)
    if name not in desk.catalog.broken():
        model = desk.catalog.find(name)
        if model.embedded:
            raise ModelNotInstalled(
                f"The model {name!r} is part of tollama and has no files to remove.",
                hint=f"tollama stop {name} unloads it.",
            )
        if not model.installed:
            raise ModelNotInstalled(f"The model {name!r} is not installed.", hint="tollama list shows what is.")
    await resident.drop(desk, name)
    await asyncio.to_thread(desk.catalog.store.remove, name)
    await resident.drop(desk, name)  # who asked for it meanwhile has claimed it for as long as any
    return name


async def pulled(desk: Desk, request: Request, *, stream: bool) -> Response:
    """The answer to a pull: NDJSON as it goes on, or its last status."""
    asked = parse(PullRequest, await body.read(request, desk.settings.max_body))
    if (asked.endpoint or asked.proxy) and not trusted(desk, request):
        raise InvalidRequest(
            "Only a client on the server's own machine, or one with an API key, may name another endpoint or proxy.",
            hint="Leave it out, or set TOLLAMA_HF_ENDPOINT or TOLLAMA_PROXIES on the server.",
        )
    wanted = target(asked, desk.catalog.store)
    if isinstance(wanted, Entry):
        _servable(desk, wanted, asked)
    if isinstance(wanted, Entry) or desk.catalog.store.get(wanted.name) is not None:
        request.state.model = wanted.name
    statuses = _said(wanted.name, desk.metrics.pulling(pull_in_child(wanted, asked, desk.settings)), request)
    try:
        first = await anext(statuses)
    except StopAsyncIteration:
        first = {"status": "success"}
    if "code" in first:
        await statuses.aclose()
        raise _error(first)
    if stream if asked.stream is None else asked.stream:
        return StreamingResponse(_lines(first, statuses, request), media_type="application/x-ndjson")
    last = first
    async with aclosing(statuses):
        async for last in statuses:
            if "code" in last:
                raise _error(last)
    return JSONResponse(last)


def _servable(desk: Desk, entry: Entry, asked: PullRequest) -> None:
    """Not a byte for what cannot run here; but the licence is asked about first."""
    try:
        desk.family(entry.family).require(entry.adapter)
    except RunnerUnavailable:
        if not asked.accept_license:
            licenses.require(desk.catalog.home, entry.name, entry.license)
        raise


def trusted(desk: Desk, request: Request) -> bool:
    """Whether the client may say where the server goes: it is on the server's own machine, or has an API key."""
    near = request.client is not None and on_loopback(request.client.host)
    return near or desk.keys.known(request.scope["headers"])


async def _said(
    name: str, statuses: AsyncGenerator[dict[str, Any]], request: Request
) -> AsyncGenerator[dict[str, Any]]:
    """The lines as a client may see them, the outcome in the log."""
    logger.info("pulling the model %s", name)
    outcome = "aborted"
    try:
        async with aclosing(statuses):
            async for line in statuses:
                status = faults.masked(line)
                if status.get("status") == "success":
                    outcome = "success"
                    request.state.model = name  # a name of the client's own is one of a model from here on
                elif "code" in status:
                    outcome = f"{status['code']} {status.get('error') or ''}".rstrip()
                yield status
    finally:
        logger.info("pull of the model %s: %s", name, outcome)


async def _lines(first: dict[str, Any], rest: AsyncGenerator[dict[str, Any]], request: Request) -> AsyncIterator[bytes]:
    yield to_json(first) + b"\n"
    try:
        # Closed with the client's connection, so that no pull goes on for nobody.
        async with aclosing(rest):
            async for status in rest:
                yield to_json(status) + b"\n"
    except TollamaError as error:
        yield to_json(faults.body(error, request)) + b"\n"
    except Exception as error:
        yield to_json(faults.internal(error, request).record.body()) + b"\n"


def _error(status: dict[str, Any]) -> TollamaError:
    return from_record(ErrorRecord(status["error"], status["code"], status.get("detail"), status.get("hint") or ""))
