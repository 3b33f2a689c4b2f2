"""The model for people who write clients: its answers can be told beforehand."""

from __future__ import annotations

import time
from statistics import NormalDist

import numpy as np
import pytest

from deployments.adapters.mock import Mock
from tollama.capabilities import Capabilities
from tollama.seam import Item, ItemFailure, ItemForecast, ModelRef, Placement, Task

REF = ModelRef("mock", "mock", "mock", None, "0" * 64, Capabilities(max_context=100, max_horizon=100))
TASK = Task(5, (0.1, 0.5, 0.9), {})


def forecast(target: list[float], season: int = 3, task: Task = TASK) -> ItemForecast:
    mock = Mock()
    answer = mock.forecast(mock.load(REF, Placement()), [Item("a", np.array(target), "D", season)], task)[0]
    assert isinstance(answer, ItemForecast)
    return answer


def test_it_repeats_the_last_season_and_spreads_by_a_quarter_of_the_range() -> None:
    answer = forecast([1, 2, 3, 4, 5, 9])
    assert answer.mean.tolist() == [4, 5, 9, 4, 5]
    np.testing.assert_array_equal(answer.quantiles[1], answer.mean)
    np.testing.assert_allclose(answer.quantiles[2] - answer.mean, NormalDist(0, 2).inv_cdf(0.9))
    np.testing.assert_allclose(answer.quantiles[0] - answer.mean, NormalDist(0, 2).inv_cdf(0.1))


@pytest.mark.parametrize(
    ("target", "mean"),
    [
        ([1, 2], [2, 2, 2, 2, 2]),
        ([7], [7, 7, 7, 7, 7]),
        ([1, 2, 3, 4, np.nan, 9], [4, 9, 9, 4, 9]),
        ([1, 2, np.nan, np.nan, np.nan], [2, 2, 2, 2, 2]),
        ([5, np.nan], [5, 5, 5, 5, 5]),
    ],
)
def test_short_histories_and_missing_values_fall_back_on_the_last_value(target: list[float], mean: list[float]) -> None:
    assert forecast(target).mean.tolist() == mean


def test_it_fails_in_the_way_it_is_asked_to() -> None:
    items = [Item(name, np.arange(6.0), "D", 3) for name in ("fail 1", "b")]

    def failing(way: str) -> list[ItemForecast | ItemFailure]:
        return Mock().forecast("mock", items, Task(5, (0.5,), {"fail": way}))

    with pytest.raises(RuntimeError):
        failing("raise")
    first, second = failing("item")
    assert isinstance(first, ItemFailure)
    assert first.record.code == "RUNNER_FAILED"
    assert isinstance(second, ItemForecast)
    assert all(isinstance(a, ItemForecast) and np.isnan(a.mean).all() for a in failing("non_finite"))
    assert all(isinstance(a, ItemForecast) and np.isfinite(a.mean).all() for a in failing("none"))


def test_it_waits_as_long_as_it_is_asked_to() -> None:
    start = time.perf_counter()
    forecast([1, 2, 3], task=Task(5, (), {"delay_s": 0.05}))
    assert time.perf_counter() - start >= 0.05


def test_it_is_instant() -> None:
    mock = Mock()
    items = [Item("a", np.arange(512.0), "D", 7)]
    best = np.inf
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(10):
            mock.forecast("mock", items, Task(24, (0.1, 0.5, 0.9), {}))
        best = min(best, (time.perf_counter() - start) / 10)
    assert best < 200e-6
