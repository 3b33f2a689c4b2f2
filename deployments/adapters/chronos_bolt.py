"""Chronos-Bolt: nine quantiles in one pass, rolled out beyond its native horizon by the library.

Quantiles that cross are put in order, which the library does not do; otherwise the numbers are the library's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.adapters import _torch
from tollama.capabilities import Capabilities
from tollama.quantiles import at_levels
from tollama.rescale import rescaling
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

    chunk = 256

    def hello(self) -> Mapping[str, str]:
        return _torch.versions("chronos-forecasting", "transformers")

    def ping(self) -> None:
        _torch.ping()

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
        torch = _torch.start(placement)
        from chronos.base import BaseChronosPipeline
        from chronos.chronos_bolt import ChronosBoltPipeline

        _torch.quiet_transformers()
        # That long horizons are rolled out is told before the run.
        warnings.filterwarnings("ignore", message="We recommend keeping prediction length")
        pipeline = BaseChronosPipeline.from_pretrained(
            ref.snapshot,
            device_map=placement.device,
            torch_dtype=placement.dtype,
            local_files_only=True,
            use_safetensors=True,
        )
        if not isinstance(pipeline, ChronosBoltPipeline):
            raise ValueError("not a Chronos-Bolt model")
        _torch.require_weights(pipeline.model, ref.snapshot, shared=("shared.weight", "embed_tokens.weight"))
        pipeline.predict(torch.zeros(1, pipeline.model_context_length), prediction_length=1)
        return Bolt(pipeline, placement.device)

    def unload(self, model: Bolt) -> None:
        model.pipeline = None
        _torch.release(model.device)

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
    return _torch.answers(values, scales)


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
