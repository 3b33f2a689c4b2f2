"""The wire types and the error tree, without a server."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tollama
from tollama import errors
from tollama.contract import ForecastRequest, parse, quantile_key
from tollama.errors import ErrorRecord, InvalidRequest, TollamaError, from_record, http_table

SERIES = {"id": "a", "target": [1.0, 2.0], "start": "2022-01-01", "freq": "D"}
REQUEST: dict[str, Any] = {"model": "mock", "horizon": 2, "series": [SERIES]}


def parsed(**changes: Any) -> ForecastRequest:
    return parse(ForecastRequest, json.dumps({**REQUEST, **changes}).encode())


def test_defaults() -> None:
    request = parsed()
    assert request.quantiles == [0.1, 0.5, 0.9]
    assert (request.options, request.timeout, request.keep_alive, request.stream) == ({}, None, None, None)
    assert request.parameters.covariates_mode == "best_effort"
    assert (request.response_options.timestamps, request.response_options.partial) == (False, False)
    assert request.series[0].past_covariates == {}
    assert request.series[0].model_copy().freq == "D"


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"horizon": "1"}, ["horizon"]),
        ({"horizon": 1.0}, ["horizon"]),
        ({"horizon": True}, ["horizon"]),
        ({"horizon": 0}, ["horizon"]),
        ({"horizon": 16385}, ["horizon"]),
        ({"series": []}, ["series"]),
        ({"series": [SERIES, SERIES]}, []),
        ({"quantiles": [0.5, 0.1]}, ["quantiles"]),
        ({"quantiles": [0.5, 0.5]}, ["quantiles"]),
        ({"quantiles": [0.0]}, ["quantiles", 0]),
        ({"quantiles": [1.0]}, ["quantiles", 0]),
        ({"quantiles": [(i + 1) / 102 for i in range(100)]}, ["quantiles"]),
        ({"timeout": 0}, ["timeout"]),
        ({"timeout": float("inf")}, ["timeout"]),
        ({"unknown": 1}, ["unknown"]),
        ({"series": [{**SERIES, "target": ["1"]}]}, ["series", 0, "target", 0]),
        ({"series": [{**SERIES, "target": [True]}]}, ["series", 0, "target", 0]),
        ({"series": [{**SERIES, "target": []}]}, ["series", 0, "target"]),
        ({"series": [{**SERIES, "extra": 1}]}, ["series", 0, "extra"]),
        ({"parameters": {"metrics": {"names": ["mea"]}}}, ["parameters", "metrics", "names", 0]),
    ],
)
def test_what_breaks_the_schema_says_where(changes: dict[str, Any], where: list[Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parsed(**changes)
    assert caught.value.detail[0]["loc"] == where
    assert set(caught.value.detail[0]) == {"loc", "msg", "type"}


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parsed(horizon=0, model=1, timeout=-1, x=1)
    assert {tuple(fault["loc"]) for fault in caught.value.detail} == {("horizon",), ("model",), ("timeout",), ("x",)}


def test_a_body_that_is_no_json_is_not_echoed() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(ForecastRequest, b'{"model": secret')
    assert "secret" not in json.dumps(caught.value.record.body())


def test_an_int_is_fine_where_a_number_is_meant_and_null_and_nan_are_missing() -> None:
    request = parse(
        ForecastRequest, json.dumps({**REQUEST, "series": [{**SERIES, "target": [1, None, float("nan")]}]}).encode()
    )
    first, second, third = request.series[0].target
    assert first == 1.0
    assert second is None
    assert third != third


def test_an_answer_has_at_most_20_million_numbers() -> None:
    series = [{**SERIES, "id": str(i)} for i in range(306)]
    parsed(horizon=16384, series=series[:305])
    with pytest.raises(InvalidRequest, match="20,000,000"):
        parsed(horizon=16384, series=series)


@given(st.floats(min_value=1e-9, max_value=1 - 1e-9))
def test_a_quantiles_key_reads_back_as_the_same_number(level: float) -> None:
    assert float(quantile_key(level)) == level


def test_keys_are_the_shortest_text() -> None:
    assert [quantile_key(q) for q in (0.1, 0.5, 0.25, 0.025)] == ["0.1", "0.5", "0.25", "0.025"]


def test_every_error_survives_the_way_between_processes_and_back_from_a_record() -> None:
    for code, cls in http_table().items():
        error = cls("What went wrong.", detail=[1], hint="Do this.")
        assert error.code == code
        assert 400 <= error.status < 600
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), copy.record) == (cls, error.record)
        assert type(from_record(error.record)) is cls
        assert from_record(error.record).record == error.record


def test_the_tree_that_is_drawn_is_the_tree() -> None:
    drawn = {}
    for line in (errors.__doc__ or "").splitlines():
        words = line.replace("├──", "").replace("└──", "").replace("│", "").split()
        if len(words) == 3 and words[1].isdigit():
            drawn[words[0]] = (int(words[1]), words[2])
    drawn["Internal"] = (500, "INTERNAL")
    assert drawn == {cls.__name__: (cls.status, code) for code, cls in http_table().items()}


def test_a_long_detail_is_cut_and_says_so() -> None:
    body = ErrorRecord("e", "C", list(range(250))).body()
    assert len(body["detail"]) == 101
    assert body["detail"][-1] == "... and 150 more"


def test_an_unknown_code_becomes_internal() -> None:
    assert from_record(ErrorRecord("e", "NEW")).status == 500


def test_public_names() -> None:
    for name in tollama.__all__:
        assert getattr(tollama, name) is not None
    assert {"ForecastRequest", "ForecastResponse", "SeriesInput", "SeriesForecast", "Client"} <= set(tollama.__all__)
    assert issubclass(tollama.TollamaError, Exception)
    assert tollama.TollamaError is TollamaError
