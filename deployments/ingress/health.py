"""Whether the server lives, and whether it is well."""

from __future__ import annotations

import os
import shutil

from fastapi import APIRouter, Request, Response

from deployments.ingress.desk import Desk
from deployments.ingress.families import FamilyClient
from tollama.answers import Checks, Health, Readiness

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
        home = desk.settings.home
        free_mb = shutil.disk_usage(next(path for path in (home, *home.parents) if path.exists())).free / 1e6
        writable = os.access(home, os.W_OK) if home.exists() else os.access(home.parent, os.W_OK)
        store = "ok" if writable else "not writable"
        disk = "ok" if free_mb >= LEAST_DISK_MB else f"only {free_mb:.0f} MB free"
        well = store == disk == "ok"
        response.status_code = 200 if well else 503
        answer = Readiness(status="ready" if well else "unwell")
        if desk.keys.admit(request.scope["headers"]):
            families = {name: await _family(desk, client) for name, client in desk.families.items()}
            answer.checks = Checks(ingress="ok", store=store, disk=disk, families=families)
        return answer

    return router


async def _family(desk: Desk, client: FamilyClient) -> str:
    if client.refused is not None:
        return f"unavailable: {client.refused}"
    state = desk.runtimes.state(client.spec)
    if not state.ready:
        return f"unavailable: {state.reason.rstrip('.')}; {state.repair}"
    if await client.ask("ps"):
        return "ready"
    if client.failure is not None:
        return f"unavailable: {client.failure}"
    return "starting" if client.waiting else "idle"
