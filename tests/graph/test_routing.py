"""Which replica gets a call: the holder of the model, one that is about to hold it, or the least busy.

First by itself with replicas that report what they are told to, then on a server with a family of two replicas.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml
from ray.serve._private.common import DeploymentHandleSource, DeploymentID, RequestMetadata
from ray.serve.request_router import PendingRequest, ReplicaID

from deployments import routing
from deployments.messages import HELD
from deployments.routing import EXPECTED_S, SPREAD, HolderRouter, order, router_config
from tests.contract.conftest import install
from tests.serving import CHECKOUT, TOLLAMA, Server, request, wait_for
from tollama.registry import find
from tollama.store import Home, Store

FAMILY = DeploymentID(name="family", app_name="tollama")
MODELS = ("one", "two", "three", "four")
MOCK = "ServeReplica:tollama:mock"


def ordered(holders: str = "", **busy: int) -> str:
    """The order of the replicas a, b and c, as one word; ``busy`` tells their calls under way."""
    return "".join(order("abc", lambda one: one in holders, lambda one: busy.get(one, 0)))


def test_a_holder_comes_first() -> None:
    assert ordered("b") == "bac"
    assert ordered("b", b=SPREAD) == "bac"


def test_of_two_holders_the_less_busy_one_and_of_equals_the_oldest() -> None:
    assert ordered("bc", b=2, c=1) == "cba"
    assert ordered("bc", b=1, c=1) == "bca"


def test_a_holder_that_is_much_busier_than_another_is_helped_by_the_least_busy() -> None:
    assert ordered("b", a=1, b=SPREAD + 1) == "cba"
    assert ordered("b", a=1, b=SPREAD + 1, c=1) == "bac"
    assert ordered("ab", a=9, b=8) == "cba"
    assert ordered("abc", a=9, b=8, c=9) == "bac"


def test_without_a_holder_the_least_busy() -> None:
    assert ordered(a=1, b=2) == "cab"
    assert ordered() == "abc"


class World:
    """A router of its own with replicas that report what they are told to, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(routing.time, "monotonic", lambda: self.now)
        self.router = HolderRouter(deployment_id=FAMILY, handle_source=DeploymentHandleSource.REPLICA)
        self.replicas: dict[str, Any] = {}
        self.report(a=(), b=())

    def report(self, **held: Iterable[str]) -> None:
        """These replicas run and hold these models."""
        self.replicas = {
            name: SimpleNamespace(replica_id=ReplicaID(name, FAMILY), routing_stats={HELD: [*models]})
            for name, models in held.items()
        }
        self.router._replicas = {one.replica_id: one for one in self.replicas.values()}

    def choose(self, model: str) -> str:
        """The first choice for a call, which is then under way."""

        async def chosen() -> ReplicaID:
            metadata = RequestMetadata(request_id="r", internal_request_id="i", session_id=model)
            groups = await self.router.choose_replicas(
                [*self.replicas.values()], PendingRequest(args=[], kwargs={}, metadata=metadata)
            )
            assert all(len(group) == 1 for group in groups)
            return groups[0][0].replica_id

        replica = asyncio.run(chosen())
        self.router.on_send_request(replica)
        return str(replica.unique_id)

    def end(self, name: str) -> None:
        """A call is over."""
        self.router.on_request_completed(ReplicaID(name, FAMILY), "i")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_a_report_decides(world: World) -> None:
    world.report(a=["m"], b=["n"])
    for _ in range(20):
        for model, holder in (("m", "a"), ("n", "b")):
            assert world.choose(model) == holder
            world.end(holder)


def test_between_reports_the_first_choice_stands(world: World) -> None:
    assert world.choose("x") == "a"
    assert world.choose("m") == "b", "a is busy"
    world.end("a")
    world.end("b")
    for _ in range(20):
        assert world.choose("m") == "b"
        world.end("b")


def test_what_is_not_reported_in_time_is_not_held(world: World) -> None:
    assert world.choose("x") == "a"
    assert world.choose("m") == "b"
    world.end("a")
    world.end("b")
    world.now += EXPECTED_S - 0.1
    assert world.choose("m") == "b"
    world.end("b")
    world.now += 0.2
    assert world.choose("m") == "a"


def test_a_burst_goes_to_the_holder_until_it_is_much_busier(world: World) -> None:
    world.report(a=["m"], b=[])
    chosen = [world.choose("m") for _ in range(SPREAD + 3)]
    assert chosen == ["a"] * (SPREAD + 1) + ["b", "b"], "then both hold it, and the less busy one is asked"
    for name in chosen:
        world.end(name)
    world.report(a=["m"], b=[])
    world.now += EXPECTED_S + 0.1
    assert [world.choose("m") for _ in range(SPREAD)] == ["a"] * SPREAD, "nothing is left of the burst"


def test_nothing_is_remembered_of_a_replica_that_went(world: World) -> None:
    assert world.choose("m") == "a"
    world.end("a")
    world.report(c=(), d=())
    assert world.choose("m") == "c"
    world.end("c")
    assert set(world.router._expected) == {"c"}
    assert not world.router._under_way


def test_one_replica_has_serves_own_router() -> None:
    assert router_config(1).is_default_request_router()
    ours = router_config(2)
    assert not ours.is_default_request_router()
    assert ours.get_request_router_class().__name__ == HolderRouter.__name__


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose family ``mock`` may have two replicas; four models of it are installed."""
    home = tmp_path_factory.mktemp("twofold")
    config = yaml.safe_load((CHECKOUT / "serve_config.yaml").read_text())
    config["applications"][0]["args"]["families"]["mock"] = {"max_replicas": 2}
    (home / "two.yaml").write_text(yaml.safe_dump(config))
    for name in MODELS:
        install(Store(Home(home)), name, find("mock").capabilities)
    with Server(home, [str(TOLLAMA), "serve", "--no-dashboard", "--config", str(home / "two.yaml")]) as running:
        yield running


@pytest.fixture
def twofold(running: Server) -> Server:
    """The same with both replicas there: requests to ``mock`` have just been too many for one."""
    with load(running, "mock"):
        wait_for(lambda: len(replicas(running, "mock")) == 2, 120, "the help of a second replica")
    return running


class load:
    """Requests to a model while the block runs, more at a time than one replica is to have.

    Each asks for another horizon, for requests that are alike would travel together and count as one.
    """

    def __init__(self, server: Server, model: str) -> None:
        self.answers: list[httpx.Response] = []
        self._over = threading.Event()

        def client(horizon: int) -> None:
            while not self._over.is_set():
                body = {"model": model, "horizon": horizon, "options": {"delay_s": 0.2}, "keep_alive": "10m"}
                self.answers.append(server.forecast(**body))

        self._threads = [threading.Thread(target=client, args=(horizon,)) for horizon in range(1, 4 * SPREAD)]

    def __enter__(self) -> load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(90)
        assert {answer.status_code for answer in self.answers} == {200}


def replicas(server: Server, model: str) -> set[str]:
    """The replicas that hold a model."""
    return {str(one["replica"]) for one in server.ps() if one["name"] == model}


def stop(server: Server, *models: str) -> None:
    for model in models:
        assert server.post(f"/v1/models/{model}/unload", {}).status_code == 200
        wait_for(lambda model=model: not replicas(server, model), 10, f"the end of {model}")


@contextmanager
def busy(server: Server, model: str) -> Iterator[None]:
    """A forecast of a model is under way."""
    options = {"delay_s": 3.0}
    slow = threading.Thread(target=lambda: server.forecast(model=model, options=options, keep_alive="10m"))
    slow.start()
    wait_for(lambda: any(one["in_use"] for one in server.ps() if one["name"] == model), 20, "the slow forecast")
    yield
    slow.join(60)


def spread(server: Server) -> dict[str, set[str]]:
    """Load two models, and another two while one of those is in use; who holds them."""
    stop(server, "mock", *MODELS)
    for model in MODELS[:2]:
        assert server.post(f"/v1/models/{model}/load", {"keep_alive": "10m"}).status_code == 200
    with busy(server, MODELS[0]):
        for model in MODELS[2:]:
            assert server.post(f"/v1/models/{model}/load", {"keep_alive": "10m"}).status_code == 200
    return {model: replicas(server, model) for model in MODELS}


def test_one_replica_is_enough_for_one_request_after_the_other(running: Server) -> None:
    for _ in range(20):
        assert running.forecast().status_code == 200
    assert len(running.processes(MOCK)) == 1


def test_models_are_loaded_once_and_asked_where_they_are(twofold: Server) -> None:
    held = spread(twofold)
    assert [len(holders) for holders in held.values()] == [1] * 4
    assert held["one"] == held["two"]
    assert held["three"] == held["four"] != held["one"], "the other replica was not busy"
    answers = [twofold.forecast(model=model, keep_alive="10m").json() for _ in range(15) for model in MODELS]
    assert {answer["timing"]["model_load_ms"] for answer in answers} == {0.0}
    assert {model: replicas(twofold, model) for model in MODELS} == held


def test_a_streamed_forecast_goes_to_the_holder_too(twofold: Server) -> None:
    held = spread(twofold)
    for model in MODELS * 5:
        answer = twofold.post("/api/forecast", request(model=model, keep_alive="10m"))
        assert '"loading model"' not in answer.text
        assert '"done":true' in answer.text
    assert {model: replicas(twofold, model) for model in MODELS} == held


def test_what_is_unloaded_is_unloaded_everywhere(twofold: Server) -> None:
    assert len(replicas(twofold, "mock")) == 2
    stop(twofold, "mock")
    assert len(twofold.processes(MOCK)) == 2


def test_a_replica_that_dies_takes_only_its_own_models(twofold: Server) -> None:
    """Last in this module: it kills a replica."""
    held = spread(twofold)
    (dead,) = held["one"]
    left = {model: held[model] for model in ("three", "four")}
    os.kill(int(dead.rpartition("-")[2]), signal.SIGKILL)
    assert {model: replicas(twofold, model) for model in left} == left, "told at once, beside the dead one"
    wait_for(lambda: not replicas(twofold, "one"), 10, "the end of what the dead one held")
    assert {model: replicas(twofold, model) for model in left} == left
    assert [twofold.forecast(model=model).json()["timing"]["model_load_ms"] for model in left] == [0, 0]
    assert twofold.forecast(model="one").json()["timing"]["model_load_ms"] > 0
