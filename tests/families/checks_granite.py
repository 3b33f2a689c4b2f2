"""The Granite models of the library called directly, and what is done with our adapters beside them."""

from __future__ import annotations

import importlib
import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from checks import make

from deployments.adapters._torch import quiet_granite
from tollama.seam import Item, ModelRef, Placement, Task


def forecasts(target: str, ref: ModelRef, asked: list[tuple[list[Item], Task]], dtype: str = "float32") -> list[Any]:
    """The answers to each of ``asked``, all of one loaded model, and its capabilities first."""
    adapter = make(target)
    model = adapter.load(ref, Placement(dtype=dtype))
    answers = [adapter.forecast(model, items, task) for items, task in asked]
    return [adapter.capabilities(model, ref.capabilities), *answers]


def ttm(snapshot: str, revision: str, asked: list[dict[str, Any]]) -> list[dict[str, np.ndarray]]:
    """The point (H,) and, if any, the quantiles (Q, H) of the network that the library's own loader finds, called with
    each of ``asked``: ``values`` (T,), and maybe ``seen`` (T,) and ``token``."""
    import torch

    quiet_granite()
    from tsfm_public.toolkit.get_model import get_model

    network = get_model(snapshot, model_revision=revision)
    done = []
    for one in asked:
        more = {"freq_token": torch.tensor([one["token"]])} if "token" in one else {}
        if "seen" in one:
            more["past_observed_mask"] = torch.tensor(one["seen"], dtype=torch.float32)[None, :, None]
        with torch.no_grad():
            out = network(torch.tensor(one["values"], dtype=torch.float32)[None, :, None], return_dict=True, **more)
        result = {"point": out.prediction_outputs[0, :, 0].numpy()}
        if out.quantile_outputs is not None:
            result["quantiles"] = out.quantile_outputs[0, :, :, 0].numpy()
        done.append(result)
    return done


def flowstate(snapshot: str, asked: list[dict[str, Any]]) -> list[dict[str, np.ndarray]]:
    """The same of FlowState: ``values``, ``horizon`` and the library's name of the ``freq``."""
    import torch

    quiet_granite()
    from tsfm_public.models.flowstate import FlowStateForPrediction
    from tsfm_public.models.flowstate.utils.utils import get_fixed_factor

    network = FlowStateForPrediction.from_pretrained(snapshot)
    done = []
    for one in asked:
        values = torch.tensor(one["values"], dtype=torch.float32)[None, :, None]
        with torch.no_grad():
            out = network(values, prediction_length=one["horizon"], scale_factor=get_fixed_factor(one["freq"]))
        point, quantiles = out.prediction_outputs[0, :, 0].numpy(), out.quantile_outputs[0, :, :, 0].numpy()
        done.append({"point": point, "quantiles": quantiles})
    return done


def patchtst_fm(snapshot: str, values: np.ndarray, horizon: int, levels: list[float]) -> dict[str, np.ndarray]:
    """The same of PatchTST-FM, and its quantiles of a list of series."""
    import torch

    quiet_granite()
    from tsfm_public.models.patchtst_fm import PatchTSTFMForPrediction

    network = PatchTSTFMForPrediction.from_pretrained(snapshot)
    series = torch.tensor(values, dtype=torch.float32)[:, None]
    ask = {"prediction_length": horizon, "quantile_levels": levels, "return_dict": True}
    with torch.no_grad():
        one, listed = network(series[None], **ask), network([series], **ask)
    return {
        "point": one.prediction_outputs[0, :, 0].numpy(),
        "quantiles": one.quantile_outputs[0, :, :, 0].numpy(),
        "of a list": listed.quantile_outputs[0][:, :, 0].numpy(),
    }


def tokens() -> dict[str, int]:
    """The library's tokens of frequencies."""
    quiet_granite()
    module = importlib.import_module("tsfm_public.toolkit.time_series_preprocessor")
    return dict(module.DEFAULT_FREQUENCY_MAPPING)


def life(target: str, ref: ModelRef, folder: str) -> dict[str, Any]:
    """The threads when placed so, whether ``unload`` lets go of the weights, and what ``load`` raises for snapshots
    that lack a weight or have them pickled only."""
    import torch
    from safetensors.torch import load_file, save_file

    adapter = make(target)
    model = adapter.load(ref, Placement(threads=2))
    weight = weakref.ref(next(model.network.parameters()))
    told = {"threads": torch.get_num_threads()}
    adapter.unload(model)
    told["let go"] = weight() is None
    for fault in ("lacking", "pickled"):
        copy = Path(folder) / fault
        shutil.copytree(str(ref.snapshot), copy)
        weights = load_file(copy / "model.safetensors")
        if fault == "pickled":
            torch.save(weights, copy / "pytorch_model.bin")
            (copy / "model.safetensors").unlink()
        else:
            weights.pop(sorted(weights)[0])
            save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
        try:
            make(target).load(replace(ref, snapshot=str(copy)), Placement())
            told[fault] = ""
        except Exception as error:
            told[fault] = type(error).__name__
    return told
