"""Moirai beside the library's own predictor; its covariates, patch sizes and seeds; its files and its memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.messages import pack, unpack
from tollama.families import families
from tollama.registry import find
from tollama.rescale import WARNING
from tollama.seam import Item, ItemFailure, ItemForecast, ModelRef, Placement, Task

NAMES = {"moirai": "moirai-1.0-r-small", "moirai-moe": "moirai-moe-1.0-r-small", "moirai-2": "moirai-2.0-r-small"}
TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
LENGTH, HORIZON = 300, 24
STEPS = np.arange(LENGTH + HORIZON)
LOAD = 50 + 8 * np.sin(STEPS[:LENGTH] / 4) + np.random.default_rng(5).normal(size=LENGTH)
GAPS = np.where((STEPS[:LENGTH] % 40 < 3) | (STEPS[:LENGTH] > LENGTH - 3), np.nan, LOAD)
HEAT, SALES = np.sin(STEPS / 5), np.where(STEPS % 60 == 9, np.nan, np.cos(STEPS / 3))
SIZES = {"YE-DEC": 8, "QS-OCT": 8, "MS": 8, "W-MON": 16, "D": 16, "2B": 16, "h": 32, "15min": 32, "s": 64}
NOTE = "The history is too short to choose a patch size by: that of its frequency was taken."


def item(target: np.ndarray = LOAD, past: dict[str, Any] | None = None, ahead: tuple[str, ...] = ()) -> Item:
    past = past or {}
    future = {name: past[name][LENGTH:] for name in ahead}
    return Item("a", target, "D", 7, {name: column[:LENGTH] for name, column in past.items()}, future)


def options(**more: Any) -> dict[str, Any]:
    return {"seed": 3, "num_samples": 20, "patch_size": "16", **more}


def asked(kind: str) -> dict[str, tuple[Item, Task]]:
    """What the library is asked for, too."""
    sampled = {} if kind == "moirai-2" else options()
    task = Task(HORIZON, TENTHS, sampled)
    cases = {
        "plain": (item(), task),
        "gaps": (item(GAPS), task),
        "short": (item(LOAD[:5]), task),
        "long horizon": (item(GAPS), replace(task, horizon=150)),
    }
    if kind != "moirai-2":
        cases |= {
            "past": (item(past={"heat": HEAT}), task),
            "ahead": (item(GAPS, {"heat": HEAT}, ("heat",)), task),
            "both": (item(past={"heat": HEAT, "sales": SALES}, ahead=("heat",)), task),
        }
    if kind == "moirai":
        auto = replace(task, options=options(patch_size="auto"))
        cases |= {"auto": (item(), auto), "auto, both": (*cases["both"][:1], auto)}
        cases["size 64"] = (item(), replace(task, options=options(patch_size="64")))
    return cases


def more(kind: str) -> dict[str, tuple[Item, Task]]:
    """What only the adapter is asked for."""
    plain, task = asked(kind)["plain"]
    limit = find(NAMES[kind]).capabilities.max_horizon
    cases = {"at the limit": (plain, replace(task, horizon=limit))}
    if kind == "moirai-2":
        return cases | {"other levels": (plain, replace(task, quantiles=(0.01, 0.1, 0.15, 0.5, 0.9, 0.99)))}
    cases |= {
        "other seed": (plain, replace(task, options=options(seed=4))),
        "other id": (replace(plain, id="b"), task),
        "covariate of large numbers": (item(past={"heat": HEAT * 1e300}, ahead=("heat",)), task),
        "covariate of none": (item(past={"heat": np.full(STEPS.size, np.nan)}, ahead=("heat",)), task),
        "too many covariates": (item(past={f"x{number}": HEAT for number in range(250)}), task),
    }
    if kind == "moirai":
        for freq, size in SIZES.items():
            series = replace(plain, freq=freq)
            cases[freq] = (series, replace(task, options=options(patch_size="frequency")))
            cases[f"size of {freq}"] = (series, replace(task, options=options(patch_size=str(size))))
        few = replace(plain, target=LOAD[:HORIZON])
        cases["few"] = (few, task)
        cases["few, auto"] = (few, replace(task, options=options(patch_size="auto")))
    return cases


CASES = [(kind, case) for kind in NAMES for case in asked(kind)]


@pytest.fixture(scope="module")
def came(inside: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """``"kind, what"`` -> what came of it."""
    folder = tmp_path_factory.mktemp("moirai")
    calls: dict[str, tuple[str, dict[str, Any]]] = {}
    for kind, name in NAMES.items():
        snapshot = str(folder / kind)
        for copy in ("", " again"):
            calls[f"{kind}, checkpoint{copy}"] = build(f"{kind}-tiny", snapshot + copy)
        entry = find(name)
        ref = ModelRef(name, entry.family, kind, snapshot, "0" * 64, entry.capabilities)
        about: dict[str, Any] = {"target": families()["uni2ts"].adapters[kind], "ref": ref}
        plain, task = asked(kind)["plain"]
        calls |= {
            f"{kind}, ours": check("forecasts", **about, asked=asked(kind) | more(kind)),
            f"{kind}, library": check("library", kind=kind, snapshot=snapshot, asked=asked(kind)),
            f"{kind}, half": check(
                "forecasts", **about, asked={"plain": (plain, task)}, placement=Placement(dtype="bfloat16")
            ),
            f"{kind}, memory": check("memory", **about, item=plain, task=task),
            f"{kind}, broken": check("broken", **about, item=plain, task=task),
        }
    for kind, other in (("moirai", "moirai-moe"), ("moirai-moe", "moirai-2"), ("moirai-2", "moirai")):
        about = calls[f"{kind}, memory"][1]
        calls[f"{kind}, refused"] = check(
            "refusals",
            target=about["target"],
            ref=about["ref"],
            folder=str(folder / f"{kind}, refused"),
            other=str(folder / other),
        )
    crowd = [replace(item(LOAD[-length:]), id=str(length)) for length in (5, 300, 16, 100)]
    crowd.append(Item("long", np.tile(LOAD, 28)[:8192], "D", 7))
    calls["together"] = check(
        "together", target=about["target"], ref=about["ref"], items=crowd, task=Task(150, TENTHS, {})
    )
    calls["carried"] = check("carried", target=about["target"], blob=pack(crowd))
    results, _ = inside("uni2ts", *calls.values())
    return dict(zip(calls, results, strict=True))


def build(name: str, folder: str) -> tuple[str, dict[str, Any]]:
    return "checkpoints_uni2ts:build", {"name": name, "folder": folder}


def check(function: str, **arguments: Any) -> tuple[str, dict[str, Any]]:
    return f"checks_uni2ts:{function}", arguments


@pytest.mark.parametrize(("kind", "case"), CASES)
def test_the_numbers_are_those_of_the_librarys_own_predictor(came: dict[str, Any], kind: str, case: str) -> None:
    ours, library = came[f"{kind}, ours"][case], came[f"{kind}, library"][case].astype(np.float64)
    if kind == "moirai-2":
        quantiles = np.sort(library, axis=0)
        mean = quantiles[4]
    else:
        quantiles, mean = np.quantile(library, TENTHS, axis=0), library.mean(axis=0)
    np.testing.assert_array_equal(ours.quantiles, quantiles)
    np.testing.assert_array_equal(ours.mean, mean)
    assert ours.warnings == ()


@pytest.mark.parametrize("kind", NAMES)
def test_the_longest_horizon_works(came: dict[str, Any], kind: str) -> None:
    forecast = came[f"{kind}, ours"]["at the limit"]
    assert forecast.mean.shape == (find(NAMES[kind]).capabilities.max_horizon,)
    assert np.isfinite(forecast.quantiles).all()


@pytest.mark.parametrize("kind", ["moirai", "moirai-moe"])
def test_each_kind_of_covariate_changes_the_forecast(came: dict[str, Any], kind: str) -> None:
    ours = came[f"{kind}, ours"]
    for case, without in (("past", "plain"), ("ahead", "gaps"), ("both", "past")):
        assert not np.array_equal(ours[case].mean, ours[without].mean)


@pytest.mark.parametrize("kind", ["moirai", "moirai-moe"])
def test_covariates_of_any_numbers_or_none_do_no_harm(came: dict[str, Any], kind: str) -> None:
    for case in ("covariate of large numbers", "covariate of none"):
        forecast = came[f"{kind}, ours"][case]
        assert isinstance(forecast, ItemForecast)
        assert WARNING not in forecast.warnings, "the series itself was not rescaled"
        assert np.abs(forecast.quantiles).max() < 1e4


@pytest.mark.parametrize("kind", ["moirai", "moirai-moe"])
def test_more_covariates_than_memory_allows_are_refused(came: dict[str, Any], kind: str) -> None:
    failure = came[f"{kind}, ours"]["too many covariates"]
    assert isinstance(failure, ItemFailure)
    assert failure.record.code == "UNSUPPORTED_BY_MODEL"
    assert "fewer covariates" in failure.record.hint


@pytest.mark.parametrize("kind", ["moirai", "moirai-moe"])
def test_the_seed_and_the_id_rule_the_samples(came: dict[str, Any], kind: str) -> None:
    ours = came[f"{kind}, ours"]
    for case in ("other seed", "other id"):
        assert not np.array_equal(ours[case].mean, ours["plain"].mean)
        np.testing.assert_allclose(np.median(ours[case].quantiles), np.median(ours["plain"].quantiles), rtol=0.2)


@pytest.mark.parametrize("freq", SIZES)
def test_the_patch_size_is_the_frequencys(came: dict[str, Any], freq: str) -> None:
    ours = came["moirai, ours"]
    np.testing.assert_array_equal(ours[freq].quantiles, ours[f"size of {freq}"].quantiles)


def test_patch_sizes_differ_and_auto_needs_more_than_a_horizon(came: dict[str, Any]) -> None:
    ours = came["moirai, ours"]
    assert not np.array_equal(ours["size 64"].mean, ours["plain"].mean)
    np.testing.assert_array_equal(ours["few, auto"].mean, ours["few"].mean)
    assert ours["few, auto"].warnings == (NOTE,)


def test_levels_outside_go_on_as_a_normal_distribution(came: dict[str, Any]) -> None:
    tenths = came["moirai-2, ours"]["plain"].quantiles
    low, tenth, between, half, ninth, high = came["moirai-2, ours"]["other levels"].quantiles
    for level, native in ((tenth, 0), (half, 4), (ninth, 8)):
        np.testing.assert_array_equal(level, tenths[native])
    np.testing.assert_allclose(between, (tenths[0] + tenths[1]) / 2, rtol=1e-12)
    ratio = 2.3263478740408408 / 1.2815515655446004  # standard normal quantiles of 0.99 and 0.9
    np.testing.assert_allclose(high - half, ratio * (ninth - half), rtol=1e-9)
    np.testing.assert_allclose(low - half, ratio * (tenth - half), rtol=1e-9)


def test_company_of_any_length_changes_nothing_when_rolled_out(came: dict[str, Any]) -> None:
    for alone, together in zip(came["together"]["alone"], came["together"]["together"], strict=True):
        np.testing.assert_allclose(together.quantiles, alone.quantiles, rtol=1e-5)


def test_arrays_travel_between_the_servers_numpy_and_the_familys(came: dict[str, Any]) -> None:
    back = unpack(came["carried"])
    np.testing.assert_array_equal(back[1].target, LOAD)


@pytest.mark.parametrize("kind", NAMES)
def test_half_precision_is_near_full(came: dict[str, Any], kind: str) -> None:
    full, half = came[f"{kind}, ours"]["plain"], came[f"{kind}, half"]["plain"]
    assert not np.array_equal(full.mean, half.mean)
    np.testing.assert_allclose(np.median(half.quantiles), np.median(full.quantiles), rtol=0.1)


@pytest.mark.parametrize("kind", NAMES)
def test_the_placement_is_honoured_and_all_left_as_it_was(came: dict[str, Any], kind: str) -> None:
    assert came[f"{kind}, memory"] == {"threads": 2, "random numbers left alone": True, "let go": True}


@pytest.mark.parametrize("kind", NAMES)
def test_a_network_that_gives_no_numbers_fails_each_series_by_itself(came: dict[str, Any], kind: str) -> None:
    for failure in came[f"{kind}, broken"]:
        assert isinstance(failure, ItemFailure)
        assert failure.record.code == "RUNNER_FAILED"
        assert "not finite" in failure.record.error


@pytest.mark.parametrize("kind", NAMES)
def test_a_snapshot_that_is_not_whole_or_of_another_kind_is_refused(came: dict[str, Any], kind: str) -> None:
    refused = came[f"{kind}, refused"]
    assert refused["lacking"] == "ValueError"
    assert refused["pickled"] == "FileNotFoundError"
    assert refused["other"] in ("ValueError", "TypeError")


@pytest.mark.parametrize("kind", NAMES)
def test_checkpoints_are_the_same_bytes_every_time(came: dict[str, Any], kind: str) -> None:
    one, two = Path(came[f"{kind}, checkpoint"]), Path(came[f"{kind}, checkpoint again"])
    assert {"config.json", "model.safetensors"} <= {file.name for file in one.iterdir()}
    for file in one.iterdir():
        assert file.read_bytes() == (two / file.name).read_bytes()
