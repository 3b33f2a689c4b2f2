"""What clients of Ollama ask: version, tags, show, ps, pull and delete. Their shapes are in
:mod:`tollama.protocols.ollama`."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response

from deployments.ingress import body, docs, resident
from deployments.ingress.desk import Desk
from deployments.ingress.models import pulled, removed
from tollama import licenses
from tollama.answers import Version
from tollama.catalog import Model
from tollama.contract import parse
from tollama.errors import ModelNotFound, ModelNotInstalled
from tollama.protocols import ollama as wire
from tollama.version import __version__
from tollama.wanted import PullRequest


def routes(desk: Desk) -> APIRouter:
    """``/`` and ``/api/...``."""
    router = APIRouter(tags=["ollama"])

    @router.head("/", response_class=PlainTextResponse, include_in_schema=False)
    @router.get("/", response_class=PlainTextResponse)
    async def root() -> str:
        """A sign of life."""
        return "tollama is running"

    @router.head("/api/version", include_in_schema=False)
    @router.get("/api/version")
    async def version() -> Version:
        """The server's version."""
        return Version(version=__version__)

    @router.head("/api/tags", include_in_schema=False)
    @router.get("/api/tags")
    async def tags() -> wire.Tags:
        """The installed models."""
        return wire.Tags(models=[wire.tag(model) for model in desk.catalog.installed()])

    @router.get("/v1/ps")
    @router.get("/api/ps")
    async def ps() -> wire.Processes:
        """The models in memory, the longest remaining first."""
        held = sorted(await resident.held(desk), key=lambda one: (-one["expires"], one["name"]))
        now = datetime.now(UTC)
        return wire.Processes(models=[wire.running(one, _known(desk, one["name"]), now) for one in held])

    @docs.post(router, "/api/show", body=wire.NamedRequest, answer=wire.Show)
    async def show(request: Request) -> Response:
        """An installed model: its licence, parameters, details and capabilities."""
        asked = parse(wire.NamedRequest, await body.read(request, desk.settings.max_body))
        model = desk.catalog.find(asked.name)
        if not model.installed:
            raise ModelNotInstalled(
                f"The model {model.name!r} is known but not installed.", hint=f"tollama pull {model.name}"
            )
        text = await asyncio.to_thread(licenses.shown, model.about.license, model.snapshot)
        shown = wire.show(model, text, await resident.capabilities(desk, model))
        return Response(shown.model_dump_json(), media_type="application/json")

    @docs.post(router, "/api/pull", body=PullRequest, answer=wire.Status, lines=wire.Status)
    async def pull(request: Request) -> Response:
        """Download a model; NDJSON unless ``stream: false``."""
        return await pulled(desk, request, stream=True)

    @docs.delete(router, "/api/delete", body=wire.NamedRequest, answer=wire.Status)
    async def delete(request: Request) -> Response:
        """Unload a model, then delete its files; the licence receipt stays."""
        asked = parse(wire.NamedRequest, await body.read(request, desk.settings.max_body))
        await removed(desk, asked.name)
        return Response(wire.Status(status="success").model_dump_json(), media_type="application/json")

    return router


def _known(desk: Desk, name: str) -> Model | None:
    with suppress(ModelNotFound):  # deleted, and not in the registry; it is held for as long as somebody uses it
        return desk.catalog.find(name)
    return None
