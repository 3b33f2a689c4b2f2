"""Every rule of the forecast request's fields, and the model's limits."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.contract.checks import locs, refused
from tests.serving import request, series

Ask = Callable[..., httpx.Response]


def one(**changes: Any) -> dict[str, Any]:
    """A change of the request: its one series with these fields."""
    return {"series": [series(**changes)]}


BREAKS: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
    ({"model": ""}, ("model",)),
    ({"model": None}, ("model",)),
    ({"model": 5}, ("model",)),
    ({"horizon": 0}, ("horizon",)),
    ({"horizon": -1}, ("horizon",)),
    ({"horizon": 16_385}, ("horizon",)),
    ({"horizon": "3"}, ("horizon",)),
    ({"horizon": 3.5}, ("horizon",)),
    ({"horizon": True}, ("horizon",)),
    ({"series": []}, ("series",)),
    ({"series": {}}, ("series",)),
    ({"series": [5]}, ("series", 0)),
    ({"quantiles": [0.5, 0.1]}, ("quantiles",)),
    ({"quantiles": [0.5, 0.5]}, ("quantiles",)),
    ({"quantiles": [0.0]}, ("quantiles", 0)),
    ({"quantiles": [0.5, 1]}, ("quantiles", 1)),
    ({"quantiles": ["0.5"]}, ("quantiles", 0)),
    ({"quantiles": [i / 101 for i in range(1, 101)]}, ("quantiles",)),
    ({"quantiles": None}, ("quantiles",)),
    ({"options": []}, ("options",)),
    ({"timeout": 0}, ("timeout",)),
    ({"timeout": -1}, ("timeout",)),
    ({"timeout": "5"}, ("timeout",)),
    ({"timeout": float("inf")}, ("timeout",)),
    ({"keep_alive": "soon"}, ("keep_alive",)),
    ({"parameters": {"covariates_mode": "lax"}}, ("parameters", "covariates_mode")),
    ({"parameters": {"metrics": {"names": []}}}, ("parameters", "metrics", "names")),
    ({"parameters": {"metrics": {"names": ["mae", "best"]}}}, ("parameters", "metrics", "names", 1)),
    (
        {"parameters": {"metrics": {"names": ["mase"], "mase_seasonality": 0}}},
        ("parameters", "metrics", "mase_seasonality"),
    ),
    ({"response_options": {"timestamps": "yes"}}, ("response_options", "timestamps")),
    ({"response_options": {"partial": 1}}, ("response_options", "partial")),
    ({"stream": "no"}, ("stream",)),
    ({"colour": 1}, ("colour",)),
    ({"parameters": {"colour": 1}}, ("parameters", "colour")),
    ({"parameters": {"metrics": {"names": ["mae"], "colour": 1}}}, ("parameters", "metrics", "colour")),
    ({"response_options": {"colour": 1}}, ("response_options", "colour")),
    (one(colour=1), ("series", 0, "colour")),
    (one(id=5), ("series", 0, "id")),
    (one(target=[]), ("series", 0, "target")),
    (one(target=None), ("series", 0, "target")),
    (one(target=[1.0, "2"]), ("series", 0, "target", 1)),
    (one(target=[1.0, True]), ("series", 0, "target", 1)),
    (one(timestamps="2024-01-01"), ("series", 0, "timestamps")),
    (one(start=20240101), ("series", 0, "start")),
    (one(freq=None), ("series", 0, "freq")),
    (one(timezone=1), ("series", 0, "timezone")),
    (one(actuals=["1"]), ("series", 0, "actuals", 0)),
]


@pytest.mark.parametrize(
    ("changes", "where"), BREAKS, ids=[f"{'.'.join(map(str, w))}-{i}" for i, (_, w) in enumerate(BREAKS)]
)
def test_a_broken_field_is_refused_and_named(
    api: httpx.Client, changes: dict[str, Any], where: tuple[Any, ...]
) -> None:
    answer = api.post("/v1/forecast", content=json.dumps(request(**changes)).encode())
    assert locs(refused(answer, 400, "INVALID_REQUEST")) == {where}


@pytest.mark.parametrize("covariates", ["past_covariates", "future_covariates", "static_covariates"])
def test_a_covariate_is_a_number_or_text(ask: Ask, covariates: str) -> None:
    value = True if covariates == "static_covariates" else [True] * 24
    found = refused(ask(**one(**{covariates: {"x": value}})), 400, "INVALID_REQUEST")
    assert {where[:4] for where in locs(found)} == {("series", 0, covariates, "x")}


@pytest.mark.parametrize("field", ["model", "horizon", "series"])
def test_a_required_field_is_missed(api: httpx.Client, field: str) -> None:
    body = {name: value for name, value in request().items() if name != field}
    assert locs(refused(api.post("/v1/forecast", json=body), 400, "INVALID_REQUEST")) == {(field,)}


@pytest.mark.parametrize("field", ["id", "target"])
def test_a_required_field_of_a_series_is_missed(ask: Ask, field: str) -> None:
    body = {name: value for name, value in series().items() if name != field}
    assert locs(refused(ask(series=[body]), 400, "INVALID_REQUEST")) == {("series", 0, field)}


def test_ids_are_unique(ask: Ask) -> None:
    assert "unique" in refused(ask(series=[series("a"), series("b"), series("a")]), 400, "INVALID_REQUEST")["error"]


def test_at_most_ten_thousand_series(ask: Ask) -> None:
    many = [{"id": str(i), "target": [1], "start": "2024", "freq": "D"} for i in range(10_001)]
    found = refused(ask(horizon=1, series=many), 400, "INVALID_REQUEST")
    assert locs(found) == {("series",)}
    assert "10000" in found["error"]
    answer = ask(horizon=1, series=many[1:], quantiles=[])
    assert [one["id"] for one in answer.json()["forecasts"]] == [one["id"] for one in many[1:]]


def test_at_most_twenty_million_numbers(ask: Ask) -> None:
    many = [series(str(i), n=1) for i in range(306)]  # 306 x 16,384 x 4 > 20,000,000
    assert "20,000,000" in refused(ask(horizon=16_384, series=many), 400, "INVALID_REQUEST")["error"]
    assert ask("/api/validate", horizon=16_384, series=many[1:]).status_code == 200


def test_the_longest_horizon(ask: Ask) -> None:
    found = ask(horizon=16_384, quantiles=[]).json()
    assert len(found["forecasts"][0]["mean"]) == found["usage"]["horizon"] == 16_384


def test_whole_numbers_where_floats_are_meant(ask: Ask) -> None:
    answer = ask(
        timeout=60, keep_alive=300, options={"delay_s": 0}, **one(target=[1, 2, 3], static_covariates={"x": 1})
    )
    assert answer.status_code == 200, answer.text


def test_default_quantiles(ask: Ask) -> None:
    forecast = ask().json()["forecasts"][0]
    assert list(forecast["quantiles"]) == ["0.1", "0.5", "0.9"]
    assert ask(quantiles=[0.1, 0.5, 0.9]).json()["forecasts"] == [forecast]


def test_quantile_keys_are_the_shortest_text(ask: Ask) -> None:
    levels = [1e-05, 0.025, 0.1, 0.30000000000000004, 0.5, 0.975]
    quantiles = ask(quantiles=levels).json()["forecasts"][0]["quantiles"]
    assert list(quantiles) == ["1e-05", "0.025", "0.1", "0.30000000000000004", "0.5", "0.975"]


def test_no_quantiles(ask: Ask) -> None:
    assert ask(quantiles=[]).json()["forecasts"][0]["quantiles"] == {}


def test_ninety_nine_quantiles_never_cross(ask: Ask) -> None:
    levels = [i / 100 for i in range(1, 100)]
    quantiles = ask(quantiles=levels).json()["forecasts"][0]["quantiles"]
    assert [float(key) for key in quantiles] == levels
    for step in zip(*quantiles.values(), strict=True):
        assert list(step) == sorted(step)


def test_model_names_have_no_case(ask: Ask) -> None:
    assert ask(model="MOCK").json()["model"] == "mock"


@pytest.mark.parametrize("path", ["/v1/forecast", "/api/validate"])
class TestLimitsOfTheModel:
    """Against ``narrow``: horizon 8 (4 in one pass), context 5 to 16, quantiles 0.2 to 0.8, past numeric covariates."""

    def test_horizon_over_the_limit(self, ask: Ask, path: str) -> None:
        found = refused(ask(path, model="narrow", horizon=9, quantiles=[]), 400, "UNSUPPORTED_BY_MODEL")
        assert "8" in found["error"]
        assert "8" in found["hint"]

    def test_horizon_beyond_one_pass_is_warned_of(self, ask: Ask, path: str) -> None:
        assert ask(path, model="narrow", horizon=4, quantiles=[], **one(n=16)).json()["warnings"] == []
        (warning,) = ask(path, model="narrow", horizon=5, quantiles=[], **one(n=16)).json()["warnings"]
        assert "rolled out" in warning

    def test_undeclared_option(self, ask: Ask, path: str) -> None:
        answer = ask(path, model="narrow", quantiles=[], options={"num_samples": 5, "seed": "x"})
        found = refused(answer, 400, "UNSUPPORTED_BY_MODEL")
        assert all(name in found["hint"] for name in ("context_length", "extrapolate_quantiles", "seed"))
        assert locs(found) == {("options", "num_samples"), ("options", "seed")}

    def test_context_length_over_the_limit(self, ask: Ask, path: str) -> None:
        answer = ask(path, model="narrow", quantiles=[], options={"context_length": 17})
        assert "16" in refused(answer, 400, "UNSUPPORTED_BY_MODEL")["error"]

    def test_quantile_outside_the_range(self, ask: Ask, path: str) -> None:
        found = refused(ask(path, model="narrow", quantiles=[0.1, 0.5]), 400, "UNSUPPORTED_BY_MODEL")
        assert "extrapolate_quantiles" in found["hint"]
        answer = ask(path, model="narrow", quantiles=[0.1, 0.5], options={"extrapolate_quantiles": True}, **one(n=16))
        assert any("extrapolated" in warning for warning in answer.json()["warnings"])
        assert ask(path, model="narrow", quantiles=[0.2, 0.4, 0.8], **one(n=16)).json()["warnings"] == []

    def test_quantiles_of_a_point_model_are_marked(self, ask: Ask, path: str) -> None:
        assert any("conformal" in warning for warning in ask(path, model="pointed").json()["warnings"])
        assert ask(path, model="pointed", quantiles=[]).json()["warnings"] == []

    def test_too_short_a_series(self, ask: Ask, path: str) -> None:
        found = refused(ask(path, model="narrow", quantiles=[], **one(n=4)), 400, "INVALID_SERIES")
        assert "5" in found["error"]
        assert ask(path, model="narrow", quantiles=[], **one(n=5)).status_code == 200

    def test_missing_values_are_filled(self, ask: Ask, path: str) -> None:
        (warning,) = ask(path, model="narrow", quantiles=[], **one(target=[None, 1, 2, None, 4, 5])).json()["warnings"]
        assert "2 missing values were filled" in warning
        assert ask(path, model="mock", quantiles=[], **one(target=[None, 1, 2, None, 4, 5])).json()["warnings"] == []

    def test_covariates_that_the_model_does_not_take(self, ask: Ask, path: str) -> None:
        covariates: dict[str, Any] = {
            "past_covariates": {"price": [1.0] * 16, "promo": ["yes"] * 16, "sun": [1] * 16},
            "future_covariates": {"sun": [1, None, 2]},
            "static_covariates": {"shop": "north"},
        }
        (warning,) = ask(path, model="narrow", quantiles=[], **one(n=16, **covariates)).json()["warnings"]
        assert all(name in warning for name in ("promo", "sun", "shop"))
        assert "price" not in warning
        strict = {"parameters": {"covariates_mode": "strict"}}
        answer = ask(path, model="narrow", quantiles=[], **strict, **one(n=16, **covariates))
        assert "promo" in refused(answer, 400, "UNSUPPORTED_BY_MODEL")["error"]
        fine = one(n=16, past_covariates={"price": [1.0] * 16})
        assert ask(path, model="narrow", quantiles=[], **strict, **fine).status_code == 200


def test_history_beyond_the_limit_is_cut(ask: Ask) -> None:
    found = ask(model="narrow", quantiles=[], **one(n=20)).json()
    assert found["usage"]["context_length"] == 16
    assert "newest 16" in found["warnings"][0]
    newest = {**series(n=20), "target": series(n=20)["target"][4:], "start": "2021-05-01"}
    assert ask(model="narrow", quantiles=[], series=[newest]).json()["forecasts"] == found["forecasts"]


def test_context_length_is_taken_from_the_newest(ask: Ask) -> None:
    found = ask(options={"context_length": 12}).json()
    assert found["usage"]["context_length"] == 12
    assert found["warnings"] == []


def test_validate_says_what_a_forecast_would(ask: Ask) -> None:
    for path in ("/api/validate", "/v1/validate"):
        assert ask(path).json() == {"valid": True, "warnings": []}
    changes = one(past_covariates={"x": [1] * 24})
    assert ask("/api/validate", **changes).json()["warnings"] == ask(**changes).json()["warnings"] != []
