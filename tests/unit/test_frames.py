"""Tables to requests and answers to tables."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tollama.contract import ForecastRequest, ForecastResponse, SeriesForecast
from tollama.errors import InvalidRequest, InvalidSeries
from tollama.frames import Columns, clocks, future, points, read, request, tidy

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
STAMPS = ["2024-01-01", "2024-01-02", "2024-01-03"]


def table(text: str) -> pd.DataFrame:
    frame = read(text.encode())
    assert isinstance(frame, pd.DataFrame)
    return frame


def series(text: str, horizon: int = 1, **columns: Any) -> list[dict[str, Any]]:
    asked = request(table(text), "m", horizon, Columns(**columns))
    ForecastRequest.model_validate_json(json.dumps(asked))
    return list(asked["series"])


@pytest.mark.parametrize("header", ["unique_id,ds,y", "item_id,timestamp,target", "ID,Date,Value"])
def test_known_layouts(header: str) -> None:
    a, b = series(f"{header}\nb,2024-01-01,1\nb,2024-01-02,2\na,2024-01-01,3\n")
    assert (a["id"], a["target"], a["timestamps"]) == ("b", [1.0, 2.0], ["2024-01-01", "2024-01-02"])
    assert (b["id"], b["target"]) == ("a", [3.0])
    assert a["freq"] == "auto"


def test_without_ids_the_series_is_named_after_its_target() -> None:
    assert [one["id"] for one in series("date,value\n2024-01-01,1\n")] == ["value"]
    assert [one["id"] for one in series("date,kind,temp_max\n2024-01-01,rain,1\n")] == ["temp_max"]


def test_columns_by_name() -> None:
    text = "shop,day,sales,cost\n007,2024-01-01,1,2\n"
    (one,) = series(text, id="shop", time="day", target="cost")
    assert (one["id"], one["target"]) == ("007", [2.0])


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separators_and_a_byte_order_mark(separator: str) -> None:
    assert series("\ufeffds,y\n2024-01-01,5\n".replace(",", separator))[0]["target"] == [5.0]


def test_missing_values_are_null_and_infinite_ones_are_left_to_the_server() -> None:
    (one,) = series("ds,y\n2024-01-01,\n2024-01-02,NaN\n2024-01-03,2\n")
    assert one["target"] == [None, None, 2.0]
    asked = request(table("ds,y\n2024-01-01,inf\n"), "m", 1)
    assert asked["series"][0]["target"] == [float("inf")]


@pytest.mark.parametrize(("name", "given"), [("unique_id", None), ("region", "region")])
def test_a_series_may_be_called_as_a_missing_value_is_written(name: str, given: str | None) -> None:
    frame = read(f"{name},ds,y\nNA,2024-01-01,NA\nNA,2024-01-02,null\nnull,2024-01-01,1\n".encode(), given)
    assert isinstance(frame, pd.DataFrame)
    asked = request(frame, "m", 1, Columns(id=given))["series"]
    assert [(one["id"], one["target"]) for one in asked] == [("NA", [None, None]), ("null", [1.0])]


def test_what_is_in_the_index_and_a_column_too() -> None:
    frame = pd.DataFrame({"id": "a", "ds": pd.to_datetime(STAMPS), "y": [1.0, 2.0, 3.0]})
    for kept in ("ds", ["id", "ds"]):
        (one,) = request(frame.set_index(kept, drop=False), "m", 1)["series"]
        assert one["target"] == [1.0, 2.0, 3.0]
    named = frame.rename(columns={"ds": "timestamp"})
    same = named.set_index(pd.DatetimeIndex(named["timestamp"].to_numpy()))
    assert request(same, "m", 1)["series"][0]["timestamps"][0] == "2024-01-01T00:00:00"
    other = named.set_index(pd.date_range("2020-01-01", periods=3))
    with pytest.raises(InvalidRequest, match="'timestamp' twice"):
        request(other, "m", 1)


def test_two_columns_of_one_name() -> None:
    with pytest.raises(InvalidRequest, match="two columns 'y'"):
        request(pd.DataFrame([["2024-01-01", 1.0, 2.0]], columns=["ds", "y", "y"]), "m", 1)


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("2024-01-01T10:00:00+02:00", "2024-01-01T10:00:00+02:00"),
        ("2024-01-01 10:00", "2024-01-01 10:00"),
        ("2024/01/31 10:00:00", "2024-01-31T10:00:00"),
        ("1949-02", "1949-02-01T00:00:00"),
        ("2001", "2001-01-01T00:00:00"),
        ("20240131", "2024-01-31T00:00:00"),
    ],
)
def test_times(written: str, sent: str) -> None:
    assert series(f"ds,y\n{written},1\n")[0]["timestamps"] == [sent]


def test_known_future_columns_take_their_future_from_the_rows_without_target() -> None:
    text = "id,ds,y,price,kind\na,2024-01-03,,7,x\na,2024-01-01,1,5,w\na,2024-01-02,2,6,w\nb,2024-01-01,1,1,w\n"
    text += "b,2024-01-02,,2,x\nb,2024-01-03,,3,x\n"
    a, b = series(text, known_future=("price", "kind"))
    assert a["target"] == [1.0, 2.0]
    assert a["past_covariates"] == {"price": [5.0, 6.0], "kind": ["w", "w"]}
    assert a["future_covariates"] == {"price": [7.0], "kind": ["x"]}
    assert b["future_covariates"]["price"] == [2.0]
    with pytest.raises(InvalidSeries, match="knows 1 steps of its future; the horizon is 2") as short:
        series(text, horizon=2, known_future=("price",))
    assert short.value.series_id == "a"


@pytest.mark.parametrize(
    ("text", "columns", "said"),
    [
        ("when,y\n2024-01-01,1\n", {}, "No time column"),
        ("ds,a,b\n2024-01-01,1,2\n", {}, "No target column"),
        ("ds,y\n2024-01-01,1\n", {"target": "z"}, "no column 'z'"),
        ("ds,y\n2024-01-01,1\n2024-01-02,x\n", {}, "'y' is not a number in data row 2"),
        ("ds,y\nyesterday,1\n", {}, "no format that is recognised"),
        ("ds,y\n,1\n", {}, "no time in data row 1"),
        ("id,ds,y\n,2024-01-01,1\n", {}, "rows without an id"),
    ],
)
def test_faults_of_a_table(text: str, columns: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as fault:
        series(text, **columns)
    assert fault.value.hint


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xfe\x00", b"{", b"[1,", b'{"horizon": 1}', b"PAR1broken", b"a\n1,2,3\n4,5"]
)
def test_unreadable_files(data: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read(data)


def test_other_formats() -> None:
    frame = pd.DataFrame({"ds": pd.to_datetime(STAMPS).tz_localize("Europe/Berlin"), "y": [1, 2, 3]})
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    back = read(buffer.getvalue())
    assert isinstance(back, pd.DataFrame)
    (one,) = request(back, "m", 1)["series"]
    assert one["timestamps"][0] == "2024-01-01T00:00:00+01:00"
    records = read(json.dumps([{"ds": stamp, "y": 1} for stamp in STAMPS]).encode())
    assert isinstance(records, pd.DataFrame)
    assert request(records, "m", 1)["series"][0]["timestamps"] == STAMPS
    assert read(b' {"series": [], "horizon": 2}') == {"series": [], "horizon": 2}


def test_the_index_of_a_frame_may_be_its_time_and_the_frame_is_left_alone() -> None:
    frame = pd.DataFrame({"y": [1, 2]}, index=pd.DatetimeIndex(STAMPS[:2], name="ds"))
    assert request(frame, "m", 1)["series"][0]["timestamps"] == ["2024-01-01T00:00:00", "2024-01-02T00:00:00"]
    assert list(frame.columns) == ["y"]


def answer(*forecasts: dict[str, Any]) -> ForecastResponse:
    timing = dict.fromkeys(("total_ms", "queue_ms", "model_load_ms", "inference_ms"), 0.0)
    usage = {"runner": "mock", "device": "cpu", "model_load_ms": 0, "inference_ms": 0, "batch_series": 1}
    usage |= {"series_count": 1, "horizon": 2, "context_length": 3, "peak_memory_mb": 0}
    body = {"model": "m", "forecasts": forecasts, "timing": timing, "usage": usage}
    return ForecastResponse.model_validate(body)


ONE = {"id": "a", "freq": "MS", "start_timestamp": "2024-02-01T00:00:00", "mean": [1.0, 2.0], "point": "mean"}


def test_tidy() -> None:
    failed = {"id": "b", "error": {"error": "no", "code": "INVALID_SERIES"}}
    frame = tidy(answer(ONE | {"quantiles": {"0.1": [0.0, 1.0]}}, failed, ONE | {"id": "c", "quantiles": {}}))
    assert list(frame.columns) == ["id", "timestamp", "mean", "0.1"]
    assert frame["id"].tolist() == ["a", "a", "c", "c"]
    assert frame["timestamp"].tolist()[:2] == ["2024-02-01T00:00:00", "2024-03-01T00:00:00"]
    assert tidy(answer(failed)).empty


def test_points_of_a_chart() -> None:
    forecast = SeriesForecast.model_validate(ONE | {"quantiles": {}})
    times, values = points({"target": [1, None], "start": "2023-12-01", "freq": "MS"}, forecast)
    assert [time.isoformat() for time in times] == ["2023-12-01T00:00:00", "2024-01-01T00:00:00"]
    assert values[0] == 1.0
    assert values[1] != values[1]
    unsorted = {"target": [2, 1], "timestamps": ["2024-01-01T00:00:00Z", "2023-12-01T00:00:00Z"]}
    assert points(unsorted, forecast)[1] == [1.0, 2.0]
    assert clocks(forecast)[1].isoformat() == "2024-03-01T00:00:00"
    assert future(forecast.model_copy(update={"timestamps": ["x", "y"]})) == ["x", "y"]


@pytest.mark.parametrize(
    ("name", "length", "total"),
    [("airline_passengers", 144, 40_363), ("seattle_weather", 1461, 24_017.5), ("sf_temps", 1440, 75_909.7)],
)
def test_example_series(name: str, length: int, total: float) -> None:
    frame = read((EXAMPLES / f"{name}.csv").read_bytes())
    assert isinstance(frame, pd.DataFrame)
    (one,) = request(frame, "m", 12)["series"]
    assert len(one["target"]) == len(one["timestamps"]) == length
    assert sum(one["target"]) == pytest.approx(total)


@pytest.mark.parametrize("name", ["request.json", "request_covariates.json"])
def test_example_requests_are_valid(name: str) -> None:
    ForecastRequest.model_validate_json((EXAMPLES / name).read_bytes())
