"""Chronos-2 beside the library called directly: covariates, company, cross-learning; its files and its memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tollama.families import families
from tollama.registry import find
from tollama.seam import Item, ModelRef, Task

TARGET = families()["torch"].adapters["chronos-2"]
ENTRY = find("chronos-2")
NATIVE = ENTRY.capabilities.quantiles.native
BETWEEN = (0.01, 0.125, 0.33, 0.5, 0.875, 0.99)
STEPS = np.arange(300)
LOAD = np.where(STEPS % 50 == 0, np.nan, 40 + 10 * np.sin(STEPS / 4) + np.random.default_rng(5).normal(size=300))
HORIZON = 24
LONG = 1100
AHEAD = np.arange(300, 300 + LONG)


def days(steps: np.ndarray) -> np.ndarray:
    """Text with a gap, and a value of the future that the past never had."""
    names = np.array(["work", "rest", "feast"], dtype=object)[np.minimum(steps // 24 % 7 // 5 + (steps > 320), 2)]
    return np.where(steps == 17, None, names)


def heat(steps: np.ndarray) -> np.ndarray:
    return np.where(steps % 40 == 3, np.nan, 20 + 5 * np.cos(steps / 12))


PLAIN = Item("plain", LOAD, "h", 24)
KINDS = {
    "past numeric": replace(PLAIN, past_covariates={"heat": heat(STEPS)}),
    "past categorical": replace(PLAIN, past_covariates={"day": days(STEPS)}),
}


def known(horizon: int) -> dict[str, Item]:
    """The items above with covariates known ahead, and one with everything."""
    columns = {"future numeric": ("heat", heat), "future categorical": ("day", days)}
    items = {
        kind: replace(PLAIN, past_covariates={name: at(STEPS)}, future_covariates={name: at(AHEAD[:horizon])})
        for kind, (name, at) in columns.items()
    }
    everything = {"wind": np.sin(STEPS / 3), "heat": heat(STEPS), "day": days(STEPS), "season": days(STEPS)}
    ahead = {"heat": heat(AHEAD[:horizon]), "day": days(AHEAD[:horizon])}
    return {**KINDS, **items, "everything": replace(PLAIN, past_covariates=everything, future_covariates=ahead)}


ASKED = {
    "native": (PLAIN, HORIZON, NATIVE),
    "rolled out": (PLAIN, LONG, NATIVE),
    "between": (PLAIN, HORIZON, BETWEEN),
    "everything": (known(HORIZON)["everything"], HORIZON, NATIVE),
    "everything, rolled out": (known(LONG)["everything"], LONG, NATIVE),
}

WAVES = 30 + 9 * np.sin(np.arange(700) / 5)
EVIL = {
    "covariate beyond float32": {"heat": np.where(STEPS == 9, 1e300, heat(STEPS))},
    "covariate far from zero": {"heat": 1e12 + heat(STEPS)},
    "covariate tiny": {"heat": heat(STEPS) * 1e-40},
    "covariate missing": {"heat": np.full(300, np.nan)},
    "covariate constant": {"heat": np.full(300, 7.0)},
    "text missing": {"day": np.full(300, None, dtype=object)},
}
COMPANY = {
    **known(HORIZON),
    **{name: replace(PLAIN, id=name, past_covariates=columns) for name, columns in EVIL.items()},
    "text ahead only": replace(
        PLAIN,
        past_covariates={"day": np.full(300, None, dtype=object)},
        future_covariates={"day": days(AHEAD[:HORIZON])},
    ),
    "huge": replace(KINDS["past categorical"], target=LOAD * 1e30),
    **{f"{length} steps": Item(f"{length} steps", WAVES[:length], "h", 24) for length in range(1, 700, 25)},
}
ALIKE = [Item(str(shift), WAVES[shift : shift + 200], "h", 24) for shift in range(0, 60, 20)]
TASK = Task(HORIZON, NATIVE, {"cross_learning": False})
TOGETHER = replace(TASK, options={"cross_learning": True})


@pytest.fixture(scope="module")
def came(inside: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("chronos-2")
    ref = ModelRef(ENTRY.name, ENTRY.family, ENTRY.adapter, str(folder / "one"), "0" * 64, ENTRY.capabilities)

    def ask(*asked: tuple[list[Item], Task]) -> tuple[str, dict[str, Any]]:
        return "checks_chronos:together", {"target": TARGET, "ref": ref, "calls": asked}

    def library(items: list[Item], horizon: int, levels: tuple[float, ...], **more: Any) -> tuple[str, dict[str, Any]]:
        tasks = [
            {"target": i.target, "past_covariates": i.past_covariates, "future_covariates": i.future_covariates}
            for i in items
        ]
        arguments = {"snapshot": ref.snapshot, "tasks": tasks, "horizon": horizon, "levels": list(levels), **more}
        return "checks_chronos:chronos_2", arguments

    def build(name: str, to: str) -> tuple[str, dict[str, Any]]:
        return "checkpoints_chronos:build", {"name": name, "folder": str(folder / to)}

    far = known(HORIZON)["future numeric"]
    far = replace(
        far,
        past_covariates={"heat": 2.0**80 * far.past_covariates["heat"]},
        future_covariates={"heat": 2.0**80 * far.future_covariates["heat"]},
    )
    calls = {
        "checkpoint": build("chronos-2-tiny", "one"),
        "same checkpoint": build("chronos-2-tiny", "two"),
        "t5": build("t5-tiny", "t5"),
        "asked": ask(*(([item], replace(TASK, horizon=h, quantiles=levels)) for item, h, levels in ASKED.values())),
        "outside": ask(([PLAIN], replace(TASK, quantiles=(0.001, 0.01, 0.5, 0.99, 0.999)))),
        "longest": ask(([PLAIN], replace(TASK, horizon=ENTRY.capabilities.max_horizon))),
        **{name: library([item], horizon, levels) for name, (item, horizon, levels) in ASKED.items()},
        "alone": ask(([PLAIN], TASK), *(([item], TASK) for item in COMPANY.values())),
        "together": ask(([*COMPANY.values()], TASK)),
        "scaled covariate": ask(([far], TASK)),
        "cross": ask((ALIKE, TOGETHER), (ALIKE, TASK)),
        "library, cross": library(ALIKE, HORIZON, NATIVE, cross_learning=True),
        "half": ("checks:one", {"target": TARGET, "ref": ref, "item": PLAIN, "task": TASK, "dtype": "bfloat16"}),
        "memory": ("checks_chronos:memory", {"target": TARGET, "ref": ref}),
        "refused": (
            "checks_chronos:refusals",
            {
                "target": TARGET,
                "ref": ref,
                "folder": str(folder),
                "other": str(folder / "t5"),
                "lacking": "output_patch_embedding.output_layer.weight",
            },
        ),
    }
    results, _ = inside("torch", *calls.values())
    came = dict(zip(calls, results, strict=True))
    came["ours"] = {name: answers[0] for name, answers in zip(ASKED, came["asked"], strict=True)}
    came["plain"], *alone = (answers[0] for answers in came["alone"])
    came["alone"] = dict(zip(COMPANY, alone, strict=True))
    came["together"] = dict(zip(COMPANY, came["together"][0], strict=True))
    return came


@pytest.mark.parametrize("asked", ASKED)
def test_the_numbers_are_the_librarys_own_in_order(came: dict[str, Any], asked: str) -> None:
    ours, (librarys,) = came["ours"][asked], came[asked]
    np.testing.assert_array_equal(ours.quantiles, librarys)
    np.testing.assert_array_equal(ours.mean, ours.quantiles[ASKED[asked][2].index(0.5)])


def test_levels_outside_go_on_as_a_normal_distribution(came: dict[str, Any]) -> None:
    quantiles, native = came["outside"][0][0].quantiles, came["ours"]["native"].quantiles
    np.testing.assert_array_equal(quantiles[[1, 3]], native[[0, -1]])
    ratio = 3.090232306167813 / 2.3263478740408408  # standard normal quantiles of 0.999 and 0.99
    median = native[NATIVE.index(0.5)]
    np.testing.assert_allclose(quantiles[4] - median, ratio * (native[-1] - median), rtol=1e-9)


def test_the_longest_horizon_works(came: dict[str, Any]) -> None:
    (forecast,) = came["longest"][0]
    assert forecast.mean.shape == (ENTRY.capabilities.max_horizon,)
    assert np.isfinite(forecast.quantiles).all()


@pytest.mark.parametrize("name", COMPANY)
def test_an_answer_does_not_depend_on_its_company(came: dict[str, Any], name: str) -> None:
    alone, together = came["alone"][name], came["together"][name]
    close = 1e-5 * np.nanmax(np.abs(COMPANY[name].target))
    assert np.isfinite(together.quantiles).all()
    np.testing.assert_allclose(together.quantiles, alone.quantiles, rtol=1e-5, atol=close)
    assert together.warnings == alone.warnings


@pytest.mark.parametrize("kind", known(HORIZON))
def test_each_kind_of_covariate_changes_the_forecast(came: dict[str, Any], kind: str) -> None:
    declared = ENTRY.capabilities.covariates.model_dump()
    assert declared.get(kind.replace(" ", "_"), kind == "everything")
    assert np.abs(came["alone"][kind].mean - came["plain"].mean).max() > 0.01


@pytest.mark.parametrize("kind", ["numeric", "categorical"])
def test_what_is_known_of_the_future_changes_the_forecast(came: dict[str, Any], kind: str) -> None:
    past, future = (came["alone"][f"{when} {kind}"].mean for when in ("past", "future"))
    assert np.abs(past - future).max() > 0.01


@pytest.mark.parametrize("name", EVIL)
def test_no_covariate_spoils_a_forecast(came: dict[str, Any], name: str) -> None:
    assert np.abs(came["alone"][name].quantiles).max() < 1000
    assert not came["alone"][name].warnings


def test_the_scale_of_a_covariate_does_not_matter(came: dict[str, Any]) -> None:
    ((scaled,),) = came["scaled covariate"]
    np.testing.assert_array_equal(scaled.quantiles, came["alone"]["future numeric"].quantiles)
    far, near = (came["alone"][kind].mean for kind in ("covariate far from zero", "past numeric"))
    np.testing.assert_allclose(far, near, rtol=1e-3)


def test_series_inform_each_other_only_when_asked(came: dict[str, Any]) -> None:
    crossed, apart = came["cross"]
    for ours, librarys in zip(crossed, came["library, cross"], strict=True):
        np.testing.assert_array_equal(ours.quantiles, librarys)
    assert np.abs(crossed[0].mean - apart[0].mean).max() > 0.01


def test_the_placement_is_honoured(came: dict[str, Any]) -> None:
    assert came["memory"] == {"dtype": "torch.bfloat16", "threads": 2, "let go": True}
    full, half = came["plain"].mean, came["half"].mean
    assert not np.array_equal(full, half)
    np.testing.assert_allclose(half, full, rtol=0.05)


def test_a_snapshot_that_is_not_whole_or_not_chronos_2_is_refused(came: dict[str, Any]) -> None:
    assert came["refused"] == {"lacking": "ValueError", "pickled": "OSError", "other": "ValueError"}


def test_checkpoints_are_the_same_bytes_every_time(came: dict[str, Any]) -> None:
    one, two = Path(came["checkpoint"]), Path(came["same checkpoint"])
    assert sorted(file.name for file in one.iterdir()) == ["config.json", "model.safetensors"]
    for file in one.iterdir():
        assert file.read_bytes() == (two / file.name).read_bytes()
