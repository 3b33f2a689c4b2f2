"""The ingress deployment: one ASGI application, behind its own door and behind Serve's proxy. No ML library in it."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from filelock import FileLock
from ray import serve

from deployments import logs
from deployments.blackbox import BLACK_BOXES
from deployments.door import DRAIN, Door
from deployments.ingress import docs, faults, forecast, health, info, metrics, models, ollama, resident, successor
from deployments.ingress.desk import Desk
from deployments.ingress.families import FamilyClient
from deployments.ingress.guard import Guarded, Identified, Keys
from deployments.ingress.holdings import Holdings
from deployments.ingress.installing import Installing
from deployments.ingress.measured import Measured
from deployments.ingress.pages import Pages
from deployments.ingress.relief import Relief
from deployments.ingress.starting import Controller, Starting
from deployments.ingress.supervision import Supervision
from deployments.ingress.turns import TURNS, Gpus, Turns
from tollama import settings as settings_module
from tollama.catalog import Catalog
from tollama.families import families
from tollama.logs import retain
from tollama.runtime_child import install_in_child
from tollama.runtimes import Runtimes
from tollama.settings import Settings
from tollama.store import Home
from tollama.version import __version__

DOORS = "doors"
"""The folder in the run folder where each ingress replica holds a lock until its door is closed."""
DRAIN_POLL_S = 0.1
LOGS_EVERY_S = 600.0


@dataclass(frozen=True, slots=True)
class IngressConfig:
    """``home`` is the store's folder; ``door`` is (host, port) or None where only Serve's proxy is the way in.
    ``gpus`` says which families share them, ``replicas`` how many each family may have, ``exposed`` whether other
    machines reach the API, ``followed`` whether a process is to wait to take over."""

    home: str
    door: tuple[str, int] | None
    gpus: Gpus
    replicas: Mapping[str, int]
    exposed: bool = False
    followed: bool = False


class IngressImpl:
    """Holds the routes' means, and the door while the replica lives."""

    def __init__(self, config: IngressConfig, handles: Mapping[str, Any]) -> None:
        self.config = config
        logs.install()
        settings = settings_module.load(home=config.home)
        home = Home(settings.home)
        runtimes = Runtimes(settings.runtimes, keep_runtimes=settings.keep_runtimes)
        specs = families()
        turns = Turns(config.gpus, home.run / TURNS)
        supervision = Supervision(home.run / BLACK_BOXES, settings.restart_max, settings.restart_backoff)
        kept = metrics.Metrics(home.run / metrics.FOLDER, handles)
        controller = Controller()
        clients: dict[str, FamilyClient] = {}
        relief = Relief(clients)
        for name, handle in handles.items():
            clients[name] = FamilyClient(
                specs[name],
                handle,
                runtimes,
                supervision,
                settings.max_queue,
                turns,
                Starting(name, turns, controller, settings.restart_backoff),
                relief,
                kept.family(name),
                config.replicas[name],
            )
        installing = None
        if settings.auto_install_runtimes:
            installing = Installing(runtimes, partial(install_in_child, runtimes=runtimes), settings.max_queue)
        self.desk = Desk(
            settings,
            Catalog(home),
            runtimes,
            clients,
            supervision,
            kept,
            Holdings(clients),
            Keys(settings, needed=config.exposed and not settings.insecure),
            config.door,
            installing,
            controller,
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        near, followed = not self.config.exposed, self.config.followed
        return application(self.desk, self.config.door, near=near, followed=followed)


def application(desk: Desk, door: tuple[str, int] | None, *, near: bool = True, followed: bool = False) -> FastAPI:
    """The ASGI application; its lifespan opens the door and, at the end, closes it when all is answered. ``near`` says
    that only this machine reaches it, ``followed`` that a process is to wait to take over."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        run = Home(desk.settings.home).run
        opened = Door(app, *door) if door is not None else None
        watchers = [
            asyncio.ensure_future(desk.supervision.watch()),
            asyncio.ensure_future(desk.metrics.watch(desk)),
            asyncio.ensure_future(_keep_logs(desk.settings)),
        ]
        if followed:
            watchers.append(asyncio.ensure_future(successor.prepare()))
        if opened is not None:
            opened.open()
            watchers.append(asyncio.ensure_future(_close_on_drain(opened, run)))
        # What is here now stays; the collector need not look through it at every sweep.
        gc.collect()
        gc.freeze()
        # A crowd leaves tens of thousands of objects in cycles: at 10,000 one sweep of them took 125 ms.
        gc.set_threshold(2_000, 20, 20)
        try:
            yield
        finally:
            for watcher in watchers:
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
        redoc_url=None,  # one page is enough
        swagger_ui_oauth2_redirect_url=None,
    )
    # The busiest first: routes are tried in order.
    resources = (forecast, health, ollama, models, resident, metrics, info)
    routers = [resource.routes(desk) for resource in resources]
    for router in routers:
        app.include_router(router)
    # The innermost is added first. Browsers ask without a key whether they may ask, and read a 401 too.
    app.add_middleware(Guarded, admit=desk.keys)
    if desk.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=desk.settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    app.add_middleware(Pages, origins=desk.settings.cors_origins, near=near, keys=desk.keys)
    app.add_middleware(Identified)
    # Outermost: what another layer answers counts, too.
    every = [route for router in routers for route in router.routes]
    app.add_middleware(Measured, metrics=desk.metrics, routes=every, known=lambda name: desk.catalog.find(name).name)
    faults.install(app)
    docs.install(app)
    return app


async def _close_on_drain(door: Door, run: Path) -> None:
    # Locked for as long as the door is open or somebody waits behind it; the kernel does it for one that is killed.
    (run / DOORS).mkdir(parents=True, exist_ok=True)
    with FileLock(run / DOORS / str(os.getpid()), thread_local=False):
        while not (run / DRAIN).exists():  # noqa: ASYNC110 - the sign is a file, set by another process
            await asyncio.sleep(DRAIN_POLL_S)
        await door.close()


async def _keep_logs(settings: Settings) -> None:
    """Now and then remove the logs that are over the limits."""
    while True:
        await asyncio.sleep(LOGS_EVERY_S)
        await asyncio.to_thread(retain, Home(settings.home).logs, settings.log_max_mb, settings.log_max_days)


Ingress = serve.ingress()(IngressImpl)
