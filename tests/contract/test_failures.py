"""The status table, where the server, the model or the client's patience fails."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.contract.checks import busy, lines, refused, shaped, until
from tests.serving import Server, request, series, wait_for

Ask = Callable[..., httpx.Response]


@pytest.fixture(autouse=True)
def warm(ask: Ask) -> None:
    """The mock model is loaded and idle: what a test measures is no cold start and no work left by another test."""
    assert ask().status_code == 200


def test_deadline_exceeded(ask: Ask) -> None:
    start = time.monotonic()
    found = refused(ask(options={"delay_s": 2.5}, timeout=2), 504, "DEADLINE_EXCEEDED")
    assert time.monotonic() - start < 2 * 1.1 + 0.2
    assert "timeout" in found["hint"]


def test_a_deadline_passes_in_the_queue_too(ask: Ask, api: httpx.Client) -> None:
    with busy(api, 2):
        start = time.monotonic()
        refused(ask(timeout=0.5), 504, "DEADLINE_EXCEEDED")
        assert time.monotonic() - start < 0.5 * 1.1 + 0.2


def test_health_answers_while_a_forecast_runs(api: httpx.Client) -> None:
    with busy(api, 1.5):
        for path in ("/v1/health", "/health/live", "/health/ready", "/api/ps", "/api/version"):
            answer = api.get(path)
            assert answer.status_code == 200
            assert answer.elapsed.total_seconds() < 1


@pytest.mark.parametrize("failure", ["raise", "non_finite"])
def test_a_model_that_fails(ask: Ask, failure: str) -> None:
    found = refused(ask(options={"fail": failure}), 502, "RUNNER_FAILED")
    assert found["hint"]
    assert "asked for" not in json.dumps(found)  # what the model said is for the log
    assert ask().status_code == 200


@pytest.mark.parametrize("path", ["/v1/forecast", "/api/forecast"])
def test_the_work_of_a_client_that_left_is_dropped(base: str, api: httpx.Client, path: str) -> None:
    with busy(api, 1.5), pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{base}{path}", json=request(options={"delay_s": 20}), timeout=httpx.Timeout(10, read=0.7))
    # Behind the one that left, this would wait 20 s.
    assert api.post("/v1/forecast", json=request(timeout=10)).status_code == 200


def test_a_killed_process(api: httpx.Client, server: Server) -> None:
    (held,) = (one for one in server.ps() if one["name"] == "mock")
    pid = int(held["replica"].removeprefix("mock-"))
    assert pid in server.processes("mock")
    with (
        ThreadPoolExecutor(1) as pool,
        api.stream("POST", "/api/forecast", json=request(options={"delay_s": 8})) as answer,
    ):
        stream = lines(answer)
        until(stream, "running forecast")
        plain = pool.submit(server.forecast, str(api.base_url).rstrip("/"), series=[series("b")])
        os.kill(pid, signal.SIGKILL)
        assert shaped(list(stream)[-1])["code"] == "RUNNER_FAILED"
        late = plain.result()
    if late.status_code != 200:  # it was either in the process that died or waits for the next one
        assert refused(late, 502, "RUNNER_FAILED")["hint"]
    assert api.post("/v1/forecast", json=request()).status_code == 200
    assert {one["replica"] for one in server.ps()} == {f"mock-{new}" for new in server.processes("mock") if new != pid}


def test_a_fault_of_ours(api: httpx.Client, server: Server) -> None:
    big = json.dumps(request()).encode() + b" " * 1_100_000
    assert api.post("/v1/forecast", content=big).status_code == 200
    (pid,) = server.processes("spawn_main")
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(api.post, "/v1/forecast", content=big, headers={"X-Request-ID": "big-one"})
        os.kill(pid, signal.SIGKILL)
        found = refused(answer.result(), 500, "INTERNAL")
    assert found["detail"] == {"request_id": "big-one"}
    assert set(answer.result().headers["x-request-id"].split(", ")) == {"big-one"}
    wait_for(lambda: pid not in server.processes("spawn_main"), 10, "the process's end")
    assert api.post("/v1/forecast", content=big).status_code == 200
    unnamed: Any = refused(api.get("/nothing"), 404, "NOT_FOUND")
    assert unnamed["detail"] is None
