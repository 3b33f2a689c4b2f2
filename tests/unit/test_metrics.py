"""Metrics against numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tollama.contract import METRIC_NAMES
from tollama.metrics import METRICS, score, summary

NAN = math.nan
ACTUALS = np.array([10.0, 20.0, NAN, 0.0])
MEAN = np.array([12.0, 16.0, 99.0, 2.0])
LEVELS = (0.1, 0.9)
QUANTILES = np.array([[8.0, 15.0, 0.0, 1.0], [14.0, 18.0, 0.0, 4.0]])
HISTORY = np.array([1.0, 2.0, 3.0, 6.0, NAN, 4.0])

# the errors are -2, 4, -2; the history's steps at season 2 are 2, 4 and -2, the others have a NaN
BY_HAND = {
    "mae": 8 / 3,
    "rmse": math.sqrt(24 / 3),
    "mape": (2 / 10 + 4 / 20) / 2,
    "smape": (2 * 2 / 22 + 2 * 4 / 36 + 2) / 3,
    "wape": 8 / 30,
    "mase": (8 / 3) / (8 / 3),
    "rmsse": math.sqrt((24 / 3) / (24 / 3)),
    # level 0.1: 0.2, 0.5 and, above the actual, 0.9; level 0.9: 0.4, 1.8 and 0.4
    "pinball": (0.2 + 0.5 + 0.9 + 0.4 + 1.8 + 0.4) / 6,
    "wql": 2 * (0.2 + 0.5 + 0.9 + 0.4 + 1.8 + 0.4) / (2 * 30),
    "coverage": 1 / 3,
}


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_by_hand(name: str) -> None:
    found = score([name], ACTUALS, MEAN, QUANTILES, LEVELS, HISTORY, 2)
    assert found == {name: pytest.approx(BY_HAND[name], rel=1e-12)}


def test_every_metric_of_the_contract_is_there_and_no_other() -> None:
    assert set(METRICS) == set(METRIC_NAMES)


def test_a_perfect_forecast_scores_zero() -> None:
    actuals = np.array([1.0, 0.0, 3.0])
    found = score(METRIC_NAMES, actuals, actuals, np.tile(actuals, (2, 1)), LEVELS, np.array([1.0, 2.0]), 1)
    assert found == {**dict.fromkeys(METRIC_NAMES, 0.0), "coverage": 1.0}


def test_what_is_not_defined_is_none() -> None:
    zeros = np.zeros(3)
    flat = score(METRIC_NAMES, zeros, zeros + 1, np.empty((0, 3)), (), np.full(9, 5.0), 1)
    assert {name for name, value in flat.items() if value is None} == {
        "mape", "wape", "mase", "rmsse", "pinball", "wql", "coverage"
    }  # fmt: skip
    assert flat["smape"] == 2.0


@pytest.mark.parametrize("season", [2, 3, 12])
def test_a_history_no_longer_than_the_season_gives_no_scaled_error(season: int) -> None:
    one = np.array([1.0])
    found = score(["mase", "rmsse"], one, one, np.empty((0, 1)), (), np.array([1.0, 2.0]), season)
    assert found == {"mase": None, "rmsse": None}


def test_without_any_actual_nothing_is_defined() -> None:
    nothing = np.full(2, NAN)
    assert score(["mae", "wql"], nothing, np.ones(2), np.ones((2, 2)), LEVELS, HISTORY, 1) == {"mae": None, "wql": None}


def test_one_level_has_a_pinball_loss_but_no_coverage() -> None:
    found = score(["pinball", "coverage"], np.array([4.0]), np.array([4.0]), np.array([[2.0]]), (0.25,), HISTORY, 1)
    assert found == {"pinball": 0.5, "coverage": None}


def test_an_overflow_is_none_and_warns_nobody(recwarn: pytest.WarningsRecorder) -> None:
    huge = np.array([1e300])
    assert score(["rmse"], huge, -huge, np.empty((0, 1)), (), HISTORY, 1) == {"rmse": None}
    assert not recwarn.list


def test_the_summary_is_the_mean_over_the_series_where_defined() -> None:
    assert summary([{"mae": 1.0, "mase": None}, {"mae": 3.0, "mase": 4.0}]) == {"mae": 2.0, "mase": 4.0}
    assert summary([{"mape": None}]) == {"mape": None}
    assert summary([]) == {}
