"""What clients of Ollama ask: version, tags, ps, pull and delete, in its shapes."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response

from deployments.ingress import docs, resident
from deployments.ingress.desk import Desk
from deployments.ingress.models import pulled
from tollama.catalog import Model
from tollama.errors import ModelNotFound
from tollama.pull import PullRequest
from tollama.version import __version__

FOREVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""What ``expires_at`` says of a model that is kept for ever."""
MOST_LEFT_S = 1000 * 365 * 86400.0
"""Seconds that are as good as for ever."""


def routes(desk: Desk) -> APIRouter:
    """``/`` and ``/api/...``."""
    router = APIRouter(tags=["ollama"])

    @router.api_route("/", methods=["GET", "HEAD"], response_class=PlainTextResponse)
    async def root() -> str:
        """A sign of life."""
        return "tollama is running"

    @router.api_route("/api/version", methods=["GET", "HEAD"])
    async def version() -> dict[str, str]:
        """The server's version."""
        return {"version": __version__}

    @router.api_route("/api/tags", methods=["GET", "HEAD"])
    async def tags() -> dict[str, Any]:
        """The installed models."""
        return {"models": [_tag(model) for model in desk.catalog.installed()]}

    @router.get("/v1/ps")
    @router.get("/api/ps")
    async def ps() -> dict[str, Any]:
        """The models in memory, the longest remaining first."""
        held = sorted(await resident.held(desk), key=lambda one: (-one["expires"], one["name"]))
        return {"models": [_running(desk, one) for one in held]}

    @docs.post(router, "/api/pull", body=PullRequest)
    async def pull(request: Request) -> Response:
        """Download a model; NDJSON unless ``stream: false``."""
        return await pulled(desk, request, stream=True)

    return router


def _details(family: str, model: Model | None) -> dict[str, Any]:
    details = model.about.details if model is not None else None
    return {
        "parent_model": "",
        "format": details.format if details else "",
        "family": family,
        "families": [family],
        "parameter_size": details.parameter_size if details else "",
        "quantization_level": details.quantization_level if details else "",
    }


def _tag(model: Model) -> dict[str, Any]:
    manifest = model.manifest
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": (manifest.installed_at if manifest is not None else datetime.fromtimestamp(0, UTC)).isoformat(),
        "size": manifest.size_bytes if manifest is not None else 0,
        "digest": model.digest,
        "details": _details(model.family, model),
    }


def _running(desk: Desk, held: dict[str, Any]) -> dict[str, Any]:
    model = None
    with suppress(ModelNotFound):  # deleted, and not in the registry; it is held for as long as somebody uses it
        model = desk.catalog.find(held["name"])
    now = datetime.now(UTC)
    left = held["expires"] - now.timestamp()
    expires = FOREVER if left > MOST_LEFT_S else now + timedelta(seconds=max(0.0, left))
    stored = model.manifest.size_bytes if model is not None and model.manifest is not None else 0
    return {
        "name": held["name"],
        "model": held["name"],
        "size": int(held["memory_mb"] * 1e6) or stored,
        "digest": held["digest"],
        "details": _details(held["family"], model),
        "expires_at": expires.isoformat(),
        "size_vram": int(held["vram_mb"] * 1e6),
        "context_length": held["context_length"],
        "family": held["family"],
        "device": held["device"],
        "replica": held["replica"],
        "state": held["state"],
        "in_use": held["in_use"],
    }
