"""Chronos-Bolt: nine quantiles in one pass, rolled out beyond its native horizon by the library.

Quantiles that cross are put in order, which the library does not do; otherwise the numbers are the library's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.adapters import _chronos, _lazy, _torch
from deployments.adapters._chronos import Loaded
from tollama.capabilities import Capabilities
from tollama.quantiles import at_levels
from tollama.rescale import rescaling
from tollama.seam import Item, ItemFailure, ItemForecast, ModelRef, Placement, Task

ROWS = {"cpu": 32, "cuda": 256}
"""Series of one tensor call; on a CPU more gain nothing, and who comes after waits for them. A roll-out continues nine
paths of each, so it takes a ninth as many."""
TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class ChronosBolt:
    """Adapter ``chronos-bolt``."""

    chunk = ROWS["cpu"]

    def hello(self) -> Mapping[str, str]:
        return _chronos.versions()

    def ping(self) -> None:
        _torch.ping()

    def use_threads(self, threads: int) -> None:
        _torch.use_threads(threads)

    def capabilities(self, model: Loaded, declared: Capabilities) -> Capabilities:
        return _chronos.capabilities(model, declared)

    @_lazy.put_off(*_torch.TRANSFORMERS)
    def load(self, ref: ModelRef, placement: Placement) -> Loaded:
        """Raises ValueError for a snapshot that is no Chronos-Loaded model or lacks some of its weights."""
        self.chunk = ROWS[placement.device]
        pipeline = _chronos.load(ref, placement, "ChronosBoltPipeline")
        import torch

        _torch.require_weights(pipeline.model, ref.snapshot, shared=("shared.weight", "embed_tokens.weight"))
        pipeline.predict(torch.zeros(1, pipeline.model_context_length), prediction_length=1)
        return Loaded(pipeline, placement.device)

    def unload(self, model: Loaded) -> None:
        _chronos.unload(model)

    def forecast(self, model: Loaded, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
        rolls_out = task.horizon > model.pipeline.model_prediction_length
        rows = ROWS[model.device]
        if rolls_out:
            rows //= len(model.native)
        answers: list[ItemForecast | ItemFailure] = []
        for start in range(0, len(items), rows):
            answers += _forecast(model, items[start : start + rows], task)
        return answers


def _forecast(model: Loaded, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
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
