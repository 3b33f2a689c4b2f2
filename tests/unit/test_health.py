"""Readiness: what makes a server unwell, asked of the route alone."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from deployments.door import DRAIN
from deployments.ingress import health, holdings
from deployments.ingress.desk import Desk
from deployments.ingress.guard import Keys
from deployments.ingress.holdings import Holdings
from deployments.ingress.metrics import Metrics
from deployments.ingress.supervision import Supervision
from tollama.catalog import Catalog
from tollama.families import families
from tollama.runtimes import Runtimes
from tollama.settings import Settings
from tollama.store import Home


def readiness(home: Path, families: dict[str, Any] | None = None) -> httpx.Response:
    """What ``/health/ready`` answers of a home, and that the server lives all the same."""
    desk = Desk(
        Settings(home=home),
        Catalog(Home(home)),
        Runtimes(home / "runtimes"),
        families or {},
        Supervision(home / "none", 5, 1.0),
        cast(Metrics, None),  # would set the environment of the servers that are started later
        Holdings(families or {}),
        Keys(Settings(home=home)),
    )
    app = FastAPI()
    app.include_router(health.routes(desk))
    with TestClient(app) as client:  # one event loop for all that it is asked
        assert client.get("/health/live").status_code == 200
        return client.get("/health/ready")


def test_readiness_fails_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert readiness(tmp_path).json()["status"] == "ready"
    monkeypatch.setattr(health, "LEAST_DISK_MB", 1e12)
    answer = readiness(tmp_path)
    assert (answer.status_code, answer.json()["status"]) == (503, "unwell")
    assert "MB free" in answer.json()["checks"]["disk"]


def test_readiness_fails_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("a file in its place")
    answer = readiness(tmp_path / "home")
    assert answer.status_code == 503
    assert answer.json()["checks"]["store"].startswith("not writable: ")

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    answer = readiness(tmp_path / "other")
    assert answer.status_code == 503
    assert answer.json()["checks"]["store"] == "not writable: Read-only file system"
    assert list((tmp_path / "other").iterdir()) == []


def test_readiness_ends_when_the_server_drains(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / DRAIN).touch()
    answer = readiness(tmp_path)
    assert (answer.status_code, answer.json()["status"]) == (503, "unwell")
    assert answer.json()["checks"]["ingress"] == "draining"


def test_readiness_waits_for_no_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        """A family whose replicas do not answer."""

        spec, refused, failure, waiting = families()["mock"], None, None, 0

        async def ask(self, method: str, *args: Any) -> list[Any]:
            await asyncio.sleep(3600)
            raise AssertionError

    monkeypatch.setattr(holdings, "WAIT_S", 0.01)
    answer = readiness(tmp_path, {f"silent-{n}": Silent() for n in range(20)})
    assert answer.status_code == 200
    assert set(answer.json()["checks"]["families"].values()) == {"idle"}
