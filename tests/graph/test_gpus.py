"""Families that share GPUs. Ray is told of one GPU that is not there; the mock model computes without it."""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.graph.conftest import STRANGERS, install_stranger
from tests.serving import CHECKOUT, Server, series, wait_for

A, B, C = "share-a", "share-b", "share-c"
SETTLE_S = 3.0


@pytest.fixture(scope="module")
def sharing(wheel_tollama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one logical GPU and three families that each want half of it."""
    source = tmp_path_factory.mktemp("sharing") / "source"
    shutil.copytree(STRANGERS / "sharing", source)
    install_stranger(wheel_tollama, source)
    home = tmp_path_factory.mktemp("sharing-home")
    graph = yaml.safe_load((CHECKOUT / "serve_config.yaml").read_text())
    application = graph["applications"][0]
    application["autoscaling_policy"]["policy_kwargs"]["settle"] = SETTLE_S
    application["args"]["ingress"] = {"replicas": 2}
    application["args"]["families"] |= {
        A: {"max_replicas": 2},
        "share-none": {"device": "cuda"},
        "share-wide": {"max_replicas": 2},
    }
    config = home / "config.yaml"
    config.write_text(yaml.safe_dump(graph))
    with Server(
        home,
        [str(wheel_tollama), "serve", "--no-dashboard", "--config", str(config)],
        RAY_OVERRIDE_RESOURCES=json.dumps({"GPU": 1}),
    ) as running:
        yield running


def held(server: Server) -> set[str]:
    return {str(model["name"]) for model in server.ps()}


def running(server: Server, family: str) -> int:
    return len(server.processes(f"ServeReplica:tollama:{family}"))


def keep(server: Server, *models: str) -> None:
    """Each of the models is used, in this order, and is then to stay for ever."""
    for model in models:
        answer = server.forecast(model=model, keep_alive=-1)
        assert answer.status_code == 200, answer.text


def drop(server: Server) -> None:
    """No model is held and no family with a share runs."""
    for model in held(server):
        assert server.post("/api/generate", {"model": model, "keep_alive": 0}).status_code == 200
    wait_for(lambda: not any(running(server, family) for family in (A, B, C)), 60, "the end of the families")


@pytest.fixture
def empty(sharing: Server) -> Server:
    drop(sharing)
    return sharing


def test_an_empty_family_with_a_share_goes_at_once_and_one_without_lingers(empty: Server) -> None:
    for model in ("mock", "a-1"):
        assert empty.forecast(model=model, keep_alive=0).status_code == 200
    wait_for(lambda: not running(empty, A), 30, "the family's end")
    assert running(empty, "mock") == 1


def test_two_families_share_one_gpu(empty: Server) -> None:
    keep(empty, "a-1", "b-1", "a-1", "b-1")
    assert held(empty) >= {"a-1", "b-1"}
    assert (running(empty, A), running(empty, B)) == (1, 1)


def test_an_idle_family_gives_way_to_a_third_whatever_it_holds(empty: Server) -> None:
    keep(empty, "a-1", "b-1")
    # Serve counts a request for a second after its end; use is told apart no finer.
    assert empty.forecast(model="a-1", keep_alive=-1, options={"delay_s": 2.0}).status_code == 200
    keep(empty, "c-1")
    assert {"a-1", "c-1"} <= held(empty), "b-1 was used least recently"
    assert "b-1" not in held(empty)
    keep(empty, "b-1")
    assert {"b-1", "c-1"} <= held(empty)
    wait_for(lambda: not running(empty, A), 30, "the end of its process")


@pytest.mark.parametrize("path", ["/v1/forecast", "/api/forecast"])
def test_a_third_that_finds_both_busy_is_told_so_at_its_deadline(empty: Server, path: str) -> None:
    keep(empty, "a-1", "b-1")
    with ThreadPoolExecutor(2) as pool:
        busy = [pool.submit(empty.forecast, model=name, options={"delay_s": 20.0}) for name in ("a-1", "b-1")]
        wait_for(lambda: sum(model["in_use"] for model in empty.ps()) == 2)
        asked = time.monotonic()
        body = {"model": "c-1", "horizon": 3, "series": [series()], "timeout": 4}
        told = json.loads(empty.post(path, body).text.splitlines()[-1])
        assert 4 <= time.monotonic() - asked < 10
        assert told["code"] == "DEADLINE_EXCEEDED", told
        assert "it waited for its share of a GPU (0.5 of 1); in use: share-a, share-b" in told["error"]
        waits = pool.submit(empty.forecast, model="c-1")
        assert [future.result(60).status_code for future in busy] == [200, 200], "a busy family is waited for"
        assert waits.result(60).status_code == 200


@pytest.mark.parametrize(
    ("model", "family", "numbers"),
    [
        ("huge-1", "share-huge", "needs 8 GPUs, and the cluster has 1"),
        ("none-1", "share-none", "its num_gpus is 0, and the cluster has 1 GPUs"),
    ],
)
def test_what_can_never_fit_is_503_at_once(sharing: Server, model: str, family: str, numbers: str) -> None:
    answer = sharing.forecast(model=model)
    assert (answer.status_code, answer.json()["code"]) == (503, "RUNNER_UNAVAILABLE")
    assert numbers in answer.json()["error"]
    assert "serve_config.yaml" in answer.json()["hint"]
    assert answer.elapsed.total_seconds() < 2
    told = sharing.get("/health/ready").json()["checks"]["families"][family]
    assert told.startswith("unavailable: ")
    assert numbers in told


def thrash(server: Server, clients: int, requests: int, choose: Any) -> Counter[str]:
    """Clients that each ask one request after the other; how often each outcome was met. ``choose(client, number,
    random)`` gives the model and the seconds that it takes."""

    def client(number: int) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        chance = random.Random(number)
        with httpx.Client(base_url=server.door, timeout=200, trust_env=False) as http:
            for i in range(requests):
                model, delay = choose(number, i, chance)
                answer = http.post("/v1/forecast", json=body(model, delay, f"{number}-{i}", chance.randint(1, 9)))
                outcomes["ok" if answer.status_code == 200 else answer.text] += 1
        return outcomes

    with ThreadPoolExecutor(clients) as pool:
        return sum((future.result(280) for future in [pool.submit(client, i) for i in range(clients)]), Counter())


def body(model: str, delay: float, name: str, horizon: int) -> Mapping[str, Any]:
    options = {"delay_s": delay}
    return {"model": model, "horizon": horizon, "series": [series(name)], "options": options, "keep_alive": -1}


def test_four_clients_who_want_three_halves_of_one_gpu_are_all_served(empty: Server) -> None:
    outcomes = thrash(empty, 4, 16, lambda client, i, chance: (chance.choice(["a-1", "b-1", "c-1"]), 0.0))
    assert outcomes == {"ok": 64}


def test_families_that_are_asked_without_a_pause_give_way_in_the_end(empty: Server) -> None:
    """Two clients keep two families busy for as long as the third has no answer."""
    keep(empty, "a-1", "b-1")
    over = threading.Event()

    def load(model: str) -> Counter[int]:
        seen: Counter[int] = Counter()
        with httpx.Client(base_url=empty.door, timeout=200, trust_env=False) as http:
            while not over.is_set():
                answer = http.post("/v1/forecast", json=body(model, 0.3, "x", 3))
                seen[answer.status_code] += 1
        return seen

    with ThreadPoolExecutor(4) as pool:
        busy = [pool.submit(load, model) for model in ("a-1", "a-2", "b-1", "b-1")]
        try:
            answers = [empty.forecast(model="c-1", timeout=100) for _ in range(2)]
        finally:
            over.set()
        assert [answer.status_code for answer in answers] == [200, 200]
        for future in busy:
            assert set(future.result(150)) == {200}


def replicas_by_load(server: Server, model: str, family: str, most: int) -> None:
    """``model`` under load gets ``most`` replicas, and one of them afterwards, while it is held and used."""
    keep(server, model)
    with ThreadPoolExecutor(12) as pool:
        over = threading.Event()

        def load(horizon: int) -> set[int]:
            seen = set()
            while not over.is_set():
                seen.add(server.forecast(model=model, horizon=horizon, options={"delay_s": 0.3}).status_code)
            return seen

        asked: list[Future[set[int]]] = [pool.submit(load, 1 + i) for i in range(12)]
        try:
            wait_for(lambda: running(server, family) == most, 60, "more replicas")
        finally:
            over.set()
        assert {code for future in asked for code in future.result(100)} == {200}
        long = [pool.submit(server.forecast, model=model, horizon=1 + i, options={"delay_s": 8.0}) for i in range(2)]
        assert [future.result(60).status_code for future in long] == [200, 200], "a replica that goes finishes first"
    wait_for(lambda: running(server, family) == 1, 60, "fewer replicas")
    assert model in held(server)


def test_replicas_by_load_and_back(sharing: Server) -> None:
    replicas_by_load(sharing, "wide-1", "share-wide", 2)


def test_replicas_on_what_is_left_of_the_gpu(empty: Server) -> None:
    replicas_by_load(empty, "a-1", A, 2)
    keep(empty, "b-1")
    assert {"a-1", "b-1"} <= held(empty)
