"""Series that 32-bit arithmetic cannot hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tollama.rescale import rescaling

WAVES = 50 + 8 * np.sin(np.arange(100.0))


@pytest.mark.parametrize(
    "values",
    [
        WAVES,
        -WAVES,
        np.round(WAVES),
        WAVES * 1e12,
        WAVES * 1e-12,
        WAVES + 1e6,
        np.zeros(5),
        np.full(5, 1e9),
        np.array([3.0]),
        np.array([np.nan, 3.0, np.nan]),
        np.where(np.arange(100) == 3, np.nan, WAVES),
    ],
)
def test_an_ordinary_series_is_left_alone(values: np.ndarray) -> None:
    assert rescaling(values) is None


@pytest.mark.parametrize(
    "values",
    [
        WAVES * 1e30,
        WAVES * 1e-30,
        WAVES * 1e305,
        WAVES * 1e-305,
        np.full(5, 1e30),
        np.full(5, -1e-30),
        1e9 + WAVES,
        -1e12 - WAVES,
        1e30 * (1 + WAVES * 1e-9),
        np.where(np.arange(100) == 3, 1e30, WAVES),
        np.array([1e308, -1e308]),
        np.where(np.arange(100) < 50, np.nan, WAVES * 1e20),
    ],
)
def test_one_beyond_float32_comes_within_it_and_back_exactly(values: np.ndarray) -> None:
    change = rescaling(values)
    assert change is not None
    inside = change.apply(values)
    seen = inside[~np.isnan(inside)].astype(np.float32)
    assert np.isfinite(np.square(seen)).all()
    assert 1e-15 <= np.abs(seen).max() <= 1e15
    if np.unique(values[~np.isnan(values)]).size > 1:
        assert np.unique(seen).size > 1
    np.testing.assert_array_equal(change.restore(inside), values)


def test_a_series_far_from_zero_keeps_its_detail() -> None:
    change = rescaling(1e9 + WAVES)
    assert change is not None
    inside = change.apply(1e9 + WAVES).astype(np.float32)
    np.testing.assert_allclose(np.diff(inside), np.diff(WAVES), atol=1e-6)


@given(arrays(float, st.integers(1, 20), elements=st.floats(-1e308, 1e308)))
def test_any_series_can_be_cast_afterwards(values: np.ndarray) -> None:
    change = rescaling(values)
    inside = values if change is None else change.apply(values)
    with np.errstate(over="raise"):
        assert np.isfinite(np.square(inside.astype(np.float32))).all()


def test_a_forecast_beyond_float64_becomes_infinite_without_a_warning() -> None:
    change = rescaling(np.array([1e307, 2e307]))
    assert change is not None
    with np.errstate(all="raise"):
        assert np.isinf(change.restore(np.array([1e6]))).all()
