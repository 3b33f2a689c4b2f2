"""The statistical models beside the library called directly, and what they do where it cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tollama.families import families
from tollama.registry import find
from tollama.seam import Item, ItemForecast, ModelRef, Task

TARGET = families()["baseline"].adapters["statsforecast"]
STEPS = np.arange(96)
SALES = 200 + STEPS + 30 * np.sin(STEPS * np.pi / 6) + np.random.default_rng(3).normal(size=96) * 5
LEVELS = (0.025, 0.3, 0.5, 0.7, 0.975)
SHORT = "The history is too short for a season of 12 steps: none was modelled."


def ask(model: str, target: np.ndarray, season: int = 12, **options: Any) -> tuple[str, dict[str, Any]]:
    entry = find(model)
    ref = ModelRef(model, entry.family, entry.adapter, None, "0" * 64, entry.capabilities)
    item = Item("a", target, "MS", season)
    return "checks:one", {"target": TARGET, "ref": ref, "item": item, "task": Task(18, LEVELS, options)}


def library(model: str, target: np.ndarray, season: int = 12) -> tuple[str, dict[str, Any]]:
    spans = [0.0, 40.0, 95.0]
    return "checks:statsforecast", {"model": model, "season": season, "series": target, "horizon": 18, "spans": spans}


CALLS = {
    "seasonal-naive": ask("seasonal-naive", SALES),
    "auto-theta": ask("auto-theta", SALES),
    "auto-ets": ask("auto-ets", SALES),
    "SeasonalNaive": library("SeasonalNaive", SALES),
    "AutoTheta": library("AutoTheta", SALES),
    "AutoETS": library("AutoETS", SALES),
    "an option": ask("seasonal-naive", SALES, season=12, season_length=6),
    "season of 6": library("SeasonalNaive", SALES, season=6),
    "short": ask("auto-theta", SALES[:20]),
    "Theta without season": library("AutoTheta", SALES[:20], season=1),
    "long season": ask("auto-ets", np.tile(SALES, 5), season=200),
    "shorter than a season": ask("seasonal-naive", SALES[:12]),
    "last value": library("SeasonalNaive", SALES[:12], season=1),
    "too short for Theta": ask("auto-theta", SALES[:3]),
    "too short for ETS": ask("auto-ets", SALES[:6], season=4),
    "one value": ask("auto-ets", SALES[:1]),
}


@pytest.fixture(scope="module")
def came(inside: Any) -> dict[str, Any]:
    results, _ = inside("baseline", *CALLS.values())
    return dict(zip(CALLS, results, strict=True))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("seasonal-naive", "SeasonalNaive"),
        ("auto-theta", "AutoTheta"),
        ("auto-ets", "AutoETS"),
        ("an option", "season of 6"),
        ("short", "Theta without season"),
        ("shorter than a season", "last value"),
    ],
)
def test_the_numbers_are_the_librarys_own(came: dict[str, Any], ours: str, theirs: str) -> None:
    forecast, result = came[ours], came[theirs]
    np.testing.assert_array_equal(forecast.mean, result["mean"])
    ends = [result[key] for key in ("lo-95.0", "lo-40.0", "hi-0.0", "hi-40.0", "hi-95.0")]
    np.testing.assert_array_equal(forecast.quantiles, ends)


@pytest.mark.parametrize("model", ["seasonal-naive", "auto-ets"])
def test_the_median_of_a_normal_model_is_its_mean(came: dict[str, Any], model: str) -> None:
    np.testing.assert_array_equal(came[model].quantiles[2], came[model].mean)


@pytest.mark.parametrize(
    ("case", "warnings"),
    [
        ("seasonal-naive", ()),
        ("auto-theta", ()),
        ("auto-ets", ()),
        ("short", (SHORT,)),
        ("shorter than a season", (SHORT,)),
        ("long season", ("A season of 200 steps is too long for AutoETS: none was modelled.",)),
        ("too short for Theta", (SHORT, "AutoTheta could not be fitted: the last value is repeated.")),
        ("too short for ETS", ("AutoETS could not be fitted: the last season is repeated.",)),
        (
            "one value",
            (
                SHORT,
                "AutoETS could not be fitted: the last value is repeated.",
                "One value tells nothing of the spread: the quantiles equal the forecast.",
            ),
        ),
    ],
)
def test_a_simpler_model_never_stands_in_silently(came: dict[str, Any], case: str, warnings: tuple[str, ...]) -> None:
    forecast: ItemForecast = came[case]
    assert forecast.warnings == warnings


def test_a_model_that_stands_in_forecasts_what_its_warning_says(came: dict[str, Any]) -> None:
    assert (came["too short for Theta"].mean == SALES[2]).all()
    np.testing.assert_array_equal(came["too short for ETS"].mean, np.tile(SALES[2:6], 5)[:18])
