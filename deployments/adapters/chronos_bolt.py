"""Chronos-Bolt: nine quantiles in one pass, rolled out beyond its native horizon by the library.

Quantiles that cross are put in order, which the library does not do; otherwise the numbers are the library's own.
"""

from __future__ import annotations

import gc
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tollama.capabilities import Capabilities
from tollama.errors import RunnerFailed
from tollama.quantiles import at_levels
from tollama.rescale import WARNING, rescaling
from tollama.seam import Item, ItemFailure, ItemForecast, ModelRef, Placement, Task

ROWS = 256
"""Series of one tensor call. A roll-out continues nine paths of each, so it takes a ninth as many."""
TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(slots=True)
class Bolt:
    """A loaded model; ``pipeline`` is a ``ChronosBoltPipeline``, None once unloaded."""

    pipeline: Any
    device: str

    @property
    def native(self) -> tuple[float, ...]:
        """The levels that the model gives."""
        return tuple(self.pipeline.quantiles)


class ChronosBolt:
    """Adapter ``chronos-bolt``."""

    def hello(self) -> Mapping[str, str]:
        return {name: version(name) for name in ("chronos-forecasting", "torch", "transformers")}

    def ping(self) -> None:
        """Raises when the CUDA context has gone bad: every call into the driver fails then. Waits for no kernel."""
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.mem_get_info()

    def capabilities(self, model: Bolt, declared: Capabilities) -> Capabilities:
        return declared.model_copy(
            update={
                "max_context": model.pipeline.model_context_length,
                "native_horizon": model.pipeline.model_prediction_length,
                "quantiles": declared.quantiles.model_copy(update={"native": model.native}),
            }
        )

    def load(self, ref: ModelRef, placement: Placement) -> Bolt:
        """Raises ValueError for a snapshot that is no Chronos-Bolt model or lacks some of its weights."""
        os.environ["HF_HUB_OFFLINE"] = "1"
        import torch  # type: ignore[import-not-found]
        from chronos.base import BaseChronosPipeline  # type: ignore[import-not-found]
        from chronos.chronos_bolt import ChronosBoltPipeline  # type: ignore[import-not-found]
        from transformers.utils import logging  # type: ignore[import-not-found]

        logging.disable_progress_bar()
        logging.set_verbosity_error()
        # That long horizons are rolled out is told before the run.
        warnings.filterwarnings("ignore", message="We recommend keeping prediction length")
        torch.set_num_threads(placement.threads)
        pipeline = BaseChronosPipeline.from_pretrained(
            ref.snapshot,
            device_map=placement.device,
            torch_dtype=placement.dtype,
            local_files_only=True,
            use_safetensors=True,
        )
        if not isinstance(pipeline, ChronosBoltPipeline):
            raise ValueError("not a Chronos-Bolt model")
        _check_weights(pipeline.model, Path(ref.snapshot or ""))
        pipeline.predict(torch.zeros(1, pipeline.model_context_length), prediction_length=1)
        return Bolt(pipeline, placement.device)

    def unload(self, model: Bolt) -> None:
        model.pipeline = None
        gc.collect()
        if model.device == "cuda":
            sys.modules["torch"].cuda.empty_cache()

    def forecast(self, model: Bolt, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
        rolls_out = task.horizon > model.pipeline.model_prediction_length
        rows = ROWS // len(model.native) if rolls_out else ROWS
        answers: list[ItemForecast | ItemFailure] = []
        for start in range(0, len(items), rows):
            answers += _forecast(model, items[start : start + rows], task)
        return answers


def _forecast(model: Bolt, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
    import torch

    scales = [rescaling(item.target) for item in items]
    batch = np.full((len(items), max(item.target.size for item in items)), np.nan, dtype=np.float32)
    for row, item, scale in zip(batch, items, scales, strict=True):
        row[-item.target.size :] = item.target if scale is None else scale.apply(item.target)
    predicted = model.pipeline.predict(torch.from_numpy(batch), prediction_length=task.horizon)
    values = _at_levels(predicted, model.native, (0.5, *task.quantiles))
    answers: list[ItemForecast | ItemFailure] = []
    for forecast, scale in zip(values, scales, strict=True):
        if scale is not None:
            forecast = scale.restore(forecast)
        if np.isfinite(forecast).all():
            notes = () if scale is None else (WARNING,)
            answers.append(ItemForecast(forecast[0], forecast[1:], notes))
        else:
            answers.append(ItemFailure(RunnerFailed("The model gave a forecast that is not finite.").record))
    return answers


def _at_levels(predicted: Any, native: tuple[float, ...], levels: Sequence[float]) -> NDArray[np.float64]:
    """The model's quantiles, a tensor (B, Q, H), at other levels: (B, L, H)."""
    import torch

    between = sorted({level for level in levels if native[0] < level < native[-1]} - set(native))
    if between and native == TENTHS:
        # The library's own interpolation, for its very numbers; it takes the levels for tenths and pads to 0 and 1.
        predicted = predicted.sort(dim=1).values
        padded = torch.cat([predicted[:, :1], predicted, predicted[:, -1:]], dim=1)
        more = torch.quantile(padded, torch.tensor(between), dim=1).transpose(0, 1)
        predicted = torch.cat([predicted, more], dim=1)
        native = tuple(sorted((*native, *between)))
    return at_levels(predicted.double().numpy(), native, levels)


def _check_weights(network: Any, snapshot: Path) -> None:
    """Transformers fills weights that it does not find with random numbers; these would be random forecasts."""
    from safetensors import safe_open  # type: ignore[import-not-found]

    stored: set[str] = set()
    for file in snapshot.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as tensors:
            stored |= set(tensors.keys())
    missing = set(network.state_dict()) - stored
    shared = {name for name in missing | stored if name == "shared.weight" or name.endswith("embed_tokens.weight")}
    if shared & stored:
        missing -= shared  # one tensor under three names, stored under one of them
    if missing:
        raise ValueError(f"the snapshot lacks {len(missing)} of the model's weights")
