"""What is done with TimesFM inside its environment; the asserting is left to the tests."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import checks
import numpy as np

from tollama.seam import Item, ItemFailure, ItemForecast, ModelRef, Placement, Task


def forecasts(
    target: str, ref: ModelRef, calls: Sequence[tuple[Sequence[Item], Task]], dtype: str = "float32"
) -> list[list[ItemForecast | ItemFailure]]:
    """The answers of one loaded model to each of the ``calls``."""
    adapter = checks.make(target)
    model = adapter.load(ref, Placement(dtype=dtype))
    return [adapter.forecast(model, items, task) for items, task in calls]


def two(snapshot: str, history: Any, horizon: int) -> Any:
    """The library called directly, for no more context and horizon than there are: quantiles (9, H)."""
    from timesfm import ForecastConfig, TimesFM_2p5_200M_torch

    model = TimesFM_2p5_200M_torch.from_pretrained(snapshot, torch_compile=False, local_files_only=True)
    model.compile(
        ForecastConfig(
            max_context=len(history),
            max_horizon=horizon,
            normalize_inputs=True,
            use_continuous_quantile_head=True,
            force_flip_invariance=True,
            infer_is_positive=True,
            fix_quantile_crossing=True,
        )
    )
    point, quantiles = model.forecast(horizon, [history])
    assert np.array_equal(point, quantiles[..., 5])
    return np.sort(quantiles[0, :, 1:], axis=-1).T


def three(snapshot: str, history: Any, horizon: int, past: Any = None, ahead: Any = None) -> Any:
    """The library called directly: quantiles (9, H)."""
    from timesfm import TimesFM3Forecaster

    forecaster = TimesFM3Forecaster.from_pretrained(snapshot, device="cpu", local_files_only=True)
    output = forecaster.predict(
        history, horizon, past_only_covariates=past, past_future_covariates=ahead, return_quantiles=True
    )
    return output.quantiles.T


def memory(target: str, ref: ModelRef) -> dict[str, Any]:
    """The types of the weights and the threads when placed so, and whether ``unload`` lets go of the weights."""
    import torch

    adapter = checks.make(target)
    model = adapter.load(ref, Placement(dtype="bfloat16", threads=2))
    layers = (getattr(model, "library", None) or model.forecaster).model.modules()
    weight = weakref.ref(next(layer for layer in layers if isinstance(layer, torch.nn.Linear)).weight)
    placed = {"dtype": str(weight().dtype), "threads": torch.get_num_threads()}
    adapter.forecast(model, [Item("a", np.arange(40.0), "D", 7)], Task(5, (0.5,), {}))
    del layers
    adapter.unload(model)
    return placed | {"let go": weight() is None}


def refusals(target: str, ref: ModelRef, folder: str) -> dict[str, str]:
    """What ``load`` raises for snapshots that lack a weight, have them pickled only, or have no configuration."""
    import torch
    from safetensors.torch import load_file, save_file

    copies = {name: Path(folder) / name for name in ("lacking", "pickled", "bare")}
    for copy in copies.values():
        shutil.copytree(ref.snapshot, copy)
    weights = load_file(copies["lacking"] / "model.safetensors")
    torch.save(weights, copies["pickled"] / "pytorch_model.bin")
    (copies["pickled"] / "model.safetensors").unlink()
    del weights[sorted(weights)[0]]
    save_file(weights, copies["lacking"] / "model.safetensors", metadata={"format": "pt"})
    (copies["bare"] / "config.json").unlink(missing_ok=True)

    raised = {}
    for name, copy in copies.items():
        try:
            checks.make(target).load(replace(ref, snapshot=str(copy)), Placement())
            raised[name] = ""
        except Exception as error:
            raised[name] = type(error).__name__
    return raised
