"""``/api/info``: what this server is made of and how it is, on one page for who looks for a fault."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from ray.experimental.internal_kv import _internal_kv_get

from deployments.ingress.desk import Desk
from deployments.ingress.families import FamilyClient
from deployments.ingress.holdings import Reports
from tollama import info
from tollama import settings as settings_module
from tollama.answers import Info
from tollama.redaction import redacted

FILE = "serve_config.yaml"
STARTED = time.time()


def routes(desk: Desk) -> APIRouter:
    """``/api/info`` and ``/v1/info``."""
    router = APIRouter(tags=["health"])
    dashboard: list[str | None] = []

    @router.get("/v1/info", response_model=Info)
    @router.get("/api/info", response_model=Info)
    async def everything() -> Response:
        """Versions, config with where each value comes from, paths, environment, registry, models, families, Ray.

        Secrets are masked. A family that does not answer at once is shown as it last was.
        """
        if not dashboard:
            dashboard.append(await asyncio.to_thread(_dashboard))
        held = await desk.holdings.now()
        return JSONResponse(await asyncio.to_thread(_told, desk, held, dashboard[0]))

    return router


def _told(desk: Desk, held: dict[str, Reports], dashboard: str | None) -> dict[str, Any]:
    restarts = desk.metrics.restarts()
    return {
        "server": {"pid": os.getpid(), "started_at": _iso(STARTED), "api": _address(desk)},
        "versions": info.versions(),
        "config": _config(desk),
        "paths": info.paths(desk.settings),
        "environment": info.environment(),
        "registry": info.known(),
        "models": info.models(desk.catalog),
        "families": {
            name: _family(desk, client, held.get(name), restarts.get(name, {}))
            for name, client in desk.families.items()
        },
        "ray": {"dashboard": dashboard},
    }


def _family(desk: Desk, client: FamilyClient, held: Reports | None, restarts: dict[str, int]) -> dict[str, Any]:
    death = desk.supervision.last.get(client.spec.name)
    last = {"reason": death.reason, "model": death.model, "at": _iso(death.at)} if death is not None else None
    error = {"code": client.last_error[0], "at": _iso(client.last_error[1])} if client.last_error is not None else None
    told: dict[str, Any] = redacted(
        {
            "runtime": info.runtime(desk.runtimes, client.spec),
            "adapters": list(client.spec.adapters),
            "answers": held is not None,
            "replicas": [_replica(report) for report in held or ()],
            "waiting": client.waiting,
            "in_flight": client.in_flight,
            "restarts": restarts,
            "last_death": last,
            "last_error": error,
            "unavailable": client.refused or client.failure,
        }
    )
    return told


def _replica(report: dict[str, Any]) -> dict[str, Any]:
    shown = ("name", "state", "in_use", "memory_mb", "vram_mb")
    return {
        "replica": report["replica"],
        "pid": report["pid"],
        "started_at": _iso(report["started"]),
        "device": report["device"],
        "models": [{key: held[key] for key in shown} for held in report["models"]],
    }


def _address(desk: Desk) -> str | None:
    if desk.door is None:
        return None
    host, port = desk.door
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _config(desk: Desk) -> dict[str, dict[str, Any]]:
    """The settings in force. The home and the door are told to every ingress by the graph's own arguments; where they
    say what the settings say anyway, those are where it comes from."""
    alone = settings_module.load()
    sources = info.sources(alone)
    if alone.home != desk.settings.home:
        sources = {**info.sources(desk.settings), "home": FILE}
    shown = info.config(desk.settings, sources)
    for name, value in zip(("host", "port"), desk.door or (), strict=False):
        if shown[name]["value"] != value:
            shown[name] |= {"value": value, "source": FILE}
    return shown


def _dashboard() -> str | None:
    """The URL of Ray's dashboard, if the cluster has one."""
    with suppress(Exception):
        address = _internal_kv_get(b"webui:url", namespace=b"dashboard")
        return f"http://{address.decode()}" if address else None
    return None


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
