"""Conformal quantiles: which origins, which errors, and how often the truth lies below."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollama.conformal import LEAST, ORIGINS, errors, naive_errors, origins, quantiles

NAN = np.nan


@given(st.integers(1, 3000), st.integers(1, 1024), st.integers(1, 200))
def test_origins_have_a_horizon_after_them_and_history_before(length: int, context: int, horizon: int) -> None:
    found = origins(length, context, horizon)
    assert len(found) == 0 or LEAST <= len(found) <= ORIGINS
    for at in found:
        assert at + horizon <= length
        assert at >= min(context, (length - horizon) // 2) >= 1
    assert sorted(set(found), reverse=True) == found
    if length >= context + horizon + ORIGINS:
        assert len(found) == ORIGINS
        assert found[0] == length - horizon
        assert found[-1] >= context


def test_origins_are_spread_over_the_history_but_not_over_all_the_ages() -> None:
    assert origins(512 + 24 + 38, 512, 24) == list(range(550, 511, -1))
    assert np.unique(np.diff(origins(1000, 512, 24))).tolist() == [-12]
    assert np.unique(np.diff(origins(100_000, 512, 24))).tolist() == [-24]


def test_too_short_a_history_has_no_origins() -> None:
    assert origins(24, 512, 24) == origins(10, 512, 24) == origins(36, 512, 24) == []
    assert len(origins(38, 512, 24)) == LEAST


def test_errors_are_what_came_less_what_was_forecast() -> None:
    history = np.arange(20.0)
    history[7] = NAN
    before = list(range(16, 2, -1))
    found = errors(history, before, np.tile([1.0, 2.0], (len(before), 1)))
    assert found is not None
    np.testing.assert_array_equal(found[0], [15.0, 15.0])
    np.testing.assert_array_equal(found[before.index(7)], [NAN, 6.0])
    np.testing.assert_array_equal(found[before.index(6)], [5.0, NAN])


def test_too_few_errors_of_a_step_are_none() -> None:
    history = np.arange(20.0)
    history[10:] = NAN
    before = list(range(16, 4, -1))
    assert errors(history, before, np.zeros((len(before), 2))) is None


def test_the_outermost_and_the_middle_error_by_rank() -> None:
    found = np.arange(-19.0, 20.0)[:, None] * [1.0, 10.0]
    levels = [0.01, 0.1, 0.5, 0.9, 0.9125, 0.99]
    expected = np.array([-19.0, -16.0, 0.0, 16.0, 16.5, 19.0])
    made = quantiles(np.array([100.0, 0.0]), found, levels)
    np.testing.assert_allclose(made, np.column_stack([100 + expected, 10 * expected]), atol=1e-12)


def test_missing_errors_are_left_out() -> None:
    found = np.array([[NAN], *([float(n)] for n in range(1, 10))])
    np.testing.assert_allclose(quantiles(np.zeros(1), found, [0.1, 0.5, 0.9])[:, 0], [1.0, 5.0, 9.0])


def test_errors_of_the_seasonal_naive_grow_with_the_seasons() -> None:
    history = np.tile([0.0, 10.0], 10) + np.repeat(np.arange(10.0) ** 2, 2)
    found = naive_errors(history, 2, 5)
    assert found is not None
    assert found.shape == (18, 5)
    np.testing.assert_allclose(found[:, 0], np.repeat(np.arange(1.0, 19.0, 2.0), 2) - 9)
    np.testing.assert_allclose(found[:, [1, 2, 4]], found[:, :1] * np.sqrt([1, 2, 3]))


def test_without_two_values_a_season_apart_the_last_value_is_repeated() -> None:
    np.testing.assert_allclose(
        naive_errors(np.array([1.0, 2.0, 5.0]), 12, 4), [[-1.0, -(2**0.5), -(3**0.5), -2.0], [1.0, 2**0.5, 3**0.5, 2.0]]
    )
    assert naive_errors(np.array([1.0]), 12, 4) is None
    assert naive_errors(np.array([NAN, 1.0, NAN, NAN]), 2, 4) is None


@pytest.mark.parametrize("kind", ["white", "skewed", "autoregressive"])
def test_coverage_is_about_the_level(kind: str) -> None:
    """A forecaster that knows the process: the share of truths below a quantile is the level, within the noise of 400
    series (three standard errors)."""
    rng = np.random.default_rng(11)
    horizon, levels = 4, (0.1, 0.5, 0.9)
    below = np.zeros((3, horizon))
    for _ in range(400):
        noise = rng.exponential(size=404) if kind == "skewed" else rng.normal(size=404)
        memory = 0.7 if kind == "autoregressive" else 0.0
        series = np.zeros(404)
        for step in range(404):
            series[step] = memory * series[step - 1] + noise[step]
        history, future = series[:400], series[400:]
        before = origins(400, 100, horizon)
        ahead = memory ** np.arange(1, horizon + 1)
        found = errors(history, before, np.array([history[at - 1] * ahead for at in before]))
        assert found is not None
        below += future < quantiles(history[-1] * ahead, found, levels)
    np.testing.assert_allclose(below / 400, np.tile(np.array(levels)[:, None], horizon), atol=0.06)
