"""Quantiles at other levels than the model's own."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tollama.quantiles import at_levels

TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
UNEVEN = (0.01, 0.05, 0.1, 0.25, 0.5, 0.9, 0.99)

natives = st.sampled_from([TENTHS, UNEVEN, (0.25, 0.75)])
levels = st.lists(st.floats(0.001, 0.999), min_size=1, max_size=20, unique=True).map(sorted)
numbers = st.floats(-1e300, 1e300)


def test_a_native_level_is_passed_on_to_the_last_bit() -> None:
    values = np.sort(np.random.default_rng(1).normal(size=(4, 9, 5)) * 1e7, axis=1)
    np.testing.assert_array_equal(at_levels(values, TENTHS, TENTHS), values)
    np.testing.assert_array_equal(at_levels(values, TENTHS, [0.3, 0.9]), values[:, [2, 8]])


def test_a_level_between_two_is_interpolated_linearly() -> None:
    values = np.array([[1.0], [3.0], [9.0]])
    np.testing.assert_allclose(at_levels(values, (0.1, 0.5, 0.9), [0.2, 0.6]), [[1.5], [4.5]])


def test_levels_outside_are_those_of_a_normal_distribution_with_these_quantiles() -> None:
    normal = NormalDist(100, 15)
    values = np.array([[normal.inv_cdf(level)] for level in TENTHS])
    asked = [0.001, 0.05, 0.95, 0.999]
    expected = [[normal.inv_cdf(level)] for level in asked]
    np.testing.assert_allclose(at_levels(values, TENTHS, asked), expected, rtol=1e-12)


def test_crossed_quantiles_are_put_in_order() -> None:
    values = np.array([[3.0, 1.0], [2.0, 2.0], [1.0, 3.0]])
    np.testing.assert_array_equal(at_levels(values, (0.1, 0.5, 0.9), [0.1, 0.5, 0.9]), [[1, 1], [2, 2], [3, 3]])


def test_the_order_of_the_levels_is_the_callers() -> None:
    values = np.array([[1.0], [2.0], [3.0]])
    np.testing.assert_array_equal(at_levels(values, (0.1, 0.5, 0.9), [0.9, 0.1]), [[3], [1]])
    assert at_levels(values, (0.1, 0.5, 0.9), []).shape == (0, 1)


@given(
    natives.flatmap(lambda native: st.tuples(st.just(native), arrays(float, (len(native), 3), elements=numbers))),
    levels,
)
def test_the_result_never_crosses_and_contains_no_nan(
    given_: tuple[tuple[float, ...], np.ndarray], asked: list[float]
) -> None:
    native, values = given_
    result = at_levels(values, native, asked)
    assert result.shape == (len(asked), 3)
    assert np.isfinite(result).all()
    assert (np.diff(result, axis=0) >= 0).all()
