"""What is done with an adapter inside its family's environment; the asserting is left to the tests."""

from __future__ import annotations

import importlib
import json
import logging
import shutil
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from tollama.seam import Adapter, Concurrent, Item, ItemFailure, ItemForecast, ModelRef, Placement, Task


def contract(target: str, ref: ModelRef, items: Mapping[str, Item], task: Task, longer: int) -> dict[str, Any]:
    """All six verbs: every item alone, all of them together, each again; two of them over a ``longer`` horizon. And
    where that is allowed, each by two threads at once, in opposite order."""
    logs = (logging.root.level, list(logging.root.handlers))
    adapter = make(target)
    report: dict[str, Any] = {"is an adapter": isinstance(adapter, Adapter), "hello": dict(adapter.hello())}
    model = adapter.load(ref, Placement())
    adapter.ping()
    report["capabilities"] = adapter.capabilities(model, ref.capabilities)
    for key in ("alone", "again"):
        report[key] = {name: adapter.forecast(model, [item], task)[0] for name, item in items.items()}
    everyone = list(items.values())
    report["together"] = dict(zip(items, adapter.forecast(model, everyone, task), strict=True))
    report["no levels"] = adapter.forecast(model, everyone[:1], replace(task, quantiles=()))[0]
    report["longer"] = adapter.forecast(model, everyone[:2], replace(task, horizon=longer))
    report["beside"] = _beside(adapter, model, everyone, task) if isinstance(adapter, Concurrent) else []
    adapter.unload(model)
    report["logging left alone"] = logs == (logging.root.level, logging.root.handlers)
    return report


def _beside(
    adapter: Concurrent, model: Any, items: Sequence[Item], task: Task
) -> list[dict[str, ItemForecast | ItemFailure]]:
    def work(mine: Sequence[Item]) -> dict[str, ItemForecast | ItemFailure]:
        adapter.use_threads(1)
        return {item.id: adapter.forecast(model, [item], task)[0] for item in mine}

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(work, (items, items[::-1])))


def make(target: str) -> Adapter:
    """The adapter of an import string."""
    module, _, name = target.partition(":")
    adapter: Adapter = getattr(importlib.import_module(module), name)()
    return adapter


def one(
    target: str, ref: ModelRef, item: Item, task: Task, dtype: str = "float32", threads: int = 1
) -> ItemForecast | ItemFailure:
    """One forecast of a freshly loaded model."""
    adapter = make(target)
    return adapter.forecast(adapter.load(ref, Placement(dtype=dtype, threads=threads)), [item], task)[0]


def statsforecast(model: str, season: int, series: Any, horizon: int, spans: list[float]) -> dict[str, Any]:
    """The library called directly: ``mean``, ``lo-<span>`` and ``hi-<span>``, the spans in percent."""
    from statsforecast import models

    result: dict[str, Any] = getattr(models, model)(season_length=season).forecast(series, horizon, level=spans)
    return result


def chronos_bolt(snapshot: str, series: Any, horizon: int, levels: list[float]) -> Any:
    """The library called directly, but for crossed quantiles, which are put in order first: quantiles (L, H)."""
    import torch
    from chronos import BaseChronosPipeline

    pipeline = BaseChronosPipeline.from_pretrained(snapshot, device_map="cpu", torch_dtype="float32")
    predict = pipeline.predict
    pipeline.predict = lambda *arguments, **more: predict(*arguments, **more).sort(dim=1).values
    quantiles, _ = pipeline.predict_quantiles(torch.tensor(series), prediction_length=horizon, quantile_levels=levels)
    return quantiles[0].numpy().T


def bolt_memory(target: str, ref: ModelRef) -> dict[str, Any]:
    """The type of the weights and the threads when placed so, and whether ``unload`` lets go of the weights."""
    import torch

    adapter = make(target)
    model = adapter.load(ref, Placement(dtype="bfloat16", threads=2))
    weight = weakref.ref(next(model.pipeline.model.parameters()))
    placed = {"dtype": str(weight().dtype), "threads": torch.get_num_threads()}
    with ThreadPoolExecutor(1, initializer=adapter.use_threads, initargs=(1,)) as other:
        placed["threads of each"] = (torch.get_num_threads(), other.submit(torch.get_num_threads).result())
    adapter.unload(model)
    return placed | {"let go": weight() is None}


def bolt_refusals(target: str, ref: ModelRef, folder: str) -> dict[str, str]:
    """What ``load`` raises for snapshots that lack a weight, have them pickled only, or are of another kind."""
    import torch
    from safetensors.torch import load_file, save_file

    copies = {name: Path(folder) / name for name in ("lacking", "pickled", "other")}
    for copy in copies.values():
        shutil.copytree(ref.snapshot, copy)

    weights = load_file(copies["lacking"] / "model.safetensors")
    torch.save(weights, copies["pickled"] / "pytorch_model.bin")
    (copies["pickled"] / "model.safetensors").unlink()
    del weights["output_patch_embedding.output_layer.weight"]
    save_file(weights, copies["lacking"] / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((copies["other"] / "config.json").read_text())
    config["chronos_config"] |= {"tokenizer_class": "MeanScaleUniformBins"}
    (copies["other"] / "config.json").write_text(json.dumps(config))

    raised = {}
    for name, copy in copies.items():
        try:
            make(target).load(replace(ref, snapshot=str(copy)), Placement())
            raised[name] = ""
        except Exception as error:
            raised[name] = type(error).__name__
    return raised
