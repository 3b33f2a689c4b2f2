"""Moirai 2: nine quantiles in one pass, rolled out beyond its native horizon by the library.

Series are padded to whole patches and masked there, as the library's own predictor does it. Quantiles that cross are
put in order, which the library does not do; otherwise the numbers are the library's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deployments.adapters import _lazy, _torch, _uni2ts
from tollama.capabilities import Capabilities
from tollama.quantiles import at_levels
from tollama.seam import Item, ItemFailure, ItemForecast, ModelRef, Placement, Task

ROWS = 256
"""The most series of one tensor call."""
CELLS = 2**24
"""The most cells (rows x tokens x tokens) of its attention: 400 MB in the six heads of the published model."""


@dataclass(slots=True)
class Loaded:
    """A loaded model; ``network`` is a ``Moirai2Module``, None once unloaded."""

    network: Any
    placement: Placement

    @property
    def native_horizon(self) -> int:
        """The steps of one pass."""
        return int(self.network.num_predict_token * self.network.patch_size)


class Moirai2:
    """Adapter ``moirai-2``."""

    chunk = 32

    def hello(self) -> Mapping[str, str]:
        return _torch.versions("uni2ts", "gluonts")

    def ping(self) -> None:
        _torch.ping()

    def capabilities(self, model: Loaded, declared: Capabilities) -> Capabilities:
        native = tuple(model.network.quantile_levels)
        return declared.model_copy(
            update={
                "max_context": model.network.max_seq_len * model.network.patch_size,
                "native_horizon": model.native_horizon,
                "quantiles": declared.quantiles.model_copy(update={"native": native}),
            }
        )

    @_lazy.put_off(*_uni2ts.UNUSED)
    def load(self, ref: ModelRef, placement: Placement) -> Loaded:
        """Raises what `_uni2ts.load` does."""
        _torch.start(placement)
        from uni2ts.model.moirai2 import Moirai2Module

        model = Loaded(_uni2ts.load(Moirai2Module, ref, placement), placement)
        _forecast(model, [Item("warm-up", np.zeros(1), "D", 1)], Task(1, (), {}))
        return model

    def unload(self, model: Loaded) -> None:
        model.network = None
        _torch.release(model.placement.device)

    def forecast(self, model: Loaded, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
        answers: dict[int, ItemForecast | ItemFailure] = {}
        for rows in _batches(model, items, task.horizon):
            answers |= zip(rows, _forecast(model, [items[row] for row in rows], task), strict=True)
        return [answers[row] for row in range(len(items))]


def _batches(model: Loaded, items: Sequence[Item], horizon: int) -> Iterator[list[int]]:
    """The items' positions in lots that fit into memory, none padded to more than twice its tokens."""
    patch = model.network.patch_size
    paths = len(model.network.quantile_levels) if horizon > model.native_horizon else 1
    tokens = [-(-item.target.size // patch) - (-horizon // patch) for item in items]
    waiting = sorted(range(len(items)), key=tokens.__getitem__)
    while waiting:
        longest = tokens[waiting[-1]]
        rows = max(1, min(ROWS, CELLS // longest**2) // paths)
        batch = [row for row in waiting[-rows:] if 2 * tokens[row] >= longest]
        yield batch
        del waiting[-len(batch) :]


def _forecast(model: Loaded, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
    import torch
    from uni2ts.model.moirai2 import Moirai2Forecast

    patch, device = model.network.patch_size, model.placement.device
    context = -(-max(item.target.size for item in items) // patch) * patch
    values = np.zeros((len(items), context, 1), dtype=np.float32)
    known = np.zeros(values.shape, dtype=bool)
    padding = np.ones(values.shape[:2], dtype=bool)
    scales = []
    for row, item in enumerate(items):
        there = slice(context - item.target.size, None)
        values[row, there, 0], known[row, there, 0], scale = _uni2ts.column(item.target, impute=True)
        padding[row, there] = False
        scales.append(scale)
    # The library's wrapper holds the lengths; it costs 0.2 ms to make and shares the network.
    forecaster = Moirai2Forecast(
        prediction_length=task.horizon,
        target_dim=1,
        feat_dynamic_real_dim=0,
        past_feat_dynamic_real_dim=0,
        context_length=context,
        module=model.network,
    ).to(device)
    with torch.inference_mode(), _uni2ts.precision(model.placement):
        predicted = forecaster(*(torch.from_numpy(part).to(device) for part in (values, known, padding)))
    native = tuple(model.network.quantile_levels)
    forecasts = at_levels(predicted.double().cpu().numpy(), native, (0.5, *task.quantiles))
    return _torch.answers(forecasts, scales)
