"""Covariates and target as arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tollama.calendar import grid
from tollama.contract import SeriesInput
from tollama.covariates import arrays, target
from tollama.errors import InvalidSeries


def series(**more: Any) -> SeriesInput:
    return SeriesInput(**{"id": "shop", "target": [1.0, None, 3.0], "start": "2024-01-01", "freq": "D", **more})


def test_the_target_has_nan_where_a_value_is_missing() -> None:
    np.testing.assert_array_equal(target(series()), [1.0, math.nan, 3.0])


@pytest.mark.parametrize("infinite", [math.inf, -math.inf])
def test_an_infinite_target_is_refused_by_its_index(infinite: float) -> None:
    with pytest.raises(InvalidSeries) as caught:
        target(series(target=[1.0, None, infinite, infinite]))
    assert caught.value.detail == {"series": "shop", "field": "target", "index": 2}
    assert "null" in caught.value.hint


def test_numbers_become_floats_and_text_objects() -> None:
    one = series(
        past_covariates={"price": [1.0, None, 2.0], "day": ["mo", None, "we"], "holiday": [None, None, None]},
        future_covariates={"day": ["th", None]},
        static_covariates={"town": "Bern", "size": 3.0},
    )
    past, future, static = arrays(one, grid(one), 2)
    assert past["price"].dtype == np.float64
    np.testing.assert_array_equal(past["price"], [1.0, math.nan, 2.0])
    assert past["day"].dtype == object
    assert past["day"].tolist() == ["mo", None, "we"]
    assert past["holiday"].dtype == np.float64
    assert np.isnan(past["holiday"]).all()
    assert list(future) == ["day"]
    assert future["day"].tolist() == ["th", None]
    assert static == {"town": "Bern", "size": 3.0}


def test_past_covariates_are_sorted_and_completed_with_the_target() -> None:
    one = SeriesInput(
        id="a",
        target=[3.0, 1.0, 4.0],
        timestamps=["2024-01-02", "2024-01-01", "2024-01-04"],
        freq="D",
        past_covariates={"x": [30.0, 10.0, 40.0], "k": ["c", "a", "d"]},
    )
    past, _, _ = arrays(one, grid(one), 1)
    np.testing.assert_array_equal(past["x"], [10.0, 30.0, math.nan, 40.0])
    assert past["k"].tolist() == ["a", "c", None, "d"]


@pytest.mark.parametrize(
    ("more", "field", "index", "said"),
    [
        ({"past_covariates": {"x": [1.0]}}, "past_covariates.x", None, "1 values, target has 3"),
        (
            {"past_covariates": {"x": [1.0] * 3}, "future_covariates": {"x": [1.0] * 3}},
            "future_covariates.x",
            None,
            "3 values, the horizon has 2",
        ),
        ({"future_covariates": {"x": [1.0, 2.0]}}, "future_covariates.x", None, "has no past"),
        ({"past_covariates": {"x": [1.0, None, "a"]}}, "past_covariates.x", 2, "mixes numbers and text"),
        (
            {"past_covariates": {"x": [1.0] * 3}, "future_covariates": {"x": [None, "a"]}},
            "future_covariates.x",
            1,
            "mixes numbers and text",
        ),
        ({"past_covariates": {"x": [1.0, math.inf, 2.0]}}, "past_covariates.x", 1, "not a finite number"),
        ({"static_covariates": {"x": math.nan}}, "static_covariates.x", None, "not a finite number"),
    ],
)
def test_faults_name_the_series_the_field_and_the_fix(
    more: dict[str, Any], field: str, index: int | None, said: str
) -> None:
    one = series(**more)
    with pytest.raises(InvalidSeries, match=said) as caught:
        arrays(one, grid(one), 2)
    assert (caught.value.series_id, caught.value.field, caught.value.index) == ("shop", field, index)
    assert "shop" in str(caught.value)
    assert caught.value.hint


def test_a_future_of_text_fits_a_past_without_values() -> None:
    one = series(past_covariates={"x": [None] * 3}, future_covariates={"x": ["a", "b"]})
    past, future, _ = arrays(one, grid(one), 2)
    assert past["x"].dtype == object
    assert future["x"].tolist() == ["a", "b"]
