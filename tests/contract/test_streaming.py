"""Streamed forecasts: lines that come when things happen, and how errors end them."""

from __future__ import annotations

import itertools
import time
from typing import Any

import httpx
import pytest

from tests.contract.checks import lines, refused, shaped
from tests.serving import Server, request, series, wait_for

PANEL = [series(f"s{i}") for i in range(600)]
"""Three parts of at most 256 series."""


def timed(api: httpx.Client, path: str = "/api/forecast", **changes: Any) -> list[tuple[float, dict[str, Any]]]:
    """Every line with the time of its arrival, in seconds from the request."""
    start = time.monotonic()
    with api.stream("POST", path, json=request(**changes)) as answer:
        return [(time.monotonic() - start, line) for line in lines(answer)]


def test_lines_come_when_things_happen(api: httpx.Client) -> None:
    api.post("/v1/forecast", json=request())
    came = timed(api, series=PANEL, options={"delay_s": 0.4})
    assert came[0][1] == {"status": "queued"}
    running = [(at, line["completed"]) for at, line in came if line.get("status") == "running forecast"]
    assert [completed for _, completed in running] == [0, 256, 512, 600]
    assert all(line["total"] == 600 for _, line in came if line.get("status") == "running forecast")
    # 0.4 s of work lie between two of them; sent together at the end they would be much closer.
    assert all(later[0] - earlier[0] > 0.2 for earlier, later in itertools.pairwise(running))
    assert came[-1][0] - came[0][0] > 1.0


def test_the_last_line_is_the_answer(api: httpx.Client) -> None:
    last = timed(api)[-1][1]
    assert set(last) == {"done", "response"}
    assert last["done"] is True
    assert last["response"]["forecasts"] == api.post("/v1/forecast", json=request()).json()["forecasts"]


def test_a_panel_of_many_numbers(api: httpx.Client) -> None:
    last = timed(api, series=PANEL, horizon=100)[-1][1]
    assert [one["id"] for one in last["response"]["forecasts"]] == [one["id"] for one in PANEL]


@pytest.mark.parametrize(
    ("path", "changes", "streamed"),
    [
        ("/api/forecast", {}, True),
        ("/api/forecast", {"stream": True}, True),
        ("/api/forecast", {"stream": False}, False),
        ("/v1/forecast", {}, False),
        ("/v1/forecast", {"stream": True}, True),
        ("/v1/forecast", {"stream": False}, False),
    ],
)
def test_who_streams(api: httpx.Client, path: str, changes: dict[str, Any], streamed: bool) -> None:
    kind = api.post(path, json=request(**changes)).headers["content-type"]
    assert kind == ("application/x-ndjson" if streamed else "application/json")


def test_a_cold_start_is_told(api: httpx.Client, server: Server) -> None:
    for held in server.ps():
        if held["family"] == "mock":
            quantiles: dict[str, Any] = {"quantiles": []} if held["name"] != "mock" else {}
            assert (
                api.post("/v1/forecast", json=request(model=held["name"], keep_alive=0, **quantiles)).status_code == 200
            )

    def state() -> str:
        return str(api.get("/health/ready").json()["checks"]["families"]["mock"])

    # Not asked over HTTP: each question is work for the family.
    wait_for(lambda: not server.processes("ServeReplica:tollama:mock"), 30, "the family's end")
    wait_for(lambda: state() == "idle", 5, "the family's rest")
    statuses = [line.get("status", "done") for _, line in timed(api)]
    assert statuses == [
        "queued",
        "starting runner",
        "loading model",
        "running forecast",
        "running forecast",
        "done",
    ]
    assert state() == "ready"
    statuses = [line.get("status", "done") for _, line in timed(api)]
    assert statuses == ["queued", "running forecast", "running forecast", "done"]


@pytest.mark.parametrize("failure", ["raise", "non_finite", "item"])
def test_an_error_after_the_first_line_is_the_last_line(api: httpx.Client, failure: str) -> None:
    came = timed(api, options={"fail": failure}, series=[series("fail")])
    assert came[0][1] == {"status": "queued"}
    assert shaped(came[-1][1])["code"] == "RUNNER_FAILED"


def test_a_deadline_that_passes_is_the_last_line(api: httpx.Client) -> None:
    came = timed(api, options={"delay_s": 1.5}, timeout=1)
    assert shaped(came[-1][1])["code"] == "DEADLINE_EXCEEDED"
    assert came[-1][0] < 1.3


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"horizon": 0}, 400, "INVALID_REQUEST"),
        ({"series": [series(freq="x")]}, 400, "INVALID_SERIES"),
        ({"options": {"no": 1}}, 400, "UNSUPPORTED_BY_MODEL"),
        ({"model": "nope-nope"}, 404, "MODEL_NOT_FOUND"),
        ({"model": "chronos-bolt-base"}, 404, "MODEL_NOT_INSTALLED"),
        ({"model": "moirai-2.0-r-small"}, 409, "LICENSE_NOT_ACCEPTED"),
    ],
)
def test_errors_known_before_are_plain(api: httpx.Client, changes: dict[str, Any], status: int, code: str) -> None:
    refused(api.post("/v1/forecast", json=request(stream=True, **changes)), status, code)
