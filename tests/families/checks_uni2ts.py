"""What is done with the adapters on uni2ts inside their environment; the asserting is left to the tests."""

from __future__ import annotations

import contextlib
import io
import shutil
import warnings
import weakref
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from checks import make

from tollama.seam import Item, ItemFailure, ItemForecast, ModelRef, Placement, Task


def forecasts(
    target: str, ref: ModelRef, asked: Mapping[str, tuple[Item, Task]], placement: Placement | None = None
) -> dict[str, ItemForecast | ItemFailure]:
    """One model, loaded once, asked for each item alone."""
    adapter = make(target)
    model = adapter.load(ref, placement or Placement())
    return {name: adapter.forecast(model, [item], task)[0] for name, (item, task) in asked.items()}


def together(target: str, ref: ModelRef, items: list[Item], task: Task) -> dict[str, list[Any]]:
    """Every item alone, and all of them in one call."""
    adapter = make(target)
    model = adapter.load(ref, Placement())
    alone = [adapter.forecast(model, [item], task)[0] for item in items]
    return {"alone": alone, "together": adapter.forecast(model, items, task)}


def library(kind: str, snapshot: str, asked: Mapping[str, tuple[Item, Task]]) -> dict[str, Any]:
    """The library's own predictor, gluonts and pandas and all: of Moirai 2 its quantiles (9, H), of the others their
    sample paths (n, H), drawn with a series' own seed."""
    import pandas
    import torch
    from uni2ts.model import moirai, moirai2, moirai_moe

    forecaster, network = {
        "moirai": (moirai.MoiraiForecast, moirai.MoiraiModule),
        "moirai-moe": (moirai_moe.MoiraiMoEForecast, moirai_moe.MoiraiMoEModule),
        "moirai-2": (moirai2.Moirai2Forecast, moirai2.Moirai2Module),
    }[kind]
    with contextlib.redirect_stdout(io.StringIO()):
        module = network.from_pretrained(snapshot)
    results = {}
    for name, (item, task) in asked.items():
        ahead = [
            np.concatenate([item.past_covariates[key], item.future_covariates[key]]) for key in item.future_covariates
        ]
        past = [column for key, column in item.past_covariates.items() if key not in item.future_covariates]
        options = {}
        if kind != "moirai-2":
            options["num_samples"] = task.options["num_samples"]
        if kind == "moirai":
            size = task.options["patch_size"]
            options["patch_size"] = size if size == "auto" else int(size)
        predictor = forecaster(
            prediction_length=task.horizon,
            target_dim=1,
            feat_dynamic_real_dim=len(ahead),
            past_feat_dynamic_real_dim=len(past),
            context_length=item.target.size,
            module=module,
            **options,
        ).create_predictor(batch_size=1, device="cpu")
        entry = {"start": pandas.Period("2020-01-01", "D"), "target": item.target}
        if ahead:
            entry["feat_dynamic_real"] = np.stack(ahead)
        if past:
            entry["past_feat_dynamic_real"] = np.stack(past)
        torch.manual_seed(
            int.from_bytes(sha256(f"{task.options.get('seed', 0)}:{item.id}".encode()).digest()[:8], "big")
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (forecast,) = predictor.predict([entry])
        results[name] = forecast.forecast_array if kind == "moirai-2" else forecast.samples
    return results


def memory(target: str, ref: ModelRef, item: Item, task: Task) -> dict[str, Any]:
    """The threads when placed so, and whether all is left as it was: torch's random numbers, no weights held."""
    import torch

    adapter = make(target)
    model = adapter.load(ref, Placement(threads=2))
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    adapter.forecast(model, [item], task)
    left = torch.equal(state, torch.get_rng_state())
    weight = weakref.ref(next(model.network.parameters()))
    adapter.unload(model)
    return {"threads": threads, "random numbers left alone": left, "let go": weight() is None}


def carried(target: str, blob: bytes) -> bytes:
    """A message that was packed by the server, packed again here."""
    from deployments.messages import pack, unpack

    make(target)
    return pack(unpack(blob))


def broken(target: str, ref: ModelRef, item: Item, task: Task) -> list[ItemForecast | ItemFailure]:
    """Forecasts of a network that gives no numbers."""
    import torch

    adapter = make(target)
    model = adapter.load(ref, Placement())
    with torch.no_grad():
        for weight in model.network.parameters():
            weight.fill_(float("nan"))
    return adapter.forecast(model, [item, replace(item, id="b")], task)


def refusals(target: str, ref: ModelRef, folder: str, other: str) -> dict[str, str]:
    """What ``load`` raises for snapshots that lack a weight, have them pickled only, or are of the kind ``other``."""
    import torch
    from safetensors.torch import load_file, save_file

    copies = {name: Path(folder) / name for name in ("lacking", "pickled")}
    for copy in copies.values():
        shutil.copytree(ref.snapshot, copy)
    weights = load_file(copies["lacking"] / "model.safetensors")
    torch.save(weights, copies["pickled"] / "pytorch_model.bin")
    (copies["pickled"] / "model.safetensors").unlink()
    del weights["encoder.norm.weight"]
    save_file(weights, copies["lacking"] / "model.safetensors")

    raised = {}
    for name, copy in {**copies, "other": Path(other)}.items():
        try:
            make(target).load(replace(ref, snapshot=str(copy)), Placement())
            raised[name] = ""
        except Exception as error:
            raised[name] = type(error).__name__
    return raised
