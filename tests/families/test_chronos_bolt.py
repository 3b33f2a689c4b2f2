"""Chronos-Bolt beside the library called directly; its files, its precision, its memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tollama.families import families
from tollama.registry import find
from tollama.seam import Item, ModelRef, Task

TARGET = families()["torch"].adapters["chronos-bolt"]
TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
BETWEEN = (0.1, 0.15, 0.33, 0.5, 0.875)
OUTSIDE = (0.01, 0.05, 0.1, 0.25, 0.5, 0.9, 0.99)
STEPS = np.arange(300)
LOAD = np.where(STEPS % 50 == 0, np.nan, 40 + 10 * np.sin(STEPS / 4) + np.random.default_rng(5).normal(size=300))
ASKED = {"tenths": (12, TENTHS), "rolled out": (150, TENTHS), "between": (12, BETWEEN), "outside": (12, OUTSIDE)}


@pytest.fixture(scope="module")
def came(inside: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("bolt")
    entry = find("chronos-bolt-tiny")
    ref = ModelRef(entry.name, entry.family, entry.adapter, str(folder / "one"), "0" * 64, entry.capabilities)
    item = Item("a", LOAD, "h", 24)

    def ask(horizon: int, levels: tuple[float, ...], **more: str) -> tuple[str, dict[str, Any]]:
        return "checks:one", {"target": TARGET, "ref": ref, "item": item, "task": Task(horizon, levels, {}), **more}

    def library(horizon: int, levels: tuple[float, ...]) -> tuple[str, dict[str, Any]]:
        arguments = {"snapshot": ref.snapshot, "series": LOAD, "horizon": horizon, "levels": list(levels)}
        return "checks:chronos_bolt", arguments

    calls = {
        "checkpoint": ("checkpoints:build", {"name": "bolt-tiny", "folder": str(folder / "one")}),
        "same checkpoint": ("checkpoints:build", {"name": "bolt-tiny", "folder": str(folder / "two")}),
        **{name: ask(*asked) for name, asked in ASKED.items()},
        **{f"library, {name}": library(*asked) for name, asked in ASKED.items() if name != "outside"},
        "half": ask(12, TENTHS, dtype="bfloat16"),
        "memory": ("checks:bolt_memory", {"target": TARGET, "ref": ref}),
        "refused": ("checks:bolt_refusals", {"target": TARGET, "ref": ref, "folder": str(folder)}),
    }
    results, _ = inside("torch", *calls.values())
    return dict(zip(calls, results, strict=True))


@pytest.mark.parametrize("asked", ["tenths", "rolled out", "between"])
def test_the_numbers_are_the_librarys_own_in_order(came: dict[str, Any], asked: str) -> None:
    np.testing.assert_array_equal(came[asked].quantiles, came[f"library, {asked}"])
    median = ASKED[asked][1].index(0.5)
    np.testing.assert_array_equal(came[asked].mean, came[asked].quantiles[median])


def test_levels_outside_go_on_as_a_normal_distribution(came: dict[str, Any]) -> None:
    quantiles = dict(zip(OUTSIDE, came["outside"].quantiles, strict=True))
    tenths = dict(zip(TENTHS, came["tenths"].quantiles, strict=True))
    for level in (0.1, 0.5, 0.9):
        np.testing.assert_array_equal(quantiles[level], tenths[level])
    ratio = 2.3263478740408408 / 1.2815515655446004  # standard normal quantiles of 0.99 and 0.9
    for level, edge in ((0.01, 0.1), (0.99, 0.9)):
        np.testing.assert_allclose(quantiles[level] - tenths[0.5], ratio * (tenths[edge] - tenths[0.5]), rtol=1e-9)
    assert (np.diff(came["outside"].quantiles, axis=0) >= 0).all()


def test_the_placement_is_honoured(came: dict[str, Any]) -> None:
    assert came["memory"]["dtype"] == "torch.bfloat16"
    assert came["memory"]["threads"] == 2
    assert came["memory"]["threads of each"] == (2, 1), "a thread that is given one takes none from another"


def test_half_precision_is_near_full(came: dict[str, Any]) -> None:
    full, half = came["tenths"], came["half"]
    assert not np.array_equal(full.mean, half.mean)
    np.testing.assert_allclose(half.mean, full.mean, rtol=0.05)


def test_unloading_lets_go_of_the_weights(came: dict[str, Any]) -> None:
    assert came["memory"]["let go"]


def test_a_snapshot_that_is_not_whole_or_not_bolt_is_refused(came: dict[str, Any]) -> None:
    assert came["refused"] == {"lacking": "ValueError", "pickled": "OSError", "other": "TypeError"}


def test_checkpoints_are_the_same_bytes_every_time(came: dict[str, Any]) -> None:
    one, two = Path(came["checkpoint"]), Path(came["same checkpoint"])
    assert sorted(file.name for file in one.iterdir()) == ["config.json", "model.safetensors"]
    for file in one.iterdir():
        assert file.read_bytes() == (two / file.name).read_bytes()
