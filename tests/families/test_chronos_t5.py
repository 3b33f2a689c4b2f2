"""Chronos-T5 beside the library called directly with the same seed; its random numbers, its files, its memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tollama.families import families
from tollama.registry import find
from tollama.seam import Item, ModelRef, Task

TARGET = families()["torch"].adapters["chronos-t5"]
ENTRY = find("chronos-t5-tiny")
STEPS = np.arange(300)
LOAD = np.where(STEPS % 50 == 0, np.nan, 40 + 10 * np.sin(STEPS / 4) + np.random.default_rng(5).normal(size=300))
ITEM = Item("a", LOAD, "h", 24)
TASK = Task(12, (0.05, 0.33, 0.5, 0.999), {"seed": 0, "num_samples": 20})
ASKED = {
    "once": TASK,
    "rolled out": replace(TASK, horizon=100),
    "more samples": replace(TASK, options={"seed": 0, "num_samples": 50}),
    "another seed": replace(TASK, options={"seed": 7, "num_samples": 20}),
}


@pytest.fixture(scope="module")
def came(inside: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("t5")
    ref = ModelRef(ENTRY.name, ENTRY.family, ENTRY.adapter, str(folder / "one"), "0" * 64, ENTRY.capabilities)

    def ask(*asked: tuple[list[Item], Task]) -> tuple[str, dict[str, Any]]:
        return "checks_chronos:together", {"target": TARGET, "ref": ref, "calls": asked}

    def library(task: Task) -> tuple[str, dict[str, Any]]:
        arguments = {
            "snapshot": ref.snapshot,
            "series": LOAD,
            "horizon": task.horizon,
            "levels": list(task.quantiles),
            "seeded": f"{task.options['seed']}:a",
            "samples": task.options["num_samples"],
        }
        return "checks_chronos:chronos_t5", arguments

    def build(name: str, to: str) -> tuple[str, dict[str, Any]]:
        return "checkpoints_chronos:build", {"name": name, "folder": str(folder / to)}

    calls = {
        "checkpoint": build("t5-tiny", "one"),
        "same checkpoint": build("t5-tiny", "two"),
        "chronos-2": build("chronos-2-tiny", "other"),
        "asked": ask(*(([ITEM], task) for task in ASKED.values())),
        "company": ask(([replace(ITEM, id="b"), replace(ITEM, id="c", target=LOAD[:40]), ITEM], TASK)),
        "longest": ask(([ITEM], replace(TASK, horizon=ENTRY.capabilities.max_horizon))),
        **{f"library, {name}": library(task) for name, task in ASKED.items()},
        "random numbers": (
            "checks_chronos:random_numbers",
            {"target": TARGET, "ref": ref, "item": ITEM, "task": TASK},
        ),
        "memory": ("checks_chronos:memory", {"target": TARGET, "ref": ref}),
        "refused": (
            "checks_chronos:refusals",
            {
                "target": TARGET,
                "ref": ref,
                "folder": str(folder),
                "other": str(folder / "other"),
                "lacking": "encoder.final_layer_norm.weight",
            },
        ),
    }
    results, _ = inside("torch", *calls.values())
    came = dict(zip(calls, results, strict=True))
    came["ours"] = {name: answers[0] for name, answers in zip(ASKED, came["asked"], strict=True)}
    return came


@pytest.mark.parametrize("asked", ASKED)
def test_the_numbers_are_the_librarys_own(came: dict[str, Any], asked: str) -> None:
    ours, (mean, quantiles) = came["ours"][asked], came[f"library, {asked}"]
    np.testing.assert_array_equal(ours.mean, mean)
    np.testing.assert_array_equal(ours.quantiles, quantiles)


def test_seed_samples_and_id_make_the_answer_and_company_does_not(came: dict[str, Any]) -> None:
    other, _, same = came["company"][0]
    np.testing.assert_array_equal(same.quantiles, came["ours"]["once"].quantiles)
    for different in (other, came["ours"]["another seed"], came["ours"]["more samples"]):
        assert not np.array_equal(different.quantiles, same.quantiles)


def test_the_longest_horizon_works(came: dict[str, Any]) -> None:
    (forecast,) = came["longest"][0]
    assert forecast.mean.shape == (ENTRY.capabilities.max_horizon,)
    assert np.isfinite(forecast.quantiles).all()


def test_the_random_numbers_of_others_go_on_as_before(came: dict[str, Any]) -> None:
    plain, after = came["random numbers"]
    assert after == plain


def test_the_placement_is_honoured(came: dict[str, Any]) -> None:
    assert came["memory"] == {"dtype": "torch.bfloat16", "threads": 2, "let go": True}


def test_a_snapshot_that_is_not_whole_or_not_t5_is_refused(came: dict[str, Any]) -> None:
    assert came["refused"] == {"lacking": "ValueError", "pickled": "OSError", "other": "ValueError"}


def test_checkpoints_are_the_same_bytes_every_time(came: dict[str, Any]) -> None:
    one, two = Path(came["checkpoint"]), Path(came["same checkpoint"])
    files = sorted(file.name for file in one.iterdir())
    assert files == ["config.json", "generation_config.json", "model.safetensors"]
    for file in one.iterdir():
        assert file.read_bytes() == (two / file.name).read_bytes()
