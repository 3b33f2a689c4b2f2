"""``/api/info``: the whole of it, where each value comes from, and what families do now."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from tests.cli.fake_info import INFO
from tests.serving import RUNTIMES, Server, request, series
from tollama.answers import Info
from tollama.registry import registry
from tollama.settings import Settings
from tollama.version import __version__


@pytest.fixture(params=["/api/info", "/v1/info"])
def told(request: pytest.FixtureRequest, api: httpx.Client) -> dict[str, Any]:
    """The page, after a forecast of the mock model."""
    assert api.post("/v1/forecast", json=_forecast()).status_code == 200
    answer = api.get(str(request.param))
    assert answer.status_code == 200
    return dict(answer.json())


def _forecast() -> dict[str, Any]:
    return request(keep_alive="1m")


def test_what_the_server_is_made_of(told: dict[str, Any], server: Server) -> None:
    assert told["versions"]["tollama"] == __version__
    assert told["versions"]["ray"] == "2.60.0"
    assert told["server"]["api"] == server.door
    assert told["server"]["pid"] in server.processes("ServeReplica:tollama:ingress")
    assert told["paths"]["home"] == str(server.home)
    assert told["paths"]["runtimes"] == str(RUNTIMES)
    assert told["registry"]["entries"] == len(registry())
    assert told["ray"]["dashboard"] is None  # the session's server goes without
    assert {model["name"] for model in told["models"]["installed"]} >= {"mock", "seasonal-naive", "narrow"}


def test_each_setting_and_where_it_comes_from(told: dict[str, Any], server: Server) -> None:
    config = told["config"]
    assert set(config) == set(Settings.model_fields)
    assert config["max_queue"] == {"value": 80, "source": "environment", "env": "TOLLAMA_MAX_QUEUE"}
    assert config["port"] == {"value": server.port, "source": "environment", "env": "TOLLAMA_PORT"}
    assert config["home"]["source"] == "environment"
    assert config["dashboard"] == {"value": False, "source": "option", "env": "TOLLAMA_DASHBOARD"}
    assert config["keep_alive"]["source"] == "default"
    assert told["environment"]["TOLLAMA_MAX_QUEUE"] == "80"
    assert told["environment"]["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"
    assert not {"PATH", "TOLLAMA_SOURCES", "TOLLAMA_SERVER"} & set(told["environment"])


def test_what_families_do(told: dict[str, Any], server: Server) -> None:
    families = told["families"]
    assert set(families) >= {"mock", "baseline", "torch", "timesfm", "uni2ts"}
    mock = families["mock"]
    (replica,) = mock["replicas"]
    assert replica["pid"] in server.processes("ServeReplica:tollama:mock")
    held = {model["name"]: model["state"] for model in replica["models"]}
    assert held["mock"] == "loaded"
    assert (mock["answers"], mock["unavailable"], mock["adapters"]) == (True, None, ["mock"])
    assert mock["runtime"]["ready"] is True
    assert families["baseline"]["runtime"]["digest"] in families["baseline"]["runtime"]["python"]


def test_the_command_line_tests_talk_to_the_same_shape(told: dict[str, Any]) -> None:
    assert set(told) == set(INFO)
    for group in ("server", "ray", "models", "registry"):
        assert set(told[group]) == set(INFO[group])
    mock, canned = told["families"]["mock"], INFO["families"]["mock"]
    assert set(mock) == set(canned)
    assert set(mock["runtime"]) == set(canned["runtime"])
    assert set(mock["replicas"][0]) == set(canned["replicas"][0])
    assert set(mock["replicas"][0]["models"][0]) == set(canned["replicas"][0]["models"][0])
    assert set(told["models"]["installed"][0]) == set(INFO["models"]["installed"][0])
    assert set(told["config"]["port"]) == set(INFO["config"]["port"])


def test_the_schema_tells_of_it(api: httpx.Client) -> None:
    paths = api.get("/openapi.json").json()["paths"]
    for path in ("/api/info", "/v1/info"):
        assert "Versions" in paths[path]["get"]["description"]
        answer = paths[path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert answer == {"$ref": "#/components/schemas/Info"}


def test_it_is_what_the_schema_says_and_no_more(told: dict[str, Any]) -> None:
    assert Info.model_validate(told).model_dump(mode="json") == told
    assert Info.model_validate(INFO).model_dump(mode="json") == INFO


@pytest.mark.parametrize("path", ["/v1/forecast", "/api/forecast"])
@pytest.mark.parametrize("fail", ["raise", "item"])
def test_the_last_failure_of_a_family(api: httpx.Client, path: str, fail: str) -> None:
    def last() -> dict[str, Any] | None:
        found: dict[str, Any] | None = api.get("/api/info").json()["families"]["mock"]["last_error"]
        return found

    start = datetime.now(UTC).replace(microsecond=0)
    body = request(series=[series("fail")], options={"fail": fail})
    assert "RUNNER_FAILED" in api.post(path, json=body).text
    found = last()
    assert found is not None
    assert found["code"] == "RUNNER_FAILED"
    assert datetime.fromisoformat(found["at"]) >= start
    assert api.post(path, json=request()).status_code == 200
    assert last() == found, "the last one is told until there is another"
