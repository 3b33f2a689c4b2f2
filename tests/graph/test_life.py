"""The real graph: from zero and back, keep_alive per model, what the ingress holds, what Serve and Ray show."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from tests.serving import CHECKOUT, Server, request, series, wait_for

ML_LIBRARIES = ("torch", "transformers", "chronos", "statsforecast", "numba", "sklearn", "scipy")


def state(server: Server, family: str) -> str:
    return str(server.get("/health/ready").json()["checks"]["families"][family])


def names(server: Server) -> set[str]:
    return {model["name"] for model in server.ps()}


def test_a_family_starts_with_its_first_request_and_goes_when_idle(server: Server) -> None:
    answer = server.forecast(keep_alive=0)
    assert answer.status_code == 200
    wait_for(lambda: state(server, "mock") == "idle", 20, "the family's end")
    wait_for(lambda: not server.processes("ServeReplica:tollama:mock"), 10, "the end of its process")
    again = server.forecast(keep_alive="1m")
    assert again.json()["forecasts"] == answer.json()["forecasts"]
    assert again.json()["timing"]["model_load_ms"] > 0
    assert len(server.processes("ServeReplica:tollama:mock")) == 1
    time_of_second = server.forecast(keep_alive="1m").json()["timing"]
    assert time_of_second["model_load_ms"] == 0


def test_keep_alive_belongs_to_the_model_and_acts_by_itself(server: Server) -> None:
    for model, keep_alive in (("seasonal-naive", "1m"), ("auto-ets", 0.5)):
        assert server.forecast(model=model, keep_alive=keep_alive).status_code == 200
    assert "seasonal-naive" in names(server)
    wait_for(lambda: "auto-ets" not in names(server), 2.5, "the expiry of auto-ets")
    assert "seasonal-naive" in names(server)
    server.forecast(model="seasonal-naive", keep_alive=0)
    assert "seasonal-naive" not in names(server)


def row(server: Server, name: str) -> Mapping[str, Any] | None:
    """What ``/api/ps`` says of a model; None if it is not in memory."""
    return next((model for model in server.ps() if model["name"] == name), None)


def test_ps_tells_the_truth_from_the_load_to_the_end(server: Server) -> None:
    for name in ("seasonal-naive", "auto-theta", "auto-ets"):
        server.post(f"/v1/models/{name}/unload", {})
    wait_for(lambda: not server.processes("ServeReplica:tollama:baseline"), 60, "the end of the family's process")
    assert row(server, "auto-theta") is None
    answers: list[httpx.Response] = []
    path = "/v1/models/auto-theta/load"
    loading = threading.Thread(target=lambda: answers.append(server.post(path, {"keep_alive": "10m"})))
    loading.start()
    seen: list[str | None] = []
    while not answers:
        held = row(server, "auto-theta")
        state_then = None if held is None else str(held["state"])
        if not seen or seen[-1] != state_then:
            seen.append(state_then)
    loading.join()
    assert answers[0].json()["done_reason"] == "load"
    assert seen in ([None, "loading"], [None, "loading", "loaded"]), "its process starts, it is loaded, it is there"
    answer = server.forecast(model="auto-theta", keep_alive="10m").json()
    assert answer["timing"]["model_load_ms"] == 0
    held = row(server, "auto-theta")
    assert held is not None
    assert (held["state"], held["in_use"], held["family"]) == ("loaded", 0, "baseline")
    (pid,) = server.processes("ServeReplica:tollama:baseline")
    assert held["replica"] == f"baseline-{pid}"
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: row(server, "auto-theta") is None, 10, "the end of what the process held")
    server.post("/v1/models/auto-theta/load", {"keep_alive": 0.5})
    wait_for(lambda: row(server, "auto-theta") is None, 5, "the expiry of auto-theta")
    # Who only looks does not keep the process.
    wait_for(
        lambda: row(server, "auto-theta") is None and not server.processes("ServeReplica:tollama:baseline"),
        60,
        "the end of the family's process",
    )
    assert state(server, "baseline") == "idle"
    assert not [model for model in server.ps() if model["family"] == "baseline"]


def test_forever_is_told_as_the_year_9999(server: Server) -> None:
    server.forecast(keep_alive=-1)
    (mock,) = [model for model in server.ps() if model["name"] == "mock"]
    assert mock["expires_at"].startswith("9999-")
    assert re.fullmatch(r"[0-9a-f]{64}", mock["digest"])
    server.forecast(keep_alive=0)


def test_a_killed_replica_fails_its_own_request_only_and_is_replaced(server: Server) -> None:
    assert server.forecast(keep_alive="1m").status_code == 200
    (pid,) = server.processes("ServeReplica:tollama:mock")
    answers: list[httpx.Response] = []
    slow = threading.Thread(target=lambda: answers.append(server.forecast(options={"delay_s": 30.0})))
    slow.start()
    wait_for(lambda: any(model["in_use"] for model in server.ps() if model["name"] == "mock"), 10)
    os.kill(pid, signal.SIGKILL)
    slow.join(60)
    assert answers[0].status_code == 502
    assert answers[0].json()["code"] == "RUNNER_FAILED"
    assert server.forecast().status_code == 200


def test_the_ingress_loads_no_ml_library(server: Server) -> None:
    assert server.forecast(model="seasonal-naive").status_code == 200
    (pid,) = server.processes("ServeReplica:tollama:ingress")
    mapped = Path(f"/proc/{pid}/maps").read_text()
    assert "pydantic_core" in mapped, "the proof looks at the files that the process has loaded"
    assert [name for name in ML_LIBRARIES if f"/{name}/" in mapped] == []
    code = (
        "import sys, deployments.app; "
        f"found = [name for name in {ML_LIBRARIES!r} if name in sys.modules]; "
        "adapters = [name for name in sys.modules if name.startswith('deployments.adapters')]; "
        "sys.exit(str(found + adapters) if found + adapters else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CHECKOUT)
    assert done.returncode == 0, done.stderr


def test_both_ways_in_give_the_same_answer(server: Server) -> None:
    door, proxy = (server.forecast(base).json() for base in (server.door, server.proxy))
    assert door["forecasts"] == proxy["forecasts"]


def test_health_answers_while_forecasts_run(server: Server) -> None:
    body = request(options={"delay_s": 1.5}, series=[series("a")])
    threads = [threading.Thread(target=server.post, args=("/v1/forecast", body)) for _ in range(10)]
    for thread in threads:
        thread.start()
    asked = 0
    with httpx.Client(base_url=server.door) as client:
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            assert client.get("/v1/health", timeout=5).json() == {"status": "ok"}
            asked += 1
    for thread in threads:
        thread.join(60)
    assert asked > 20, "health waited for forecasts"
