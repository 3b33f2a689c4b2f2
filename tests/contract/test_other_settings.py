"""A server without any family's runtime and with other defaults: what a request does not say, the settings say."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import httpx
import pytest

from tests.contract.checks import busy, refused
from tests.hub import LoopbackHub
from tests.serving import Server, request
from tollama.registry import find


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """No runtimes, offline, one second for a request, seven minutes in memory, four requests at a time."""
    folder = tmp_path_factory.mktemp("bare")
    with Server(
        folder / "home",
        TOLLAMA_RUNTIMES_DIR=str(folder / "runtimes"),
        TOLLAMA_OFFLINE="1",
        TOLLAMA_REQUEST_TIMEOUT="1",
        TOLLAMA_KEEP_ALIVE="7m",
        TOLLAMA_MAX_QUEUE="4",
    ) as running:
        yield running


@pytest.fixture(params=["door", "proxy"])
def api(request: pytest.FixtureRequest, bare: Server) -> Iterator[httpx.Client]:
    """Both ways into that server."""
    with httpx.Client(base_url=str(getattr(bare, request.param)), timeout=120) as client:
        yield client


@pytest.mark.parametrize("path", ["/v1/forecast", "/api/forecast"])
def test_a_family_without_its_runtime(api: httpx.Client, path: str) -> None:
    answer = api.post(path, json=request(model="seasonal-naive"))
    found = refused(answer, 503, "RUNNER_UNAVAILABLE")
    assert "not installed" in found["error"]
    assert found["hint"] == "tollama runtime install baseline"
    assert answer.elapsed.total_seconds() < 1


def test_what_needs_no_runtime(api: httpx.Client) -> None:
    body = request(model="seasonal-naive", options={"no": 1})
    refused(api.post("/v1/forecast", json=body), 400, "UNSUPPORTED_BY_MODEL")
    assert api.post("/api/validate", json=request(model="seasonal-naive")).json()["valid"] is True


def test_readiness_and_models_tell_it(api: httpx.Client) -> None:
    answer = api.get("/health/ready")
    assert answer.status_code == 200
    families = answer.json()["checks"]["families"]
    assert families["baseline"].startswith("unavailable: ")
    assert "tollama runtime install baseline" in families["baseline"]
    assert api.get("/v1/models/seasonal-naive").json()["runtime"] == {"installed": False, "ready": False}


def test_defaults_come_from_the_settings(api: httpx.Client) -> None:
    slow = {"delay_s": 1.5}
    assert api.post("/v1/forecast", json=request(options=slow, timeout=100)).status_code == 200
    (held,) = api.get("/api/ps").json()["models"]
    left = (datetime.fromisoformat(held["expires_at"]) - datetime.now(UTC)).total_seconds()
    assert 400 < left <= 420
    refused(api.post("/v1/forecast", json=request(options=slow)), 504, "DEADLINE_EXCEEDED")


@pytest.mark.parametrize("path", ["/v1/forecast", "/api/forecast"])
def test_queue_full(api: httpx.Client, path: str) -> None:
    """Streamed or not, it is said by the status."""

    def post(_: int) -> httpx.Response:
        return api.post(path, json=request(timeout=60))

    assert post(0).status_code == 200
    with busy(api, 2), ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(post, range(12)))
    full = [answer for answer in answers if answer.status_code != 200]
    # The one at work takes a place too. What a slow machine sends after its end finds room again.
    assert 1 <= len(full) <= 9
    for answer in full:
        assert "4" in refused(answer, 503, "QUEUE_FULL")["error"]
        assert int(answer.headers["retry-after"]) >= 1
    assert post(0).status_code == 200


def test_an_offline_server_pulls_nothing_unless_it_is_told_to(
    api: httpx.Client, bare: Server, hub: LoopbackHub
) -> None:
    name = "chronos-bolt-tiny"
    source = find(name).source
    hub.add(str(source.repo_id), {"config.json": b"{}", "model.safetensors": b"w"}, str(source.revision))
    body = {"name": name, "no_runtime": True, "endpoint": hub.url}
    for offline in ({}, {"offline": True}):
        refused(api.post("/v1/models/pull", json={**body, **offline}), 503, "OFFLINE")
    try:
        assert api.post("/v1/models/pull", json={**body, "offline": False}).json() == {"status": "success"}
    finally:
        api.delete(f"/v1/models/{name}")
        shutil.rmtree(bare.home / "cache", ignore_errors=True)
