"""Memory on the real graph: what does not fit is told with numbers, what is idle gives way, what runs out is alone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.memory import host
from tests.graph.conftest import STRANGERS, install_stranger, restarts
from tests.hub import LoopbackHub
from tests.serving import Server, series, wait_for

GREEDY = "ServeReplica:tollama:greedy"
LIMIT_MB = 5.0
WEIGHTS_MB = 24
HEAVY_MB = 64


@pytest.fixture(scope="module")
def greedy(wheel_tollama: Path, tmp_path_factory: pytest.TempPathFactory, hub: LoopbackHub) -> Iterator[Server]:
    """A server with the family ``greedy`` that may use 5 MB of memory, which are used already."""
    source = tmp_path_factory.mktemp("greedy") / "source"
    shutil.copytree(STRANGERS / "greedy", source)
    install_stranger(wheel_tollama, source)
    whole = host(1.0)
    assert whole is not None
    with Server(
        tmp_path_factory.mktemp("greedy-home"),
        [str(wheel_tollama), "serve", "--no-dashboard"],
        TOLLAMA_MAX_MEMORY_FRACTION=f"{LIMIT_MB / whole.limit:.9f}",
        TOLLAMA_HF_ENDPOINT=hub.url,
        TOLLAMA_FAMILY_LINGER="30",
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def empty(greedy: Server) -> None:
    """The family's process is there when a test starts, and holds no model."""
    warm = {"model": "greedy-light", "keep_alive": "1m"}
    wait_for(lambda: greedy.forecast(**warm).json().get("timing", {}).get("model_load_ms") == 0, 60, "a warm model")
    for model in held(greedy):
        greedy.forecast(model=model, keep_alive=0)
    wait_for(lambda: not held(greedy), 30, "the unloading of what the last test left")


def held(server: Server) -> dict[str, Any]:
    return {model["name"]: model for model in server.ps() if model["family"] == "greedy"}


def panel(*names: str) -> list[dict[str, Any]]:
    return [series(name) for name in names]


def refused(answer: httpx.Response, status: int, code: str) -> Any:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    return answer.json()


def test_idle_models_give_way_by_what_they_hold_and_what_can_never_fit_is_503_with_the_numbers(greedy: Server) -> None:
    for model in ("greedy-light", "greedy-heavy-a"):
        assert greedy.forecast(model=model, keep_alive=-1).status_code == 200
    assert 60e6 < held(greedy)["greedy-heavy-a"]["size"] < 200e6
    assert held(greedy)["greedy-heavy-a"]["size_vram"] == 0
    assert greedy.forecast(model="greedy-heavy-b", keep_alive=-1).status_code == 200
    assert set(held(greedy)) == {"greedy-light", "greedy-heavy-b"}
    known = refused(greedy.forecast(model="greedy-heavy-a"), 503, "RUNNER_UNAVAILABLE")
    assert 60 < known["detail"]["needed_mb"] < 200, "measured when it was loaded"
    assert known["detail"]["limit_mb"] == pytest.approx(LIMIT_MB, rel=0.01)
    assert "greedy-heavy-a" in known["error"]
    assert "TOLLAMA_MAX_MEMORY_FRACTION" in known["hint"]
    assert set(held(greedy)) == {"greedy-light", "greedy-heavy-b"}
    assert greedy.forecast(model="greedy-light").json()["timing"]["model_load_ms"] == 0


def test_weights_that_do_not_fit_are_not_loaded(greedy: Server, hub: LoopbackHub) -> None:
    size = WEIGHTS_MB * 1_000_000
    header = json.dumps({"w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    hub.add("greedy/stored", {"model.safetensors": len(header).to_bytes(8, "little") + header + bytes(size)})
    pulled = greedy.post("/v1/models/pull", {"name": "greedy-stored"})
    assert pulled.status_code == 200, pulled.text
    assert greedy.forecast(model="greedy-light", keep_alive=-1).status_code == 200
    told = refused(greedy.forecast(model="greedy-stored"), 503, "RUNNER_UNAVAILABLE")
    assert told["detail"]["needed_mb"] == WEIGHTS_MB
    assert f"needs about {WEIGHTS_MB} MB" in told["error"]
    assert set(held(greedy)) == {"greedy-light"}


def test_a_load_that_runs_out_of_memory_has_the_idle_ones_go(greedy: Server) -> None:
    assert greedy.forecast(model="greedy-light", keep_alive=-1).status_code == 200
    assert greedy.forecast(model="greedy-shy", keep_alive=-1).status_code == 200
    assert set(held(greedy)) == {"greedy-shy"}
    told = refused(greedy.forecast(model="greedy-vast"), 502, "RUNNER_FAILED")
    assert "out of memory while it was loaded" in told["error"]
    assert "MB of memory that may be used are free" in told["error"]
    assert told["hint"]
    assert greedy.forecast(model="greedy-shy").status_code == 200


def test_a_series_that_runs_out_of_memory_fails_alone_and_the_replica_stays(greedy: Server) -> None:
    greedy.forecast(model="greedy-narrow", keep_alive=-1)
    (before,) = greedy.processes(GREEDY)
    asked: dict[str, Any] = {"model": "greedy-light", "series": panel("a", "huge", "b"), "keep_alive": -1}
    part = greedy.forecast(**asked, response_options={"partial": True})
    assert part.status_code == 200, part.text
    assert ["error" in one for one in part.json()["forecasts"]] == [False, True, False]
    assert "out of memory" in part.json()["forecasts"][1]["error"]["error"]
    wait_for(lambda: set(held(greedy)) == {"greedy-narrow"}, 10, "the end of the model that ran out of memory")
    whole = refused(greedy.forecast(**asked), 502, "RUNNER_FAILED")
    assert [one["id"] for one in whole["detail"]] == ["huge"]
    assert "context_length" in whole["hint"]
    again = greedy.forecast(model="greedy-light")
    assert again.status_code == 200
    assert greedy.processes(GREEDY) == [before]


def test_more_series_than_the_memory_takes_at_once_are_computed_in_smaller_parts(greedy: Server) -> None:
    answer = greedy.forecast(model="greedy-narrow", series=panel(*(f"s{i}" for i in range(20))))
    assert answer.status_code == 200, answer.text
    assert [one["mean"] for one in answer.json()["forecasts"]] == [[33.0, 33.0, 33.0]] * 20
    assert answer.json()["usage"]["batch_series"] <= 3
    assert "greedy-narrow" in held(greedy), "in the end it all went well"


def test_one_odd_series_of_a_panel_fails_alone(greedy: Server) -> None:
    asked: dict[str, Any] = {"model": "greedy-light", "series": panel(*"abcde", "odd", *"fgh")}
    whole = refused(greedy.forecast(**asked), 502, "RUNNER_FAILED")
    assert [one["id"] for one in whole["detail"]] == ["odd"]
    assert "this series" not in json.dumps(whole), "what the model said is for the log"
    part = greedy.forecast(**asked, response_options={"partial": True}).json()
    assert [one["id"] for one in part["forecasts"] if "error" in one] == ["odd"]
    assert len(part["forecasts"]) == 9


def test_when_all_that_could_make_room_is_in_use_the_deadline_comes_with_the_reason(greedy: Server) -> None:
    busy = ("greedy-light", "greedy-light-b", "greedy-light-c")
    with ThreadPoolExecutor(3) as pool:
        slow = [pool.submit(greedy.forecast, model=name, series=panel("slow")) for name in busy]
        wait_for(lambda: all(held(greedy).get(name, {}).get("in_use") for name in busy))
        told = refused(greedy.forecast(model="greedy-narrow", timeout=1.5), 504, "DEADLINE_EXCEEDED")
        assert "3 models are loaded" in told["error"]
        assert "in use" in told["error"]
        assert [future.result(60).status_code for future in slow] == [200] * 3
    assert greedy.forecast(model="greedy-narrow").status_code == 200


def test_a_replica_whose_gpu_went_bad_is_replaced(greedy: Server) -> None:
    assert greedy.forecast(model="greedy-light", keep_alive=-1).status_code == 200
    (before,) = greedy.processes(GREEDY)
    ended = restarts(greedy, "greedy", "cuda")
    told = refused(greedy.forecast(model="greedy-light", series=panel("assert")), 502, "RUNNER_FAILED")
    assert "GPU" in told["error"]
    wait_for(lambda: before not in greedy.processes(GREEDY), 60, "the end of the process with the bad GPU")
    wait_for(lambda: greedy.forecast(model="greedy-light").status_code == 200, 60, "the new process")
    wait_for(lambda: restarts(greedy, "greedy", "cuda") == ended + 1, 10, "the count of its end")


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_the_memory_of_a_model_returns_to_the_system_while_its_process_lives(greedy: Server) -> None:
    (pid,) = greedy.processes(GREEDY)
    before = rss_mb(pid)
    assert greedy.forecast(model="greedy-heavy-a", keep_alive="1m").status_code == 200
    loaded = rss_mb(pid)
    assert loaded > before + 0.8 * HEAVY_MB
    assert greedy.forecast(model="greedy-heavy-a", keep_alive=1).status_code == 200
    wait_for(lambda: "greedy-heavy-a" not in held(greedy), 10, "its expiry")
    wait_for(lambda: rss_mb(pid) < loaded - 0.8 * HEAVY_MB, 10, "the return of its memory")
    assert greedy.processes(GREEDY) == [pid]
    assert greedy.forecast(model="greedy-light").status_code == 200
