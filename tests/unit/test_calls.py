"""The API as data: every route has its call, and what is sent is what was said."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from docs import generate
from tollama import calls
from tollama.contract import ForecastRequest, SeriesInput
from tollama.errors import InvalidRequest

REQUEST: dict[str, Any] = {"model": "m", "horizon": 2, "series": [{"id": "a", "target": [1.0], "start": "2024"}]}
FRAME = pd.DataFrame({"ds": ["2024-01-01", "2024-01-02"], "y": [1.0, float("nan")]})
ALL = [
    *(calls.health(), calls.ready(), calls.version(), calls.info(), calls.metrics(), calls.models(), calls.tags()),
    *(calls.ps(), calls.model("{name}"), calls.capabilities("{name}"), calls.show("m"), calls.unload("{name}")),
    *(calls.load("{name}", None, None, None), calls.delete("{name}"), calls.pull("m"), calls.validate(REQUEST, None)),
    *(calls.forecast(REQUEST, None), calls.forecast_stream(REQUEST, None)),
]
OTHERWISE = {
    "/": "/v1/health",
    "/health/live": "/v1/health",
    "/v1/info": "/api/info",
    "/v1/ps": "/api/ps",
    "/v1/validate": "/api/validate",
    "/v1/models/pull": "/api/pull",
    "/api/generate": "/v1/models/{name}/load",
    "/api/delete": "/v1/models/{name}",
    "/docs": "a page for people",
    "/openapi.json": "what clients are made from",
}
"""Routes that say what another does, and which the clients need not ask."""


def test_every_route_has_its_call() -> None:
    asked = {call.path.replace("%7B", "{").replace("%7D", "}") for call in ALL}
    assert asked | set(OTHERWISE) == set(generate.served())
    assert not asked & set(OTHERWISE)
    assert all(other in asked for other in OTHERWISE.values() if other.startswith("/"))


def test_names_cannot_leave_their_place_in_the_path() -> None:
    assert calls.model("../../api/info").path == "/v1/models/..%2F..%2Fapi%2Finfo"


def test_nan_is_sent_as_such_and_only_what_was_set() -> None:
    request = ForecastRequest(model="m", horizon=1, series=[SeriesInput(id="a", target=[float("nan")])])
    call = calls.forecast(request, None)
    assert call.arguments()["content"] == (
        '{"model":"m","horizon":1,"series":[{"id":"a","target":[NaN]}],"stream":false}'
    )


def test_what_is_not_set_is_left_out_and_a_zero_is_not() -> None:
    assert calls.pull("m", no_runtime=False, offline=False, revision=None, accept_license=True).body == {
        "model": "m",
        "stream": True,
        "accept_license": True,
        "offline": False,  # which is not what the server does by itself
    }
    assert calls.load("m", 0, None, None).body == {"keep_alive": 0}


def test_the_wait_is_the_servers_deadline_and_a_little_more() -> None:
    assert calls.forecast(REQUEST, None).timeout is None, "the server's own deadline may be any"
    assert calls.forecast(REQUEST | {"timeout": 5}, None).timeout == 35
    assert calls.forecast(REQUEST, 2.0).timeout == 2.0
    assert calls.pull("m").timeout is None


def test_a_table_is_a_request() -> None:
    call = calls.forecast_frame(FRAME, "m", 3, {}, "D", {"quantiles": [0.5], "timeout": None}, None)
    assert (call.path, call.body["horizon"], call.body["quantiles"]) == ("/v1/forecast", 3, [0.5])
    assert call.body["series"][0]["target"] == [1.0, None]
    assert call.body["response_options"] == {"timestamps": True}
    assert "timeout" not in call.body


def test_what_numpy_and_pandas_hold_is_sent_as_json() -> None:
    body = {
        **{"model": "m", "horizon": np.int64(2), "quantiles": np.array([0.5]), "timeout": np.float32(2)},
        "series": [{"id": "a", "target": np.array([1.0, np.nan]), "start": pd.Timestamp("2024-01-01"), "freq": "D"}],
    }
    sent = ForecastRequest.model_validate_json(calls.forecast(body, None).arguments()["content"])
    assert (sent.horizon, sent.quantiles, sent.series[0].start) == (2, [0.5], "2024-01-01T00:00:00")
    asked = calls.forecast_frame(FRAME, "m", np.int64(2), {}, "auto", {"quantiles": pd.Series([0.5])}, None)  # type: ignore[arg-type]
    assert json.loads(asked.arguments()["content"])["horizon"] == 2
    with pytest.raises(InvalidRequest, match="A set cannot be sent"):
        calls.forecast({"model": {"m"}}, None).arguments()
