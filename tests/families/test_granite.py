"""The Granite models beside the library called directly; their context, clock and window; their files and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.adapters.flowstate import Clock
from deployments.adapters.granite_ttm import FREQUENCIES
from tollama.conformal import ORIGINS
from tollama.contract import ForecastRequest
from tollama.errors import UnsupportedByModel
from tollama.families import families
from tollama.preflight import check
from tollama.registry import find
from tollama.seam import Item, ItemFailure, ItemForecast, ModelRef, Task

ADAPTERS = families()["torch"].adapters
TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
LIVES = {
    "ttm-r2-tiny": "granite-ttm-r2-512-720",
    "flowstate-tiny": "granite-flowstate-r1",
    "patchtst-fm-tiny": "granite-patchtst-fm-r1",
}


def waves(length: int, seed: int = 5) -> np.ndarray:
    steps = np.arange(length)
    return 40 + 10 * np.sin(2 * np.pi * steps / 24) + np.random.default_rng(seed).normal(size=length)


def gappy(length: int) -> np.ndarray:
    return np.where(np.arange(length) % 50 == 0, np.nan, waves(length))


def hourly(target: np.ndarray, name: str = "a") -> Item:
    return Item(name, target, "h", 24)


def of(name: str, snapshot: str) -> dict[str, Any]:
    entry = find(name)
    ref = ModelRef(name, entry.family, entry.adapter, snapshot, "0" * 64, entry.capabilities)
    return {"target": ADAPTERS[entry.adapter], "ref": ref}


def task(horizon: int, levels: tuple[float, ...] = TENTHS, **options: Any) -> Task:
    return Task(horizon, levels, options)


class Session:
    """Calls that are collected, then made in one process; ``built`` are checkpoints that are there by then."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.built = folder, set[str]()
        self.calls: dict[str, tuple[str, dict[str, Any]]] = {}

    def snapshot(self, name: str) -> str:
        if name not in self.built:
            self.built.add(name)
            self.calls[f"build {name}"] = (
                "checkpoints_granite:build",
                {"name": name, "folder": str(self.folder / name)},
            )
        return str(self.folder / name)

    def ask(self, key: str, name: str, checkpoint: str, *asked: tuple[list[Item], Task], **more: Any) -> None:
        arguments = {**of(name, self.snapshot(checkpoint)), "asked": list(asked), **more}
        self.calls[key] = ("checks_granite:forecasts", arguments)

    def library(self, key: str, function: str, checkpoint: str, **arguments: Any) -> None:
        self.calls[key] = (f"checks_granite:{function}", {"snapshot": self.snapshot(checkpoint), **arguments})


@pytest.fixture(scope="module")
def came(inside: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("granite")
    session = Session(folder)
    _ask_ttm(session)
    _ask_flowstate(session)
    _ask_patchtst_fm(session)
    for checkpoint, name in LIVES.items():
        arguments = {**of(name, session.snapshot(checkpoint)), "folder": str(folder / "lives" / checkpoint)}
        session.calls[f"life of {checkpoint}"] = ("checks_granite:life", arguments)
    for checkpoint in sorted(session.built):
        again = {"name": checkpoint, "folder": str(folder / "again" / checkpoint)}
        session.calls[f"again {checkpoint}"] = ("checkpoints_granite:build", again)
    results, _ = inside("torch", *session.calls.values())
    return dict(zip(session.calls, results, strict=True))


# Tiny Time Mixers

LONG = waves(512 + 4 * 24 + 60)
SHORT = gappy(200)


def _ask_ttm(session: Session) -> None:
    one = hourly(LONG[-512:])
    session.ask(
        "r2",
        "granite-ttm-r2-512-720",
        "ttm-r2-tiny",
        ([one], task(24)),
        ([one], task(24, ())),
        ([one], task(720, ())),
        ([hourly(SHORT)], task(24, ())),
        ([hourly(LONG)], task(24)),
        ([hourly(LONG[-30:])], task(24)),
        ([hourly(np.where(np.arange(1200) < 600, 1e6, waves(1200)))], task(1)),
    )
    before = [LONG.size - 24 - 3 * step for step in range(ORIGINS)]
    scaled = (SHORT - np.nanmean(SHORT)) / np.nanstd(SHORT)
    seen = np.pad(np.isfinite(SHORT), (312, 0))
    session.library(
        "library, r2",
        "ttm",
        "ttm-r2-tiny",
        revision="main",
        asked=[
            {"values": LONG[-512:]},
            {"values": np.pad(np.nan_to_num(scaled), (312, 0)), "seen": seen},
            *({"values": LONG[at - 512 : at]} for at in before),
        ],
    )
    session.ask("half", "granite-ttm-r2-512-720", "ttm-r2-tiny", ([one], task(24)), dtype="bfloat16")

    for release, name, revision, length in (
        ("r3", "granite-ttm-r3-1024-720", "main", 1024),
        ("dec", "granite-ttm-r3-512-30-dec-90", "512-30-dec-90-r3", 512),
    ):
        asked = [([hourly(waves(length))], task(30)), ([hourly(waves(length))], task(30, (0.15, 0.5)))]
        session.ask(release, name, f"ttm-{release}-tiny", *asked)
        arguments = {"revision": revision, "asked": [{"values": waves(length)}]}
        session.library(f"library, {release}", "ttm", f"ttm-{release}-tiny", **arguments)

    freqs = ("h", "D", "W-MON", "15min", "MS")
    asked = [([Item(freq, waves(52), freq, 24) for freq in freqs], task(16, ()))]
    session.ask("ft", "granite-ttm-r2.1-52-16-ft", "ttm-ft-tiny", *asked)
    session.library(
        "library, ft",
        "ttm",
        "ttm-ft-tiny",
        revision="main",
        asked=[{"values": waves(52), "token": token} for token in (7, 8, 9, 5, 0)],
    )
    session.calls["tokens"] = ("checks_granite:tokens", {})


def test_a_full_context_gives_the_librarys_own_numbers(came: dict[str, Any]) -> None:
    _, quantiles, point, longest, *_ = came["r2"]
    library = came["library, r2"][0]["point"]
    np.testing.assert_array_equal(point[0].mean, library[:24])
    np.testing.assert_array_equal(quantiles[0].mean, library[:24])
    np.testing.assert_array_equal(longest[0].mean, library)


def test_a_short_history_is_what_the_librarys_pipeline_makes_of_it(came: dict[str, Any]) -> None:
    library = came["library, r2"][1]["point"][:24] * np.nanstd(SHORT) + np.nanmean(SHORT)
    np.testing.assert_allclose(came["r2"][4][0].mean, library, rtol=1e-4)


def test_conformal_quantiles_are_of_the_librarys_errors(came: dict[str, Any]) -> None:
    point, past = came["library, r2"][0]["point"][:24], came["library, r2"][2:]
    errors = np.array([LONG[-24 - 3 * step :][:24] - one["point"][:24] for step, one in enumerate(past)])
    assert len(errors) == ORIGINS == 39
    forecast = came["r2"][5][0]
    np.testing.assert_array_equal(forecast.mean, point)
    ranks = np.sort(errors, axis=0)[[4 * tenth - 1 for tenth in range(1, 10)]]
    np.testing.assert_allclose(forecast.quantiles, point + ranks, rtol=1e-6)
    assert forecast.warnings == ()


def test_a_history_too_short_for_errors_has_those_of_the_seasonal_naive_and_says_so(came: dict[str, Any]) -> None:
    (forecast,) = came["r2"][6]
    assert "seasonal naive" in forecast.warnings[0]
    assert (np.ptp(forecast.quantiles, axis=0) > 0).all()


def test_what_lies_before_the_context_does_not_change_the_forecast(came: dict[str, Any]) -> None:
    (forecast,) = came["r2"][7]
    assert np.abs(forecast.mean).max() < 1e3
    assert forecast.warnings == ()


@pytest.mark.parametrize("release", ["r3", "dec"])
def test_quantile_heads_are_the_librarys_own_in_order(came: dict[str, Any], release: str) -> None:
    (capabilities, (tenths,), (between,)), (library,) = came[release], came[f"library, {release}"]
    assert capabilities.quantiles.native == TENTHS
    ordered = np.sort(library["quantiles"], axis=0)[:, :30].astype(np.float64)
    np.testing.assert_array_equal(tenths.quantiles, ordered)
    np.testing.assert_array_equal(tenths.mean, ordered[4])
    np.testing.assert_allclose(between.quantiles[0], (ordered[0] + ordered[1]) / 2, rtol=1e-12)


def test_the_frequency_is_told_to_the_models_that_take_it(came: dict[str, Any]) -> None:
    _, forecasts = came["ft"]
    for forecast, library in zip(forecasts, came["library, ft"], strict=True):
        np.testing.assert_allclose(forecast.mean, library["point"], rtol=1e-6)
    assert len({forecast.mean.tobytes() for forecast in forecasts}) == 5
    assert came["tokens"] == FREQUENCIES


def test_a_horizon_over_the_limit_names_the_entry_that_fits() -> None:
    short = find("granite-ttm-r2-512-96")
    series = [{"id": "a", "target": [1.0], "start": "2024-01-01", "freq": "D"}]
    check(ForecastRequest(model=short.name, horizon=96, series=series), short.name, short.capabilities)
    with pytest.raises(UnsupportedByModel) as caught:
        check(ForecastRequest(model=short.name, horizon=97, series=series), short.name, short.capabilities)
    assert "granite-ttm-r2-512-192" in caught.value.hint


# FlowState

HORIZONS = {"H": (24, (1, 24, 46, 48, 100)), "M": (12, (12, 30)), "Q": (4, (4, 20)), "15T": (96, (96, 150))}
ALIAS = {"H": "h", "M": "MS", "Q": "QS", "15T": "15min"}
YEARS = {"A": (1, (1, 20))}


def _ask_flowstate(session: Session) -> None:
    history = gappy(300)
    clocks = HORIZONS | YEARS
    session.ask(
        "flowstate",
        "granite-flowstate-r1",
        "flowstate-tiny",
        *(
            ([Item("a", history, ALIAS.get(freq, "YS"), season)], task(horizon))
            for freq, (season, horizons) in clocks.items()
            for horizon in horizons
        ),
    )
    asked = [
        {"values": history, "horizon": horizon, "freq": freq}
        for freq, (_, horizons) in clocks.items()
        for horizon in horizons
    ]
    session.library("library, flowstate", "flowstate", "flowstate-tiny", asked=asked)
    buried = np.where(np.arange(600) == 3, 7.0, np.nan)
    session.ask(
        "flowstate, elsewhere",
        "granite-flowstate-r1",
        "flowstate-tiny",
        ([hourly(history)], task(47)),
        ([hourly(history)], task(2048, (0.5,))),
        ([Item("a", history, "QS", 4)], task(2048, (0.1, 0.9))),
        ([Item("a", history, "QS", 4)], task(1000, (0.1, 0.9))),
        ([hourly(history), hourly(history, "b")], task(24, season_length=12)),
        ([Item("a", history, "MS", 12)], task(24)),
        ([Item("a", buried, "QS", 4), Item("b", waves(600), "QS", 4)], task(8)),
    )
    asked = [{"values": history, "horizon": horizon, "freq": "H"} for horizon in (47, 48)]
    session.library("library, trap", "flowstate", "flowstate-tiny", asked=asked)
    session.ask(
        "flowstate, half", "granite-flowstate-r1", "flowstate-tiny", ([hourly(history)], task(24)), dtype="bfloat16"
    )


def test_flowstate_at_the_librarys_own_scale_gives_its_numbers(came: dict[str, Any]) -> None:
    _, *answers = came["flowstate"]
    for (forecast,), library in zip(answers, came["library, flowstate"], strict=True):
        np.testing.assert_array_equal(forecast.quantiles, library["quantiles"])
        np.testing.assert_array_equal(forecast.mean, library["point"])


def test_flowstate_never_gives_too_few_steps(came: dict[str, Any]) -> None:
    forecast = came["flowstate, elsewhere"][1][0]
    fewer, enough = came["library, trap"]
    assert fewer["point"].size < 47, "the library's fault that is worked around"
    np.testing.assert_array_equal(forecast.mean, enough["point"][:47])


def test_flowstate_reaches_its_limit_and_tells_what_it_read_and_rolled_out(came: dict[str, Any]) -> None:
    _, _, limit, rolled, shorter, *_ = came["flowstate, elsewhere"]
    assert limit[0].mean.shape == (2048,)
    assert any("newest 24 steps of 300" in warning for warning in limit[0].warnings)
    assert rolled[0].quantiles.shape == (2, 2048)
    assert any("rolled out" in warning for warning in rolled[0].warnings)
    np.testing.assert_array_equal(rolled[0].mean[:682], shorter[0].mean[:682])


def test_a_season_asked_for_sets_the_clock(came: dict[str, Any]) -> None:
    asked, monthly = came["flowstate, elsewhere"][5:7]
    np.testing.assert_allclose(asked[0].mean, monthly[0].mean, rtol=1e-6)
    np.testing.assert_array_equal(asked[0].mean, asked[1].mean)
    assert not np.array_equal(asked[0].mean, came["flowstate"][2][0].mean)


def test_a_series_with_no_value_in_reach_fails_alone(came: dict[str, Any]) -> None:
    buried, neighbour = came["flowstate, elsewhere"][7]
    assert isinstance(buried, ItemFailure)
    assert (buried.record.code, "last 337 steps" in buried.record.error) == ("INVALID_SERIES", True)
    assert isinstance(neighbour, ItemForecast)


def test_flowstate_stays_in_full_precision(came: dict[str, Any]) -> None:
    np.testing.assert_array_equal(came["flowstate, half"][1][0].quantiles, came["flowstate"][2][0].quantiles)


@pytest.mark.parametrize("season", [*range(1, 400), 1440, 3600, 9999, 10000])
def test_a_clock_always_leaves_history_to_read(season: int) -> None:
    clock = Clock.of(season, 2048, 24)
    assert clock.patch == (season if season > 1 else 4)
    assert int(24 / clock.scale) == clock.patch
    for steps in {1, clock.patch, clock.patch + 1, *range(max(1, clock.window - clock.patch), clock.window + 1)}:
        if steps <= min(clock.window, 2048):
            assert clock.reads(steps) >= 2
            assert clock.ask(steps) <= clock.patch or (clock.ask(steps) + 1) % clock.patch


# PatchTST-FM

LEVELS = (0.01, 0.05, 0.5, 0.77, 0.99)


def _ask_patchtst_fm(session: Session) -> None:
    history = gappy(700)
    session.ask(
        "patchtst-fm",
        "granite-patchtst-fm-r1",
        "patchtst-fm-tiny",
        ([hourly(history)], task(24, LEVELS)),
        ([hourly(history)], task(24, (0.015, 0.5))),
        ([hourly(waves(7168))], task(1024, LEVELS)),
        ([hourly(waves(length)) for length in (1, 70, 100, 120, 5000)], task(24, LEVELS)),
        ([hourly(waves(100))], task(24, LEVELS)),
    )
    for key, values, horizon in (("library, patchtst-fm", history, 24), ("library, limit", waves(7168), 1024)):
        arguments = {"values": values, "horizon": horizon, "levels": list(LEVELS)}
        session.library(key, "patchtst_fm", "patchtst-fm-tiny", **arguments)
    asked = [([hourly(history)], task(24, LEVELS))]
    session.ask("patchtst-fm, half", "granite-patchtst-fm-r1", "patchtst-fm-tiny", *asked, dtype="bfloat16")


def test_patchtst_fm_gives_the_librarys_numbers_also_at_its_limit(came: dict[str, Any]) -> None:
    for answer, key in ((1, "library, patchtst-fm"), (3, "library, limit")):
        (forecast,), library = came["patchtst-fm"][answer], came[key]
        np.testing.assert_array_equal(forecast.quantiles, library["quantiles"])
        np.testing.assert_array_equal(forecast.mean, library["point"])
        np.testing.assert_allclose(forecast.quantiles, library["of a list"], rtol=1e-5)


def test_patchtst_fm_between_levels_and_in_company(came: dict[str, Any]) -> None:
    _, levels, between, _, together, alone = came["patchtst-fm"]
    assert (between[0].quantiles[0] > levels[0].quantiles[0]).all()
    np.testing.assert_array_equal(between[0].quantiles[1], levels[0].quantiles[2])
    np.testing.assert_allclose(together[2].quantiles, alone[0].quantiles, rtol=1e-6)


# All of them


@pytest.mark.parametrize(("full", "half"), [("r2", "half"), ("patchtst-fm", "patchtst-fm, half")])
def test_half_precision_is_near_full(came: dict[str, Any], full: str, half: str) -> None:
    exact, near = came[full][1][0].mean, came[half][1][0].mean
    assert not np.array_equal(exact, near)
    np.testing.assert_allclose(near, exact, rtol=0.02)


@pytest.mark.parametrize("checkpoint", LIVES)
def test_threads_memory_and_broken_snapshots(came: dict[str, Any], checkpoint: str) -> None:
    life = came[f"life of {checkpoint}"]
    assert life == {"threads": 2, "let go": True, "lacking": "ValueError", "pickled": "OSError"}


def test_checkpoints_are_the_same_bytes_every_time(came: dict[str, Any]) -> None:
    built = [name.removeprefix("build ") for name in came if name.startswith("build ")]
    assert len(built) == 6
    for name in built:
        one, two = Path(came[f"build {name}"]), Path(came[f"again {name}"])
        assert sorted(file.name for file in one.iterdir()) == ["config.json", "model.safetensors"]
        for file in one.iterdir():
            assert file.read_bytes() == (two / file.name).read_bytes()
