"""Whether the server lives, and whether it is well."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

from fastapi import APIRouter, Request, Response

from deployments.door import DRAIN
from deployments.ingress.desk import Desk
from deployments.ingress.families import FamilyClient
from deployments.ingress.holdings import PATIENCE_S, Reports
from tollama.answers import Checks, Health, Readiness
from tollama.store import Home

LEAST_DISK_MB = 100
"""Free space under which the store counts as unwell: manifests and logs can no longer be written."""


def routes(desk: Desk) -> APIRouter:
    """``/v1/health``, ``/health/live`` and ``/health/ready``."""
    router = APIRouter(tags=["health"])

    @router.get("/v1/health")
    @router.get("/health/live")
    async def live() -> Health:
        """A sign of life that no forecast delays."""
        return Health()

    @router.get(
        "/health/ready",
        responses={503: {"model": Readiness, "description": "Not well."}},
        response_model_exclude_none=True,
    )
    async def ready(request: Request, response: Response) -> Readiness:
        """Per check; 503 when the ingress, the store or the disk is not well. Who has no key where one is needed gets
        the status alone."""
        home = Home(desk.settings.home)
        ingress = "draining" if (home.run / DRAIN).exists() else "ok"
        store, disk = await asyncio.to_thread(_store, home.root)
        well = ingress == store == disk == "ok"
        response.status_code = 200 if well else 503
        answer = Readiness(status="ready" if well else "unwell")
        if desk.keys.admit(request.scope["headers"]):
            held = await desk.holdings.now(PATIENCE_S)
            families = {name: _family(desk, client, held.get(name)) for name, client in desk.families.items()}
            answer.checks = Checks(ingress=ingress, store=store, disk=disk, families=families)
        return answer

    return router


def _store(home: Path) -> tuple[str, str]:
    """Whether something can be written there, by trying it, and whether there is room: ``ok`` or what is wrong."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home, buffering=0) as probe:
            probe.write(b"tollama")
        store = "ok"
    except OSError as error:
        store = f"not writable: {error.strerror}"
    try:
        free_mb = shutil.disk_usage(home).free / 1e6
    except OSError as error:
        return store, f"cannot be looked at: {error.strerror}"
    return store, "ok" if free_mb >= LEAST_DISK_MB else f"only {free_mb:.0f} MB free"


def _family(desk: Desk, client: FamilyClient, held: Reports | None) -> str:
    """``held`` is what its replicas say; None where they did not answer at once."""
    if client.refused is not None:
        return f"unavailable: {client.refused}"
    state = desk.runtimes.state(client.spec)
    if not state.ready:
        return f"unavailable: {state.reason.rstrip('.')}; {state.repair}"
    if held:
        return "ready"
    if client.failure is not None:
        return f"unavailable: {client.failure}"
    return "starting" if client.waiting else "idle"
