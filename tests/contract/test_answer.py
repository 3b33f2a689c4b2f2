"""The forecast's answer: keys, order, metrics, partial answers, big panels, keep-alive."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from tests.contract.checks import refused
from tests.serving import request, series, wait_for
from tollama.contract import METRIC_NAMES, ForecastResponse

Ask = Callable[..., httpx.Response]


def test_the_whole_answer(ask: Ask) -> None:
    answer = ask()
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()
    ForecastResponse.model_validate(found)
    assert list(found) == ["model", "forecasts", "warnings", "timing", "usage"]
    assert found["model"] == "mock"
    (forecast,) = found["forecasts"]
    assert set(forecast) == {"id", "freq", "start_timestamp", "mean", "quantiles", "point"}
    assert (forecast["id"], forecast["freq"], forecast["start_timestamp"]) == ("a", "MS", "2023-01-01T00:00:00")
    assert forecast["mean"] == [22.0, 23.0, 24.0]
    assert [len(column) for column in forecast["quantiles"].values()] == [3, 3, 3]
    assert forecast["point"] == "mean"
    assert set(found["timing"]) == {"total_ms", "queue_ms", "model_load_ms", "inference_ms"}
    usage = found["usage"]
    assert set(usage) == {
        "runner",
        "device",
        "model_load_ms",
        "inference_ms",
        "batch_series",
        "series_count",
        "horizon",
        "context_length",
        "peak_memory_mb",
    }
    expected = {"runner": "mock", "device": "cpu", "batch_series": 1, "series_count": 1, "horizon": 3}
    assert expected.items() <= usage.items()
    assert usage["context_length"] == 24
    assert usage["peak_memory_mb"] > 0


def test_times_add_up(ask: Ask) -> None:
    timing = ask(options={"delay_s": 0.3}).json()["timing"]
    assert timing["inference_ms"] >= 300
    parts = timing["queue_ms"] + timing["model_load_ms"] + timing["inference_ms"]
    assert timing["total_ms"] == pytest.approx(parts, abs=1)


def test_point_says_what_mean_holds(ask: Ask) -> None:
    assert ask(model="narrow", quantiles=[]).json()["forecasts"][0]["point"] == "median"


def test_order_of_forecasts_is_that_of_the_series(ask: Ask) -> None:
    names = ["z", "a", "é", "10", "9", ""]
    assert [one["id"] for one in ask(series=[series(name) for name in names]).json()["forecasts"]] == names


def test_the_same_request_gives_the_same_answer(ask: Ask) -> None:
    first = ask(options={"seed": 7}).json()["forecasts"]
    assert ask(options={"seed": 7}).json()["forecasts"] == first
    assert ask(series=[series("b", n=30), series()]).json()["forecasts"][1] == ask().json()["forecasts"][0]


def test_a_big_panel_equals_its_series_one_by_one(ask: Ask) -> None:
    many = [{**series(f"s{i}"), "target": [float(i + (7 * step) % 13) for step in range(120)]} for i in range(2000)]
    found = ask(series=many).json()  # large: prepared and answered in the second process
    assert found["usage"]["series_count"] == 2000
    assert found["warnings"] == []
    assert [one["id"] for one in found["forecasts"]] == [one["id"] for one in many]
    for given, forecast in zip(many, found["forecasts"], strict=True):
        assert forecast["mean"] == given["target"][-12:-9]
    for i in (0, 1, 255, 256, 257, 511, 512, 1023, 1500, 1999):
        assert ask(series=[many[i]]).json()["forecasts"] == [found["forecasts"][i]]


def test_metrics(ask: Ask) -> None:
    both = [series("a", actuals=[22, 25, None]), series("b", actuals=[23, 24, 25])]
    assert "metrics" not in ask(series=both).json()
    found = ask(series=both, parameters={"metrics": {"names": ["mae", "rmse"]}}).json()["metrics"]
    assert found["series"]["a"] == {"mae": 1.0, "rmse": pytest.approx(2**0.5)}
    assert found["series"]["b"] == {"mae": 1.0, "rmse": 1.0}
    assert found["mean"]["mae"] == 1.0
    every = ask(series=both, parameters={"metrics": {"names": list(METRIC_NAMES)}}).json()["metrics"]
    assert set(every["series"]["b"]) == set(METRIC_NAMES)
    assert all(value is not None for value in every["series"]["b"].values())


def test_mase_seasonality(ask: Ask) -> None:
    def mase(**more: int) -> float:
        body = {"series": [series(actuals=[23, 24, 25])], "parameters": {"metrics": {"names": ["mase"], **more}}}
        return float(ask(**body).json()["metrics"]["mean"]["mase"])

    assert mase() == pytest.approx(1 / 12)  # a month ago: the trend makes 12 steps of 1
    assert mase(mase_seasonality=1) == pytest.approx(1)


@pytest.mark.parametrize("actuals", [None, [1.0, 2.0]])
def test_metrics_need_actuals(ask: Ask, actuals: list[float] | None) -> None:
    given = series("shop-7") if actuals is None else series("shop-7", actuals=actuals)
    found = refused(ask(series=[given], parameters={"metrics": {"names": ["mae"]}}), 400, "INVALID_SERIES")
    assert "shop-7" in found["error"]


def test_partial_answers_a_bad_series_in_its_place(ask: Ask) -> None:
    mixed = [series("a"), series("b", freq="fortnight"), series("c")]
    refused(ask(series=mixed), 400, "INVALID_SERIES")
    first, second, third = ask(series=mixed, response_options={"partial": True}).json()["forecasts"]
    assert (first["id"], third["id"]) == ("a", "c")
    assert first["mean"] == third["mean"] == [22.0, 23.0, 24.0]
    assert set(second) == {"id", "error"}
    assert second["id"] == "b"
    assert second["error"]["code"] == "INVALID_SERIES"
    assert second["error"]["hint"]
    only = ask(series=mixed[1:2], response_options={"partial": True})
    assert only.status_code == 200
    assert only.json()["forecasts"][0]["error"]["code"] == "INVALID_SERIES"


def test_partial_answers_a_series_on_which_the_model_fails(ask: Ask) -> None:
    pair = {"series": [series("fail"), series("b")], "options": {"fail": "item"}}
    found = refused(ask(**pair), 502, "RUNNER_FAILED")
    assert [one["id"] for one in found["detail"]] == ["fail"]
    first, second = ask(**pair, response_options={"partial": True}).json()["forecasts"]
    assert first["error"]["code"] == "RUNNER_FAILED"
    assert second["mean"] == [22.0, 23.0, 24.0]


def _held(api: httpx.Client, name: str = "mock") -> dict[str, Any] | None:
    return next((one for one in api.get("/api/ps").json()["models"] if one["name"] == name), None)


def _left(api: httpx.Client) -> float:
    held = _held(api)
    assert held is not None
    return (datetime.fromisoformat(held["expires_at"]) - datetime.now(UTC)).total_seconds()


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [({}, 300), ({"keep_alive": 60}, 60), ({"keep_alive": "10m30s"}, 630), ({"keep_alive": "1d"}, 86_400)],
    ids=["default", "number", "duration", "days"],
)
def test_keep_alive(ask: Ask, api: httpx.Client, changes: dict[str, Any], seconds: float) -> None:
    assert ask(**changes).status_code == 200
    assert seconds - 10 < _left(api) <= seconds


@pytest.mark.parametrize("forever", [-1, "-1", "-1m"])
def test_keep_alive_for_ever(ask: Ask, api: httpx.Client, forever: Any) -> None:
    assert ask(keep_alive=forever).status_code == 200
    held = _held(api)
    assert held is not None
    assert held["expires_at"].startswith("9999-")


def test_keep_alive_zero_unloads_when_the_answer_is_out(ask: Ask, api: httpx.Client) -> None:
    ask(model="narrow", quantiles=[])
    assert ask(keep_alive=0).status_code == 200
    wait_for(lambda: _held(api) is None, 2, "the unloading")
    assert _held(api, "narrow") is not None


def test_expiry_needs_no_traffic(ask: Ask, api: httpx.Client) -> None:
    ask(model="pointed", quantiles=[], keep_alive="300ms")
    wait_for(lambda: _held(api, "pointed") is None, 2.3, "the expiry")


def test_running_models(ask: Ask, api: httpx.Client) -> None:
    ask(model="narrow", quantiles=[], keep_alive=60)
    ask(keep_alive=600)
    first, second = api.get("/api/ps").json()["models"][:2]
    assert (first["name"], second["name"]) == ("mock", "narrow")
    assert set(first) >= {
        "name",
        "model",
        "size",
        "digest",
        "details",
        "expires_at",
        "size_vram",
        "context_length",
        "family",
        "device",
        "replica",
    }
    assert len(first["digest"]) == 64
    assert (first["family"], first["device"], first["size_vram"]) == ("mock", "cpu", 0)
    assert second["context_length"] == 16
    assert {one["name"] for one in api.get("/v1/ps").json()["models"]} >= {"mock", "narrow"}
    states = {one["name"]: one["state"] for one in api.get("/v1/models").json()["installed"]}
    assert states["mock"] == states["narrow"] == "loaded"


def test_both_forecast_routes_say_the_same(api: httpx.Client) -> None:
    plain = api.post("/v1/forecast", json=request())
    quiet = api.post("/api/forecast", json=request(stream=False))
    assert quiet.headers["content-type"] == "application/json"
    assert quiet.json()["forecasts"] == plain.json()["forecasts"]
