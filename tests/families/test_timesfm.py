"""TimesFM beside the library called directly: horizons, lengths, covariates; its files, its precision, its memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tollama.families import families
from tollama.registry import find
from tollama.seam import Item, ItemForecast, ModelRef, Task

TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
MODELS = {"two": "timesfm-2.5-200m", "three": "timesfm-3.0"}
each_model = pytest.mark.parametrize("model", MODELS)

HORIZON = 24
STEPS = np.arange(2000)
LOAD = 40 + 10 * np.sin(STEPS / 4) + 0.01 * STEPS + np.random.default_rng(5).normal(size=STEPS.size)
GAPS = np.where(STEPS % 50 == 0, np.nan, LOAD)
"""Its first value is missing too, so the library begins a step later."""
ASKED = {
    f"{length} steps, {horizon} ahead": (length, horizon)
    for length, horizon in ((1, 1), (31, 5), (32, 128), (33, 129), (300, 24), (2000, 1000))
}
PAST, AHEAD = np.random.default_rng(6).normal(size=300), np.sin(np.arange(300 + HORIZON) / 3)
HARD = {
    "huge": AHEAD * 1e300,
    "narrow": 1e12 + AHEAD,
    "none": AHEAD * np.nan,
    "gaps": np.where(AHEAD > 0, np.nan, AHEAD),
}


def item(past: dict[str, Any] | None = None, ahead: dict[str, Any] | None = None) -> Item:
    ahead = ahead or {}
    return Item(
        "a",
        GAPS[:300],
        "h",
        24,
        past_covariates=(past or {}) | {name: column[:300] for name, column in ahead.items()},
        future_covariates={name: column[300:] for name, column in ahead.items()},
    )


COVARIATES = {
    "none": (item(), {}),
    "past": (item({"p": PAST}), {"past": PAST[None]}),
    "ahead": (item({}, {"f": AHEAD}), {"ahead": AHEAD[None]}),
    "both": (item({"p": PAST}, {"f": AHEAD, "g": -(AHEAD**2)}), {"past": PAST[None], "ahead": [AHEAD, -(AHEAD**2)]}),
}
STRANGE = {
    "huge": item({}, {"f": AHEAD * 2.0**900}),
    "hard": item({"p": PAST * 1e-300}, HARD),
    "many": item({f"p{number}": PAST + number for number in range(50)}),
}


@pytest.fixture(scope="module")
def came(inside: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("timesfm")
    calls: dict[str, tuple[str, dict[str, Any]]] = {}
    for model, name in MODELS.items():
        entry = find(name)
        target = families()[entry.family].adapters[entry.adapter]
        ref = ModelRef(name, entry.family, entry.adapter, str(folder / model), "0" * 64, entry.capabilities)

        def ask(*calls: Any, target: str = target, ref: ModelRef = ref, **more: str) -> tuple[str, dict[str, Any]]:
            return "checks_timesfm:forecasts", {"target": target, "ref": ref, "calls": calls, **more}

        for copy in (model, f"{model} again"):
            arguments = {"name": f"{entry.adapter}-tiny", "folder": str(folder / copy)}
            calls[f"{copy}, checkpoint"] = ("checkpoints_timesfm:build", arguments)
        items = [
            (Item("a", GAPS[:length] if length > 1 else LOAD[:1], "h", 24), horizon)
            for length, horizon in ASKED.values()
        ]
        calls[f"{model}, asked"] = ask(*(([one], Task(horizon, TENTHS, {})) for one, horizon in items))
        calls[f"{model}, limit"] = ask(([item()], Task(entry.capabilities.max_horizon, TENTHS, {})))
        calls[f"{model}, half"] = ask(([item()], Task(HORIZON, TENTHS, {})), dtype="bfloat16")
        for asked, (one, horizon) in zip(ASKED, items, strict=True):
            calls[f"{model}, library, {asked}"] = (
                f"checks_timesfm:{model}",
                {"snapshot": ref.snapshot, "history": one.target, "horizon": horizon},
            )
        task = Task(HORIZON, TENTHS, {})
        if model == "three":
            subjects = [subject for subject, _ in COVARIATES.values()] + list(STRANGE.values())
            calls["covariates"] = ask(*(([subject], task) for subject in subjects), (subjects, task))
            for kind, (subject, columns) in COVARIATES.items():
                arguments = {"snapshot": ref.snapshot, "history": subject.target, "horizon": HORIZON, **columns}
                calls[f"covariates, library, {kind}"] = ("checks_timesfm:three", arguments)
        calls[f"{model}, ragged"] = ask(
            ([Item(str(length), LOAD[:length], "h", 24) for length in range(1, 400, 7)], task),
            *(([Item(str(length), LOAD[:length], "h", 24)], task) for length in range(1, 400, 7)),
        )
        calls[f"{model}, memory"] = ("checks_timesfm:memory", {"target": target, "ref": ref})
        calls[f"{model}, refused"] = (
            "checks_timesfm:refusals",
            {"target": target, "ref": ref, "folder": str(folder / f"{model} spoilt")},
        )
    results, _ = inside("timesfm", *calls.values())
    return dict(zip(calls, results, strict=True))


def quantiles(forecast: Any) -> Any:
    assert isinstance(forecast, ItemForecast), forecast
    np.testing.assert_array_equal(forecast.mean, forecast.quantiles[TENTHS.index(0.5)])
    return forecast.quantiles


@each_model
@pytest.mark.parametrize("asked", ASKED)
def test_the_numbers_are_the_librarys_own(came: dict[str, Any], model: str, asked: str) -> None:
    forecast = came[f"{model}, asked"][list(ASKED).index(asked)][0]
    np.testing.assert_array_equal(quantiles(forecast), came[f"{model}, library, {asked}"])


@each_model
def test_the_longest_horizon_can_be_had_and_begins_like_a_short_one(came: dict[str, Any], model: str) -> None:
    longest = quantiles(came[f"{model}, limit"][0][0])
    assert longest.shape == (9, find(MODELS[model]).capabilities.max_horizon)
    assert np.isfinite(longest).all()
    short = came[f"{model}, asked"][list(ASKED).index("300 steps, 24 ahead")][0]
    np.testing.assert_allclose(longest[:, :24], quantiles(short), rtol=1e-5)


@each_model
def test_series_of_many_lengths_in_one_call(came: dict[str, Any], model: str) -> None:
    together, *alone = came[f"{model}, ragged"]
    assert len(together) == len(alone)
    for one, (other,) in zip(together, alone, strict=True):
        np.testing.assert_allclose(quantiles(one), quantiles(other), rtol=1e-5)


@pytest.mark.parametrize("kind", COVARIATES)
def test_covariates_of_each_kind_count_as_in_the_library(came: dict[str, Any], kind: str) -> None:
    forecast = quantiles(came["covariates"][list(COVARIATES).index(kind)][0])
    np.testing.assert_array_equal(forecast, came[f"covariates, library, {kind}"])
    if kind != "none":
        assert np.abs(forecast - came["covariates, library, none"]).max() > 0.1


def test_a_series_answer_does_not_depend_on_its_neighbours_covariates(came: dict[str, Any]) -> None:
    *alone, together = came["covariates"]
    assert len(alone) == len(together)
    for (one,), other in zip(alone, together, strict=True):
        np.testing.assert_allclose(quantiles(one), quantiles(other), rtol=1e-5)


def test_covariates_that_32_bits_cannot_hold_or_without_values_or_many(came: dict[str, Any]) -> None:
    kinds = [*COVARIATES, *STRANGE]
    answers = {kind: quantiles(answer) for kind, (answer,) in zip(kinds, came["covariates"][:-1], strict=True)}
    np.testing.assert_allclose(answers["huge"], answers["ahead"], rtol=1e-5)
    for kind in STRANGE:
        assert np.isfinite(answers[kind]).all()


@each_model
def test_the_placement_is_honoured_and_half_precision_is_near_full(came: dict[str, Any], model: str) -> None:
    assert came[f"{model}, memory"]["dtype"] == "torch.bfloat16"
    assert came[f"{model}, memory"]["threads"] == 2
    half = quantiles(came[f"{model}, half"][0][0])
    full = quantiles(came[f"{model}, asked"][list(ASKED).index("300 steps, 24 ahead")][0])
    assert not np.array_equal(half, full)
    np.testing.assert_allclose(half, full, rtol=0.05)


@each_model
def test_unloading_lets_go_of_the_weights(came: dict[str, Any], model: str) -> None:
    assert came[f"{model}, memory"]["let go"]


@each_model
def test_a_snapshot_that_is_not_whole_is_refused(came: dict[str, Any], model: str) -> None:
    refused = came[f"{model}, refused"]
    assert refused["lacking"] == ("RuntimeError" if model == "two" else "ValueError")
    assert refused["pickled"] == "FileNotFoundError"
    if model == "three":
        assert refused["bare"] == "FileNotFoundError"


@each_model
def test_checkpoints_are_the_same_bytes_every_time(came: dict[str, Any], model: str) -> None:
    one, two = Path(came[f"{model}, checkpoint"]), Path(came[f"{model} again, checkpoint"])
    assert (one / "model.safetensors").exists()
    for file in one.iterdir():
        assert file.read_bytes() == (two / file.name).read_bytes()
