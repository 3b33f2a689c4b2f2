"""What becomes of a series: its time axis, its values, its covariates."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.contract.checks import refused
from tests.serving import request, series

Ask = Callable[..., httpx.Response]


def at(*timestamps: str, **more: Any) -> dict[str, Any]:
    """A series at these times."""
    return {
        "id": "shop-7",
        "target": [float(i) for i in range(len(timestamps))],
        "timestamps": list(timestamps),
        **more,
    }


def days(*numbers: int, tail: str = "", **more: Any) -> dict[str, Any]:
    """A series on these days of January 2024, the first of which is a Monday."""
    return at(*(f"2024-01-{day:02}{tail}" for day in numbers), **more)


def from_(start: str, freq: str, n: int = 3) -> dict[str, Any]:
    return series("shop-7", n=n, start=start, freq=freq)


GOES_ON: list[tuple[str, dict[str, Any], str, list[str]]] = [
    (
        "month starts",
        at("2022-10-01", "2022-11-01", "2022-12-01"),
        "MS",
        ["2023-01-01T00:00:00", "2023-02-01T00:00:00"],
    ),
    ("month ends", at("2022-10-31", "2022-11-30", "2022-12-31"), "ME", ["2023-01-31T00:00:00", "2023-02-28T00:00:00"]),
    (
        "quarters",
        at("2022-03-31", "2022-06-30", "2022-09-30"),
        "QE-DEC",
        ["2022-12-31T00:00:00", "2023-03-31T00:00:00"],
    ),
    ("Mondays", days(1, 8, 15), "W-MON", ["2024-01-22T00:00:00", "2024-01-29T00:00:00"]),
    ("Mondays as W", days(1, 8, 15, freq="W"), "W-MON", ["2024-01-22T00:00:00", "2024-01-29T00:00:00"]),
    ("business days", days(4, 5, 8, 9, 10, 11, 12), "B", ["2024-01-15T00:00:00", "2024-01-16T00:00:00"]),
    ("days", days(1, 2, 3), "D", ["2024-01-04T00:00:00", "2024-01-05T00:00:00"]),
    ("old H", from_("2024-01-01", "H"), "h", ["2024-01-01T03:00:00", "2024-01-01T04:00:00"]),
    ("old T", from_("2024-01-01", "15T"), "15min", ["2024-01-01T00:45:00", "2024-01-01T01:00:00"]),
    ("old M, at ends", from_("2022-10-31", "M"), "ME", ["2023-01-31T00:00:00", "2023-02-28T00:00:00"]),
    ("old M, at starts", from_("2022-10-01", "M"), "MS", ["2023-01-01T00:00:00", "2023-02-01T00:00:00"]),
    ("old Q", from_("2022-03-31", "Q"), "QE-DEC", ["2022-12-31T00:00:00", "2023-03-31T00:00:00"]),
    ("old A", from_("2020-12-31", "A"), "YE-DEC", ["2023-12-31T00:00:00", "2024-12-31T00:00:00"]),
    ("new YE", from_("2020-12-31", "YE"), "YE-DEC", ["2023-12-31T00:00:00", "2024-12-31T00:00:00"]),
    ("zulu", days(1, 2, 3, tail="T06:00:00Z"), "D", ["2024-01-04T06:00:00Z", "2024-01-05T06:00:00Z"]),
    (
        "an offset",
        days(1, 2, 3, tail="T00:00:00-05:00"),
        "D",
        ["2024-01-04T00:00:00-05:00", "2024-01-05T00:00:00-05:00"],
    ),
    (
        "a zone whose clocks change",
        at(
            *(f"2024-03-0{day}T00:00:00-05:00" for day in (7, 8, 9)),
            timezone="America/New_York",
        ),
        "D",
        ["2024-03-10T00:00:00-05:00", "2024-03-11T00:00:00-04:00"],
    ),
]


@pytest.mark.parametrize(("given", "freq", "ahead"), [row[1:] for row in GOES_ON], ids=[row[0] for row in GOES_ON])
def test_the_forecast_goes_on_where_the_series_ends(
    ask: Ask, given: dict[str, Any], freq: str, ahead: list[str]
) -> None:
    found = ask(horizon=2, series=[given], response_options={"timestamps": True}).json()
    assert found["warnings"] == []
    (forecast,) = found["forecasts"]
    assert (forecast["freq"], forecast["start_timestamp"], forecast["timestamps"]) == (freq, ahead[0], ahead)


def test_timestamps_only_when_asked_for(ask: Ask) -> None:
    assert "timestamps" not in ask().json()["forecasts"][0]
    assert "timestamps" not in ask(response_options={"timestamps": False}).json()["forecasts"][0]


def test_start_and_freq_say_what_timestamps_do(ask: Ask) -> None:
    long = at(*(f"2022-{month:02}-01" for month in range(1, 13)))
    short = {"id": "shop-7", "target": long["target"], "start": "2022-01-01", "freq": "MS"}
    assert ask(series=[long]).json()["forecasts"] == ask(series=[short]).json()["forecasts"]


def test_unsorted_timestamps_are_sorted_with_a_warning(ask: Ask) -> None:
    ordered = days(1, 2, 3, 4)
    mixed = {
        key: [value[i] for i in (2, 0, 3, 1)] if isinstance(value, list) else value for key, value in ordered.items()
    }
    found = ask(series=[mixed]).json()
    assert found["forecasts"] == ask(series=[ordered]).json()["forecasts"]
    (warning,) = found["warnings"]
    assert "shop-7" in warning
    assert "sorted" in warning


@pytest.mark.parametrize("freq", ["auto", "D"])
def test_gaps_become_missing_values_with_a_warning(ask: Ask, freq: str) -> None:
    found = ask(series=[days(1, 2, 4, 5, 6, 7, freq=freq)]).json()
    (warning,) = found["warnings"]
    assert "1 missing" in warning
    assert found["usage"]["context_length"] == 7
    assert found["forecasts"][0]["start_timestamp"] == "2024-01-08T00:00:00"


FAULTS: list[tuple[str, dict[str, Any], list[str], str]] = [
    ("duplicates", days(1, 2, 2), ["timestamps[1]", "timestamps[2]"], "one value per time"),
    (
        "off the grid",
        at("2024-01-01", "2024-01-02", "2024-01-02T12:00", freq="D"),
        ["timestamps[1]", "timestamps[2]"],
        "",
    ),
    ("no frequency", days(1, 3, 6, 8, 13, 20), [], "freq"),
    ("two for auto", days(1, 2), ["3 timestamps"], "freq"),
    ("another anchor", days(1, 8, 15, freq="W-SUN"), ["W-SUN"], "W-MON"),
    ("another edge", at("2022-10-01", "2022-11-01", "2022-12-01", freq="ME"), ["ME"], "MS"),
    ("no such freq", days(1, 2, 3, freq="fortnight"), ["freq"], "MS"),
    ("no such zone", days(1, 2, 3, timezone="Mars/Olympus"), ["zone"], ""),
    ("not a time", at("2024-01-01", "2024-01-02", "2024-13-03"), ["timestamps[2]"], ""),
    ("mixed offsets", at("2024-01-01T00:00:00Z", "2024-01-02T00:00:00"), [], ""),
    ("too few times", {**days(1, 2, 3), "target": [1.0, 2.0]}, ["3", "2"], "one timestamp per target"),
    ("neither", {"id": "shop-7", "target": [1.0]}, ["timestamps", "start"], "start"),
    ("both", days(1, 2, 3, start="2024-01-01", freq="D"), ["timestamps", "start"], "start"),
    ("start alone", {"id": "shop-7", "target": [1.0], "start": "2024-01-01"}, ["freq"], "freq"),
    ("a bad start", from_("yesterday", "D"), ["start"], ""),
    ("no value", {**from_("2024-01-01", "D"), "target": [None, None]}, ["no value"], "number"),
    ("a short past", {**from_("2024-01-01", "D"), "past_covariates": {"x": [1, 2]}}, ["past_covariates.x", "3"], "3"),
    (
        "a long future",
        {**from_("2024-01-01", "D"), "past_covariates": {"x": [1, 2, 3]}, "future_covariates": {"x": [1, 2, 3, 4]}},
        ["future_covariates.x", "3"],
        "3",
    ),
    ("a future alone", {**from_("2024-01-01", "D"), "future_covariates": {"x": [1, 2, 3]}}, ["x"], "past_covariates"),
    ("mixed kinds", {**from_("2024-01-01", "D"), "past_covariates": {"x": [1, "2", 3]}}, ["index 1"], "text"),
    (
        "kinds that differ",
        {**from_("2024-01-01", "D"), "past_covariates": {"x": [1, 2, 3]}, "future_covariates": {"x": ["1", "2", "3"]}},
        ["x"],
        "text",
    ),
]


@pytest.mark.parametrize(("given", "said", "hint"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS])
def test_a_fault_names_the_series_and_the_fix(ask: Ask, given: dict[str, Any], said: list[str], hint: str) -> None:
    for path in ("/v1/forecast", "/api/validate"):
        found = refused(ask(path, series=[given]), 400, "INVALID_SERIES")
        assert "shop-7" in found["error"]
        assert found["detail"]["series"] == "shop-7"
        assert all(part in found["error"] for part in said), found
        assert found["hint"]
        assert hint in found["hint"]


@pytest.mark.parametrize("token", ["Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["target", "past_covariates", "future_covariates", "static_covariates", "actuals"])
def test_an_infinite_number_is_refused(api: httpx.Client, field: str, token: str) -> None:
    whole: dict[str, Any] = {
        "target": [1, "@", 3],
        "past_covariates": {"x": [1, "@", 3]},
        "future_covariates": {"x": [1, "@", 3]},
        "static_covariates": {"x": "@"},
        "actuals": [1, "@", 3],
    }
    given = {**from_("2024-01-01", "D"), "past_covariates": {"x": [1, 2, 3]}, field: whole[field]}
    body = json.dumps(request(series=[given], parameters={"metrics": {"names": ["mae"]}} if field == "actuals" else {}))
    found = refused(api.post("/v1/forecast", content=body.replace('"@"', token)), 400, "INVALID_SERIES")
    assert field in found["error"]
    if field.startswith(("target", "past", "future")):
        assert found["detail"]["index"] == 1


def test_null_and_nan_are_missing_values(api: httpx.Client) -> None:
    body = json.dumps(request(series=[series(target=[1, "@", 3, 4])]))
    with_nan, with_null = (api.post("/v1/forecast", content=body.replace('"@"', t)) for t in ("NaN", "null"))
    assert with_nan.json()["forecasts"] == with_null.json()["forecasts"]
    assert "null" not in json.dumps(with_nan.json()["forecasts"])


@pytest.mark.parametrize("value", ["1" + "0" * 400, "-1" + "0" * 400])
def test_a_whole_number_beyond_a_float_is_the_clients_fault(api: httpx.Client, value: str) -> None:
    body = json.dumps(request(series=[series(target=[1, "@", 3])])).replace('"@"', value)
    assert api.post("/v1/forecast", content=body).status_code == 400
