"""One contract for every adapter, each in its own environment, on a small model of the real architecture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tollama.families import families
from tollama.registry import find
from tollama.rescale import WARNING
from tollama.seam import Item, ItemForecast, ModelRef, Task

SEASON = 12
TASK = Task(24, (0.1, 0.25, 0.5, 0.9), {})
LONGER = 150
CONTRACT = "checks:contract"


def waves(length: int) -> np.ndarray:
    steps = np.arange(length)
    noise = np.random.default_rng(7).normal(size=length)
    return 50 + 0.1 * steps + 8 * np.sin(2 * np.pi * steps / SEASON) + noise


def gaps(*missing: slice) -> np.ndarray:
    target = waves(120)
    for where in missing:
        target[where] = np.nan
    return target


SERIES = {
    "plain": waves(120),
    "constant": np.full(60, 5.0),
    "zeros": np.zeros(60),
    **{f"length {length}": waves(length) for length in (1, 2, 3, 4, 5, SEASON, SEASON + 1, 2 * SEASON)},
    "two equal": np.array([3.0, 3.0]),
    "whole numbers": np.round(waves(100)),
    "negative": -waves(100),
    "intermittent": np.where(np.arange(100) % 7 == 0, 3.0, 0.0),
    "huge": waves(100) * 1e30,
    "tiny": waves(100) * 1e-30,
    "far from zero": 1e9 + waves(100),
    "one spike": np.where(np.arange(100) == 60, 1e30, waves(100)),
    "near the end of float64": waves(100) * 1e305,
}
RESCALED = {"huge", "tiny", "far from zero", "one spike", "near the end of float64"}
MISSING = {
    "missing inside": gaps(slice(20, 21), slice(50, 57)),
    "missing at the start": gaps(slice(0, 30)),
    "missing at the end": gaps(slice(115, 120)),
    "one value": gaps(slice(0, 70), slice(71, 120)),
}


@dataclass(frozen=True)
class Subject:
    """A model under test: its name in the registry, the steps of its longest history, its small checkpoint
    (``module:name``, the module one beside this file) and how near it stays to a level that never changes."""

    name: str
    longest: int
    checkpoint: str | None = None
    near: float = 1e-4

    def items(self) -> dict[str, Item]:
        takes_missing = find(self.name).capabilities.missing_values
        series = SERIES | {"long": waves(self.longest)} | (MISSING if takes_missing else {})
        return {name: Item(name, target, "MS", SEASON) for name, target in series.items()}


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("mock", 100_000),
        Subject("seasonal-naive", 20_000),
        Subject("auto-theta", 600),
        Subject("auto-ets", 600),
        Subject("chronos-bolt-tiny", 2048, "checkpoints:bolt-tiny"),
        Subject("chronos-2", 8192, "checkpoints_chronos:chronos-2-tiny"),
        Subject("chronos-t5-tiny", 512, "checkpoints_chronos:t5-tiny", near=20),  # samples of random weights
        # Their normalisers put a spread of their own in the place of none: 0.003, 0.003 and 1.
        Subject("granite-ttm-r2-512-720", 2000, "checkpoints_granite:ttm-r2-tiny", near=1e-3),
        Subject("granite-ttm-r3-1024-720", 1024, "checkpoints_granite:ttm-r3-tiny", near=3e-3),
        Subject("granite-flowstate-r1", 2048, "checkpoints_granite:flowstate-tiny", near=1e-3),
        Subject("granite-patchtst-fm-r1", 7168, "checkpoints_granite:patchtst-fm-tiny", near=0.5),
        # It puts a spread of 0.003 in the place of none, and its random weights have heavy tails.
        Subject("moirai-1.1-r-small", 5000, "checkpoints_uni2ts:moirai-tiny", near=0.02),
        Subject("moirai-moe-1.0-r-small", 5000, "checkpoints_uni2ts:moirai-moe-tiny", near=0.02),
        Subject("moirai-2.0-r-small", 8192, "checkpoints_uni2ts:moirai-2-tiny", near=3e-3),
        Subject("timesfm-2.5-200m", 15_360, "checkpoints_timesfm:timesfm-2.5-tiny"),
        Subject("timesfm-3.0", 15_360, "checkpoints_timesfm:timesfm-3.0-tiny"),
    )
}
CONCURRENT = {"chronos-bolt-tiny", "chronos-2", "granite-ttm-r2-512-720", "granite-ttm-r3-1024-720"}
"""The others' libraries keep something of a call in the model, or draw random numbers."""
CASES = [(subject.name, case) for subject in SUBJECTS.values() for case in subject.items()]


@dataclass(frozen=True)
class Ran:
    """The report of the contract's check inside the environment, and what its whole family printed there."""

    subject: Subject
    report: dict[str, Any]
    printed: str


@pytest.fixture(scope="module")
def ran(inside: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``ran(name)``: the check of that model; those of one family are done in one process."""
    done: dict[str, Ran] = {}

    def run(name: str) -> Ran:
        if name not in done:
            family = find(name).family
            subjects = [subject for subject in SUBJECTS.values() if find(subject.name).family == family]
            calls = [call for subject in subjects for call in _calls(subject, tmp_path_factory.mktemp(subject.name))]
            results, printed = inside(family, *calls)
            reports = [result for (target, _), result in zip(calls, results, strict=True) if target == CONTRACT]
            for subject, report in zip(subjects, reports, strict=True):
                done[subject.name] = Ran(subject, report, printed)
        return done[name]

    return run


def _calls(subject: Subject, folder: Path) -> list[tuple[str, dict[str, Any]]]:
    entry = find(subject.name)
    snapshot = str(folder / "snapshot") if subject.checkpoint else None
    check = {
        "target": families()[entry.family].adapters[entry.adapter],
        "ref": ModelRef(subject.name, entry.family, entry.adapter, snapshot, "0" * 64, entry.capabilities),
        "items": subject.items(),
        "task": replace(TASK, options={name: o.default for name, o in entry.capabilities.options.items()}),
        "longer": LONGER,
    }
    if subject.checkpoint is None:
        return [(CONTRACT, check)]
    module, _, checkpoint = subject.checkpoint.partition(":")
    return [(f"{module}:build", {"name": checkpoint, "folder": snapshot}), (CONTRACT, check)]


@pytest.fixture(params=SUBJECTS)
def each(request: pytest.FixtureRequest, ran: Any) -> Ran:
    return ran(request.param)


def whole(forecast: Any, task: Task) -> ItemForecast:
    """``forecast`` if it is what the seam promises."""
    assert isinstance(forecast, ItemForecast), forecast
    assert forecast.mean.shape == (task.horizon,)
    assert forecast.quantiles.shape == (len(task.quantiles), task.horizon)
    assert forecast.mean.dtype == forecast.quantiles.dtype == np.float64
    assert np.isfinite(forecast.mean).all()
    assert np.isfinite(forecast.quantiles).all()
    assert (np.diff(forecast.quantiles, axis=0) >= 0).all(), "quantiles cross"
    return forecast


@pytest.mark.parametrize(("name", "case"), CASES)
def test_every_series_gets_a_whole_forecast_on_its_own_scale(ran: Any, name: str, case: str) -> None:
    forecast = whole(ran(name).report["alone"][case], TASK)
    target = SUBJECTS[name].items()[case].target
    size = np.nanmax(np.abs(target)) or 1.0
    assert np.abs(forecast.mean / size).max() < 100
    assert np.abs(forecast.quantiles / size).max() < 100
    if case in ("constant", "zeros", "two equal", "one value"):
        level = target[np.isfinite(target)][0]
        np.testing.assert_allclose(forecast.mean, level, rtol=SUBJECTS[name].near, atol=SUBJECTS[name].near)
    if case == "far from zero":
        assert np.abs(forecast.mean - 1e9).max() < 1e5


@pytest.mark.parametrize(("name", "case"), CASES)
def test_a_forecast_is_the_same_again_and_in_any_company(ran: Any, name: str, case: str) -> None:
    report = ran(name).report
    alone, again, together = (report[key][case] for key in ("alone", "again", "together"))
    np.testing.assert_array_equal(alone.mean, again.mean)
    np.testing.assert_array_equal(alone.quantiles, again.quantiles)
    assert alone.warnings == again.warnings == together.warnings
    target = SUBJECTS[name].items()[case].target
    close = 1e-5 * max(np.nanmax(np.abs(target)), np.abs(alone.mean).max())
    np.testing.assert_allclose(together.mean, alone.mean, rtol=1e-5, atol=close)
    np.testing.assert_allclose(together.quantiles, alone.quantiles, rtol=1e-5, atol=close)


def test_a_series_that_had_to_be_rescaled_says_so_and_no_other(each: Ran) -> None:
    told = {case for case, forecast in each.report["alone"].items() if WARNING in forecast.warnings}
    assert told == (set() if each.subject.name == "mock" else RESCALED)


def test_two_threads_at_once_get_the_same_forecasts(each: Ran) -> None:
    report = each.report
    assert len(report["beside"]) == (2 if each.subject.name in CONCURRENT else 0)
    for answers in report["beside"]:
        assert answers.keys() == report["alone"].keys()
        for case, forecast in answers.items():
            np.testing.assert_array_equal(forecast.mean, report["alone"][case].mean, err_msg=case)
            np.testing.assert_array_equal(forecast.quantiles, report["alone"][case].quantiles, err_msg=case)


def test_no_levels_and_a_long_horizon(each: Ran) -> None:
    whole(each.report["no levels"], Task(TASK.horizon, (), {}))
    for forecast in each.report["longer"]:
        whole(forecast, Task(LONGER, TASK.quantiles, {}))


def test_the_verbs_say_what_they_should(each: Ran) -> None:
    entry = find(each.subject.name)
    assert each.report["is an adapter"]
    assert each.report["capabilities"] == entry.capabilities
    assert each.report["hello"]
    for library in entry.requires.libraries:
        assert library in each.report["hello"]


def test_nothing_is_printed_and_logging_is_left_alone(each: Ran) -> None:
    assert each.printed == ""
    assert each.report["logging left alone"]
