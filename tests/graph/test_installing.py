"""A server that installs what a forecast needs: the first request to a family whose environment is not there."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from tests.serving import Server, request, wait_for


@pytest.fixture(scope="module")
def eager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """No runtimes, and the setting that has them installed."""
    folder = tmp_path_factory.mktemp("eager")
    with Server(
        folder / "home", TOLLAMA_RUNTIMES_DIR=str(folder / "runtimes"), TOLLAMA_AUTO_INSTALL_RUNTIMES="1"
    ) as running:
        yield running


def streamed(server: Server, **changes: Any) -> Iterator[dict[str, Any]]:
    body = request(model="seasonal-naive", **changes)
    with server.http.stream("POST", f"{server.door}/api/forecast", json=body, timeout=300) as answer:
        yield from map(json.loads, answer.iter_lines())


def builds(server: Server) -> list[psutil.Process]:
    """The server's builds that still run."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "tollama.runtime_child" in line and str(server.runtimes) in line:
            found.append(process)
    return found


def test_the_first_forecast_installs_the_runtime_and_tells_how_it_goes(eager: Server) -> None:
    lines = streamed(eager)
    assert next(lines) == {"status": "queued"}
    first = next(lines)
    assert first == {"status": "installing runtime", "detail": "creating the environment of baseline"}
    with ThreadPoolExecutor(2) as pool:
        hasty = pool.submit(eager.forecast, model="seasonal-naive", timeout=0.3)
        patient = pool.submit(eager.post, "/v1/forecast", request(model="auto-theta"), timeout=300)
        assert eager.get("/v1/health").elapsed.total_seconds() < 1
        came = list(lines)
        assert (hasty.result().status_code, hasty.result().json()["code"]) == (504, "DEADLINE_EXCEEDED")
        assert patient.result().status_code == 200, patient.result().text
    statuses = [line.get("status", "done") for line in came]
    told = [line["detail"] for line in came if line.get("status") == "installing runtime"]
    assert statuses[: len(told)] == ["installing runtime"] * len(told)
    assert statuses[len(told) :][-2:] == ["running forecast", "done"]
    assert "checking that baseline imports" in told
    assert not any("waiting" in line for line in told), "the requests share one build"
    assert came[-1]["response"]["forecasts"][0]["mean"]
    assert eager.get("/v1/models/seasonal-naive").json()["runtime"] == {"installed": True, "ready": True}
    assert (eager.runtimes / "baseline/current/installed.json").exists()
    assert [line.get("status", "done") for line in streamed(eager)][:2] == ["queued", "running forecast"]


def test_a_build_that_fails_is_told_with_the_command_and_not_tried_by_each(eager: Server) -> None:
    (python,) = eager.runtimes.glob("baseline/*[0-9a-f]/bin/python")
    lock = eager.runtimes / "baseline.lock"
    lock.unlink()
    lock.mkdir()  # nothing can be locked, so nothing can be built
    python.rename(python.with_name("away"))
    wait_for(lambda: "no Python" in eager.get("/health/ready").json()["checks"]["families"]["baseline"])
    last = list(streamed(eager))[-1]
    assert last["code"] == "RUNNER_UNAVAILABLE"
    assert "Is a directory" in last["error"]
    assert "tollama runtime repair baseline" in last["hint"]
    lock.rmdir()
    for path in ("/v1/forecast", "/api/forecast"):
        again = eager.post(path, request(model="seasonal-naive"))
        assert (again.status_code, again.json()["error"]) == (503, last["error"]), again.text
        assert 0 < int(again.headers["retry-after"]) <= 60
    assert builds(eager) == []
    python.with_name("away").rename(python)
    assert eager.forecast(model="seasonal-naive").status_code == 200


def test_a_server_that_stops_leaves_no_build(eager: Server) -> None:
    """Last in this module: it stops the server."""
    runtimes = eager.runtimes
    (runtimes / "baseline").rename(runtimes / "elsewhere")
    wait_for(lambda: "not installed" in eager.get("/health/ready").json()["checks"]["families"]["baseline"])
    with open(runtimes / "baseline.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        asked = eager.forecast(model="seasonal-naive", timeout=1)
        assert asked.status_code == 504
        assert builds(eager), "the build goes on, here for the lock"
        assert eager.stop() == 0
        assert builds(eager) == []
    assert not (runtimes / "baseline").exists()
