"""Chronos-2: 21 quantiles, with past and future covariates of numbers or text; rolled out by the library.

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
from tollama.rescale import Rescaling, rescaling
from tollama.seam import Item, ItemFailure, ItemForecast, ModelRef, Placement, Task

ROWS = {"cpu": 32, "cuda": 256}
"""Series and covariates of one tensor call; on a CPU more only take memory (measured: 31 series/s at 32, 25 at 256)."""
CROSS_ROWS = 256
"""The same for ``cross_learning``, whose answers depend on it: the library's own default."""
ROLL_OUT = 9
"""Paths of each row that a roll-out continues, so it takes so many times fewer rows."""
WARM_UP = 512
"""Steps of the first call."""


class Chronos2:
    """Adapter ``chronos-2``."""

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
        """Raises ValueError for a snapshot that is no Chronos-2 model or lacks some of its weights."""
        self.chunk = ROWS[placement.device]
        pipeline = _chronos.load(ref, placement, "Chronos2Pipeline")
        import torch

        _torch.require_weights(pipeline.model, ref.snapshot)
        pipeline.predict([torch.zeros(WARM_UP)], prediction_length=1)
        return Loaded(pipeline, placement.device)

    def unload(self, model: Loaded) -> None:
        _chronos.unload(model)

    def forecast(self, model: Loaded, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
        import torch

        cross_learning = task.options.get("cross_learning", False)
        rows = CROSS_ROWS if cross_learning else ROWS[model.device]
        if task.horizon > model.pipeline.model_prediction_length:
            rows //= ROLL_OUT
        scales = [rescaling(item.target) for item in items]
        inputs = _prepared(items, scales, task.horizon)
        predicted = model.pipeline.predict(
            inputs, prediction_length=task.horizon, batch_size=rows, cross_learning=cross_learning
        )
        values = _at_levels(torch.cat(predicted), model.native, (0.5, *task.quantiles))
        return _torch.answers(values, scales)


def _prepared(items: Sequence[Item], scales: Sequence[Rescaling | None], horizon: int) -> list[Any]:
    """The library's ``PreparedInput`` of each item. It is made for items with the same covariates at a time, as the
    library asks; prepared, all can be in one call."""
    from chronos.chronos2.preprocess import from_list_of_dicts

    alike: dict[Any, list[int]] = {}
    for index, item in enumerate(items):
        past = frozenset((name, column.dtype == object) for name, column in item.past_covariates.items())
        alike.setdefault((past, frozenset(item.future_covariates)), []).append(index)
    prepared: list[Any] = [None] * len(items)
    for indices in alike.values():
        tasks = [_task(items[index], scales[index]) for index in indices]
        for index, one in zip(indices, from_list_of_dicts(tasks, horizon), strict=True):
            prepared[index] = one
    return prepared


def _task(item: Item, scale: Rescaling | None) -> dict[str, Any]:
    """One item in the library's words."""
    past, future = dict(item.past_covariates), dict(item.future_covariates)
    for name in past:
        # One number that float32 cannot hold would make the whole batch NaN. Nothing is to be undone in the forecast:
        # the model standardises each covariate by itself.
        known = [columns[name] for columns in (past, future) if name in columns]
        numbers = np.concatenate(known)
        if numbers.dtype != object and not np.isnan(numbers).all() and (fitting := rescaling(numbers)):
            for columns in (past, future):
                if name in columns:
                    columns[name] = fitting.apply(columns[name])
    target = item.target if scale is None else scale.apply(item.target)
    return {"target": target, "past_covariates": past, "future_covariates": future}


def _at_levels(predicted: Any, native: tuple[float, ...], levels: Sequence[float]) -> NDArray[np.float64]:
    """The model's quantiles, a tensor (B, Q, H), at other levels: (B, L, H)."""
    import torch
    from chronos.utils import interpolate_quantiles

    between = sorted({level for level in levels if native[0] < level < native[-1]} - set(native))
    if between:  # by the library's own interpolation, for its very numbers
        predicted = predicted.sort(dim=1).values
        more = interpolate_quantiles(between, list(native), predicted.transpose(1, 2)).transpose(1, 2)
        predicted = torch.cat([predicted, more], dim=1)
        native = tuple(sorted((*native, *between)))
    return at_levels(predicted.double().numpy(), native, levels)
