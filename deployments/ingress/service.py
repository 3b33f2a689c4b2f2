"""The ingress deployment: one ASGI application, behind its own door and behind Serve's proxy. No ML library in it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve

from deployments.door import Door
from deployments.ingress import docs, faults, forecast, health, models, ollama
from deployments.ingress.desk import Desk
from deployments.ingress.families import FamilyClient
from deployments.ingress.installing import Installing
from tollama import settings as settings_module
from tollama.catalog import Catalog
from tollama.families import families
from tollama.runtime_child import install_in_child
from tollama.runtimes import Runtimes
from tollama.store import Home
from tollama.version import __version__

DRAIN = "drain"
"""The file in the run folder that tells the ingress to close its door."""
DRAIN_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class IngressConfig:
    """``home`` is the store's folder; ``door`` is (host, port) or None where only Serve's proxy is the way in."""

    home: str
    door: tuple[str, int] | None


class IngressImpl:
    """Holds the routes' means, and the door while the replica lives."""

    def __init__(self, config: IngressConfig, handles: Mapping[str, Any]) -> None:
        self.config = config
        settings = settings_module.load(home=config.home)
        home = Home(settings.home)
        runtimes = Runtimes(settings.runtimes, keep_runtimes=settings.keep_runtimes)
        specs = families()
        clients = {
            name: FamilyClient(specs[name], handle, runtimes, settings.max_queue) for name, handle in handles.items()
        }
        installing = None
        if settings.auto_install_runtimes:
            installing = Installing(runtimes, partial(install_in_child, runtimes=runtimes), settings.max_queue)
        self.desk = Desk(settings, Catalog(home), runtimes, clients, installing)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return application(self.desk, self.config.door)


def application(desk: Desk, door: tuple[str, int] | None) -> FastAPI:
    """The ASGI application; its lifespan opens the door and, at the end, closes it when all is answered."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        run = Home(desk.settings.home).run
        opened = Door(app, *door) if door is not None else None
        watcher = None
        if opened is not None:
            opened.open()
            watcher = asyncio.ensure_future(_close_on_drain(opened, run / DRAIN))
        # What is here now stays; the collector need not look through it at every sweep.
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 20, 20)
        try:
            yield
        finally:
            if watcher is not None:
                watcher.cancel()
            if desk.installing is not None:
                await desk.installing.close()  # who waits for a build is told, so that the door can close
            if opened is not None:
                await opened.close()
            desk.close()

    app = FastAPI(
        title="tollama",
        version=__version__,
        description="Forecasts by time-series foundation models.",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    for resource in (forecast, health, ollama, models):  # the busiest first: routes are tried in order
        app.include_router(resource.routes(desk))
    faults.install(app)
    docs.install(app)
    return app


async def _close_on_drain(door: Door, sign: Path) -> None:
    while not sign.exists():  # noqa: ASYNC110 - the sign is a file, set by another process
        await asyncio.sleep(DRAIN_POLL_S)
    await door.close()
    sign.with_suffix(".done").touch()


Ingress = serve.ingress()(IngressImpl)
