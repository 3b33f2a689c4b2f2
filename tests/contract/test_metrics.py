"""``/metrics``: every metric is there, counts what was asked, and takes nothing of a client's for a label."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families as parse

from deployments.ingress.metrics import METRICS
from tests.contract.checks import busy
from tests.hub import LoopbackHub
from tests.serving import request, wait_for
from tollama.registry import find

Ask = Callable[..., httpx.Response]
Labels = frozenset[tuple[str, str]]


def read(api: httpx.Client) -> dict[str, dict[Labels, float]]:
    """Series -> labels -> value."""
    answer = api.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found: dict[str, dict[Labels, float]] = {}
    for family in parse(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def value(api: httpx.Client, name: str, **labels: str) -> float:
    return read(api).get(name, {}).get(frozenset(labels.items()), 0.0)


def test_every_metric_is_served_once_a_model_was_asked(api: httpx.Client, ask: Ask) -> None:
    assert ask().status_code == 200
    names = set(read(api))
    for metric in METRICS.values():
        if metric.kind == "histogram":
            assert {f"{metric.name}_{part}" for part in ("bucket", "sum", "count")} <= names
        else:
            assert metric.name in names


def test_a_forecast_is_counted_on_both_pages_once(clients: dict[str, httpx.Client], api: httpx.Client) -> None:
    def counts() -> list[float]:
        labels = {"route": "/v1/forecast", "model": "mock", "status": "200"}
        return [value(one, "tollama_requests_total", **labels) for one in clients.values()]

    def timed() -> tuple[float, float]:
        page = read(api)
        whole = page["tollama_request_seconds_count"][frozenset({("route", "/v1/forecast")})]
        return whole, page["tollama_inference_seconds_count"][frozenset({("model", "mock")})]

    assert api.post("/v1/forecast", json=request()).status_code == 200
    before, at_first = counts(), timed()
    assert before[0] == before[1]
    for _ in range(3):
        assert api.post("/v1/forecast", json=request()).status_code == 200
    assert counts() == [count + 3 for count in before]
    assert timed() == tuple(count + 3 for count in at_first)


def test_a_streamed_forecast_counts_too(api: httpx.Client) -> None:
    def count() -> float:
        return value(api, "tollama_inference_seconds_count", model="mock")

    with busy(api, 0.0):
        pass
    before = count()
    with busy(api, 0.0):
        pass
    assert count() == before + 1


def test_no_label_is_a_clients_own_word(api: httpx.Client) -> None:
    api.get("/no/such/route-of-mine")
    api.get("/v1/models/no-such-model-of-mine")
    api.post("/v1/forecast", json=request(model="no-such-model-of-mine"))
    api.delete("/v1/models/no-such-model-of-mine")
    for path in ("/v1/models/pull", "/api/pull"):
        body = {"name": "hf:nobody/no-such-model", "local_name": "no-such-name-of-mine", "no_runtime": True}
        assert "success" not in api.post(path, json=body).text
    page = read(api)
    assert "of-mine" not in api.get("/metrics").text
    requests = page["tollama_requests_total"]
    for route, status in (("", "404"), ("/v1/models/{name}", "404"), ("/v1/forecast", "404")):
        assert requests[frozenset({("route", route), ("model", ""), ("status", status)})] >= 1


def test_a_model_that_a_path_names_is_the_label(api: httpx.Client) -> None:
    before = value(api, "tollama_requests_total", route="/v1/models/{name}/capabilities", model="mock", status="200")
    assert api.get("/v1/models/MOCK/capabilities").status_code == 200
    after = value(api, "tollama_requests_total", route="/v1/models/{name}/capabilities", model="mock", status="200")
    assert after == before + 1


def test_who_waits_and_what_is_held_show(api: httpx.Client, ask: Ask) -> None:
    with busy(api, 1.5):
        page = read(api)
        mock = frozenset({("family", "mock")})
        assert page["tollama_queue_depth"][mock] >= 1
        assert page["tollama_in_flight"][mock] >= 1
        assert page["tollama_loaded_models"][mock] >= 1
        (replica,) = [labels for labels in page["tollama_memory_bytes"] if ("family", "mock") in labels]
        assert dict(replica)["replica"].startswith("mock-")
    wait_for(lambda: value(api, "tollama_in_flight", family="mock") == 0)
    assert value(api, "tollama_queue_depth", family="mock") == 0


def test_pulls_are_counted(api: httpx.Client, hub: LoopbackHub) -> None:
    def counts() -> tuple[float, ...]:
        outcomes = [value(api, "tollama_pulls_total", outcome=name) for name in ("success", "REVISION_NOT_FOUND")]
        return (*outcomes, value(api, "tollama_pull_bytes_total"))

    name = "chronos-bolt-mini"
    source = find(name).source
    files: dict[str, bytes | Path] = {"config.json": b"{}", "model.safetensors": os.urandom(100_000)}
    hub.add(str(source.repo_id), files, str(source.revision))
    before = counts()
    try:
        assert api.post("/v1/models/pull", json={"name": name, "no_runtime": True}).status_code == 200
    finally:
        api.delete(f"/v1/models/{name}")
    succeeded = counts()
    assert succeeded[:2] == (before[0] + 1, before[1])
    assert succeeded[2] - before[2] in (100_000, 100_002), "what earlier pulls left is not downloaded again"
    absent = {"name": name, "no_runtime": True, "revision": "no-such-branch"}
    assert api.post("/v1/models/pull", json=absent).status_code == 404
    wait_for(lambda: counts() == (succeeded[0], succeeded[1] + 1, succeeded[2]))


def test_the_schema_tells_of_it(api: httpx.Client) -> None:
    operation = api.get("/openapi.json").json()["paths"]["/metrics"]["get"]
    assert list(operation["responses"]["200"]["content"]) == ["text/plain"]
