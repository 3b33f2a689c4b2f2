"""What is done with Chronos-2 and Chronos-T5 inside their environment; the asserting is left to the tests."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from checks import make

from tollama.seam import Item, ItemFailure, ItemForecast, ModelRef, Placement, Task


def together(
    target: str, ref: ModelRef, calls: Sequence[tuple[Sequence[Item], Task]]
) -> list[list[ItemForecast | ItemFailure]]:
    """The forecasts of each call, of one model loaded once."""
    adapter = make(target)
    model = adapter.load(ref, Placement())
    return [adapter.forecast(model, items, task) for items, task in calls]


def chronos_2(snapshot: str, tasks: list[dict[str, Any]], horizon: int, levels: list[float], **more: Any) -> list[Any]:
    """The library called directly, but for crossed quantiles, which are put in order first: quantiles (L, H) of each
    task (``target``, ``past_covariates``, ``future_covariates``)."""
    from chronos import BaseChronosPipeline

    pipeline = BaseChronosPipeline.from_pretrained(snapshot, device_map="cpu", torch_dtype="float32")
    predict = pipeline.predict
    pipeline.predict = lambda *one, **other: [values.sort(dim=1).values for values in predict(*one, **other)]
    quantiles, _ = pipeline.predict_quantiles(tasks, prediction_length=horizon, quantile_levels=levels, **more)
    return [values[0].numpy().T for values in quantiles]


def chronos_t5(snapshot: str, series: Any, horizon: int, levels: list[float], seeded: str, samples: int) -> Any:
    """The library called directly, seeded as a series is, whose seed and id are ``seeded``: mean (H,), quantiles
    (L, H)."""
    import torch
    from chronos import BaseChronosPipeline

    pipeline = BaseChronosPipeline.from_pretrained(snapshot, device_map="cpu", torch_dtype="float32")
    torch.manual_seed(int.from_bytes(sha256(seeded.encode()).digest()[:8], "big"))
    quantiles, mean = pipeline.predict_quantiles(
        torch.tensor(series), prediction_length=horizon, quantile_levels=levels, num_samples=samples
    )
    return mean[0].numpy(), quantiles[0].numpy().T


def random_numbers(target: str, ref: ModelRef, item: Item, task: Task) -> tuple[list[float], list[float]]:
    """Three of torch's random numbers, without and with a forecast before them."""
    import torch

    adapter = make(target)
    model = adapter.load(ref, Placement())
    torch.manual_seed(1)
    plain = torch.rand(3).tolist()
    torch.manual_seed(1)
    adapter.forecast(model, [item], task)
    return plain, torch.rand(3).tolist()


def memory(target: str, ref: ModelRef) -> dict[str, Any]:
    """The type of the weights and the threads when placed so, and whether ``unload`` lets go of the weights."""
    import torch

    adapter = make(target)
    model = adapter.load(ref, Placement(dtype="bfloat16", threads=2))
    weight = weakref.ref(next(model.pipeline.model.parameters()))
    placed = {"dtype": str(weight().dtype), "threads": torch.get_num_threads()}
    adapter.unload(model)
    return placed | {"let go": weight() is None}


def refusals(target: str, ref: ModelRef, folder: str, other: str, lacking: str) -> dict[str, str]:
    """What ``load`` raises for the snapshot ``other`` and for its own without the weight ``lacking``, or with all of
    them pickled only."""
    import torch
    from safetensors.torch import load_file, save_file

    copies = {name: Path(folder) / name for name in ("lacking", "pickled")}
    for copy in copies.values():
        shutil.copytree(ref.snapshot, copy)
    weights = load_file(copies["lacking"] / "model.safetensors")
    torch.save(weights, copies["pickled"] / "pytorch_model.bin")
    (copies["pickled"] / "model.safetensors").unlink()
    del weights[lacking]
    save_file(weights, copies["lacking"] / "model.safetensors", metadata={"format": "pt"})

    raised = {}
    for name, copy in {**copies, "other": other}.items():
        try:
            make(target).load(replace(ref, snapshot=str(copy)), Placement())
            raised[name] = ""
        except Exception as error:
            raised[name] = type(error).__name__
    return raised
