"""Loading and unloading without a forecast, in Ollama's way and in ours, and what ``/api/ps`` tells meanwhile."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from tests.contract.checks import busy, lines, locs, refused, until
from tests.contract.conftest import install
from tests.serving import Server, request, wait_for
from tollama.registry import find
from tollama.store import Home, Store

GATED = "moirai-2.0-r-small"
KNOWN = "chronos-bolt-base"

Ask = Callable[..., httpx.Response]


def row(api: httpx.Client, name: str) -> dict[str, Any] | None:
    """What ``/api/ps`` says of a model; None if it is not in memory."""
    return next((model for model in api.get("/api/ps").json()["models"] if model["name"] == name), None)


def left(held: dict[str, Any] | None) -> float:
    """Seconds until the model goes."""
    assert held is not None
    return (datetime.fromisoformat(held["expires_at"]) - datetime.now(UTC)).total_seconds()


def told(answer: httpx.Response, name: str, reason: str) -> None:
    """The answer is the one of Ollama, for this model and reason."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json()
    assert datetime.fromisoformat(body.pop("created_at")).tzinfo is not None
    assert body == {"model": name, "response": "", "done": True, "done_reason": reason}


def test_generate_loads_and_unloads(api: httpx.Client) -> None:
    told(api.post("/api/generate", json={"model": "narrow", "keep_alive": "1h"}), "narrow", "load")
    held = row(api, "narrow")
    assert held is not None
    assert (held["state"], held["in_use"]) == ("loaded", 0)
    assert 3500 < left(held) <= 3600
    assert api.get("/v1/models/narrow").json()["state"] == "loaded"
    answer = api.post("/v1/forecast", json=request(model="narrow", quantiles=[0.5]))
    assert answer.json()["timing"]["model_load_ms"] == 0
    told(api.post("/api/generate", json={"model": "narrow", "keep_alive": 0}), "narrow", "unload")
    assert row(api, "narrow") is None
    assert api.get("/v1/models/narrow").json()["state"] == "installed"


@pytest.mark.parametrize("keep_alive", [0, 0.0, "0", "0s"])
def test_unloading_what_is_not_loaded_is_no_error(api: httpx.Client, keep_alive: float | str) -> None:
    for _ in range(2):
        told(api.post("/api/generate", json={"model": "narrow", "keep_alive": keep_alive}), "narrow", "unload")
    assert row(api, "narrow") is None


def test_load_and_unload_of_our_own(api: httpx.Client) -> None:
    told(api.post("/v1/models/narrow/load"), "narrow", "load")
    assert 250 < left(row(api, "narrow")) <= 300
    told(api.post("/v1/models/narrow/load", json={"keep_alive": "10m"}), "narrow", "load")
    assert 550 < left(row(api, "narrow")) <= 600
    told(api.post("/v1/models/NARROW/load", json={"keep_alive": -1, "timeout": 30}), "narrow", "load")
    held = row(api, "narrow")
    assert held is not None
    assert held["expires_at"].startswith("9999-")
    told(api.post("/v1/models/narrow/unload"), "narrow", "unload")
    assert row(api, "narrow") is None
    told(api.post("/v1/models/narrow/unload"), "narrow", "unload")


def test_the_longest_remaining_is_the_first(api: httpx.Client) -> None:
    def order() -> list[str]:
        return [model["name"] for model in api.get("/api/ps").json()["models"] if model["name"] in both]

    both = ("narrow", "pointed")
    for kept, order_ in (({"narrow": "10m", "pointed": "20m"}, ["pointed", "narrow"]),
                         ({"narrow": "30m", "pointed": "20m"}, ["narrow", "pointed"]),
                         ({"narrow": "30m", "pointed": -1}, ["pointed", "narrow"])):  # fmt: skip
        for name, keep_alive in kept.items():
            api.post(f"/v1/models/{name}/load", json={"keep_alive": keep_alive})
        assert order() == order_
        until = [model["expires_at"] for model in api.get("/v1/ps").json()["models"]]
        assert until == sorted(until, reverse=True)
    for name in both:
        api.post(f"/v1/models/{name}/unload")


def test_a_load_restarts_the_timer_and_its_end_is_told(api: httpx.Client) -> None:
    api.post("/v1/models/narrow/load", json={"keep_alive": 0.3})
    wait_for(lambda: row(api, "narrow") is None, 5, "the expiry of narrow")
    told(api.post("/v1/models/narrow/load", json={"keep_alive": 0}), "narrow", "load")
    assert row(api, "narrow") is None


def test_what_ollamas_clients_send(api: httpx.Client) -> None:
    its_command_line = {"model": "narrow", "prompt": "", "suffix": "", "system": "", "template": "", "options": None}
    told(api.post("/api/generate", json=its_command_line), "narrow", "load")
    told(api.post("/api/generate", json={**its_command_line, "stream": True}), "narrow", "load")
    told(api.post("/api/generate", json={"model": "narrow", "stream": False, "raw": False}), "narrow", "load")
    told(api.post("/api/generate", json={**its_command_line, "keep_alive": "0s"}), "narrow", "unload")


def test_a_prompt_is_refused_with_the_way_to_a_forecast(api: httpx.Client) -> None:
    for name in ("mock", "nope-nope"):
        answer = api.post("/api/generate", json={"model": name, "prompt": "Why is the sky blue?"})
        found = refused(answer, 400, "INVALID_REQUEST")
        assert "/v1/forecast" in found["hint"]
        assert "sky" not in answer.text


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({}, {("model",)}),
        ({"model": ""}, {("model",)}),
        ({"model": 5, "keep_alive": "soon"}, {("model",), ("keep_alive",)}),
        ({"model": "nope-nope", "stream": "yes"}, {("stream",)}),
        ({"model": "nope-nope", "prompt": 5}, {("prompt",)}),
    ],
)
def test_a_broken_generate(api: httpx.Client, body: dict[str, Any], where: set[tuple[str, ...]]) -> None:
    assert locs(refused(api.post("/api/generate", json=body), 400, "INVALID_REQUEST")) == where


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"{", {()}),
        (b"[]", {()}),
        (b'{"keep_alive": "soon"}', {("keep_alive",)}),
        (b'{"timeout": 0}', {("timeout",)}),
        (b'{"timeout": "5"}', {("timeout",)}),
        (b'{"model": "mock"}', {("model",)}),
    ],
)
def test_a_broken_load(api: httpx.Client, content: bytes, where: set[tuple[str, ...]]) -> None:
    found = refused(api.post("/v1/models/nope-nope/load", content=content), 400, "INVALID_REQUEST")
    assert locs(found) == where


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("nope-nope", 404, "MODEL_NOT_FOUND"),
        (GATED, 409, "LICENSE_NOT_ACCEPTED"),
        (KNOWN, 404, "MODEL_NOT_INSTALLED"),
        ("ghost", 503, "RUNNER_UNAVAILABLE"),
    ],
)
def test_the_checks_are_those_of_a_forecast(api: httpx.Client, name: str, status: int, code: str) -> None:
    for answer in (
        api.post("/api/generate", json={"model": name}),
        api.post(f"/v1/models/{name}/load"),
    ):
        assert refused(answer, status, code)["hint"]
    if status != 503:
        refused(api.post("/api/generate", json={"model": name, "keep_alive": 0}), status, code)
        refused(api.post(f"/v1/models/{name}/unload"), status, code)


def test_a_load_has_a_deadline(api: httpx.Client) -> None:
    answer = api.post("/v1/models/narrow/load", json={"timeout": 1e-6})
    refused(answer, 504, "DEADLINE_EXCEEDED")
    api.post("/v1/models/narrow/unload")


def test_a_model_in_use_goes_as_soon_as_it_is_free(api: httpx.Client) -> None:
    api.post("/v1/models/mock/load", json={"keep_alive": "1h"})
    with busy(api, 2.5):
        held = row(api, "mock")
        assert held is not None
        assert held["in_use"] == 1
        assert 250 < left(held) <= 300, "the one who uses it decides: the server's default"
        told(api.post("/v1/models/mock/unload"), "mock", "unload")
        held = row(api, "mock")
        assert held is not None, "it is in use"
        assert left(held) <= 0
    wait_for(lambda: row(api, "mock") is None, 5, "the end of mock")


def test_many_loads_at_once_load_it_once(api: httpx.Client) -> None:
    api.post("/v1/models/narrow/unload")
    answers: list[httpx.Response] = []

    def load() -> None:
        answers.append(httpx.post(f"{api.base_url}/v1/models/narrow/load", json={"keep_alive": "1m"}, timeout=60))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [answer.status_code for answer in answers] == [200] * 8
    assert [model["name"] for model in api.get("/api/ps").json()["models"]].count("narrow") == 1
    told(api.post("/v1/models/narrow/unload"), "narrow", "unload")


@pytest.fixture
def passing(server: Server) -> Iterator[str]:
    """A model that is not of the registry, and takes as long as it is asked to."""
    store = Store(Home(server.home))
    install(store, "passing", find("mock").capabilities)
    yield "passing"
    shutil.rmtree(server.home / "models/passing", ignore_errors=True)


@pytest.mark.parametrize("keep_alive", [-1, "5m"])
def test_a_model_that_is_deleted_while_it_is_used(api: httpx.Client, passing: str, keep_alive: float | str) -> None:
    body = request(model=passing, options={"delay_s": 1.5}, keep_alive=keep_alive)
    with api.stream("POST", "/api/forecast", json=body) as answer:
        stream = lines(answer)
        until(stream, "running forecast")
        assert api.delete(f"/v1/models/{passing}").json() == {"removed": True, "name": passing}
        refused(api.post("/v1/forecast", json=request(model=passing)), 404, "MODEL_NOT_FOUND")
        assert row(api, passing) is not None, "it is in use"
        assert list(stream)[-1]["done"] is True
    wait_for(lambda: row(api, passing) is None, 5, "the end of the model")
    refused(api.post(f"/v1/models/{passing}/unload"), 404, "MODEL_NOT_FOUND")


def test_what_is_held_can_be_unloaded_whether_or_not_it_is_known(
    api: httpx.Client, server: Server, passing: str
) -> None:
    for path, body in ((f"/v1/models/{passing}/unload", {}), ("/api/generate", {"model": passing, "keep_alive": 0})):
        told(api.post(f"/v1/models/{passing}/load", json={"keep_alive": -1}), passing, "load")
        shutil.move(server.home / "models/passing", server.home / "aside")
        try:
            assert row(api, passing) is not None
            told(api.post(path, json=body), passing, "unload")
            assert row(api, passing) is None
            refused(api.post(path, json=body), 404, "MODEL_NOT_FOUND")
        finally:
            shutil.move(server.home / "aside", server.home / "models/passing")
