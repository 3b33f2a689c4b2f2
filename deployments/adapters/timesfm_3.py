"""TimesFM 3.0: nine quantiles at any horizon in one pass, with numeric covariates; the library puts them in order.

Its numbers are passed on as they are.
"""

from __future__ import annotations

import gc
import io
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.adapters import _lazy, _timesfm, _torch
from tollama.capabilities import Capabilities
from tollama.quantiles import at_levels
from tollama.rescale import rescaling
from tollama.seam import Item, ItemFailure, ItemForecast, ModelRef, Placement, Task


@dataclass(slots=True)
class Model:
    """A loaded model; ``forecaster`` is a ``TimesFM3Forecaster``, None once unloaded."""

    forecaster: Any
    placement: Placement


class TimesFM3:
    """Adapter ``timesfm-3.0``."""

    chunk = _timesfm.ROWS

    def hello(self) -> Mapping[str, str]:
        return _torch.versions("timesfm")

    def ping(self) -> None:
        _torch.ping()

    def capabilities(self, model: Model, declared: Capabilities) -> Capabilities:
        native = tuple(model.forecaster.config.quantiles)
        return declared.model_copy(
            update={
                "max_context": model.forecaster.global_context,
                "quantiles": declared.quantiles.model_copy(update={"native": native}),
            }
        )

    @_lazy.put_off(*_torch.COMPILER)
    def load(self, ref: ModelRef, placement: Placement) -> Model:
        """Raises FileNotFoundError, RuntimeError or ValueError for a snapshot that is no whole TimesFM 3.0 model."""
        _torch.start(placement)
        from timesfm import TimesFM3Forecaster

        # In bfloat16 only: its norms stay float32.
        warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
        # Without it the library would take the shape that it has by default, which is not quite the published one.
        (Path(ref.snapshot or "") / "config.json").stat()
        with redirect_stdout(io.StringIO()):  # it prints where it loads from
            forecaster = TimesFM3Forecaster.from_pretrained(
                ref.snapshot, device=placement.device, per_core_batch_size=_timesfm.ROWS, local_files_only=True
            )
        _torch.require_weights(forecaster.model, ref.snapshot)
        _timesfm.lighten(forecaster.model, placement)
        model = Model(forecaster, placement)
        _forecast(model, [Item("", np.zeros(1), "D", 1)], Task(1, (), {}))
        # The library collects garbage after every forecast, 50 ms in a process of this size; now it need not look at
        # what is here to stay.
        gc.collect()
        gc.freeze()
        return model

    def unload(self, model: Model) -> None:
        model.forecaster = None
        gc.unfreeze()
        _torch.release(model.placement.device)

    def forecast(self, model: Model, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
        # A series without covariates beside one that has them would be given covariates of zeros.
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, item in enumerate(items):
            groups[len(item.past_covariates), len(item.future_covariates)].append(index)
        answers: dict[int, ItemForecast | ItemFailure] = {}
        for (columns, _), indices in groups.items():
            group = [items[index] for index in indices]
            patches = [-(-item.target.size // model.forecaster.config.input_patch_length) for item in group]
            patches = [(1 + columns) * count for count in patches]
            done = _timesfm.in_batches(group, patches, lambda batch: _forecast(model, batch, task))
            answers.update(zip(indices, done, strict=True))
        return [answers[index] for index in range(len(items))]


def _forecast(model: Model, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
    scales = [rescaling(item.target) for item in items]
    with _timesfm.precision(model.placement):
        outputs = list(
            model.forecaster.predict_batch(
                [i.target if scale is None else scale.apply(i.target) for i, scale in zip(items, scales, strict=True)],
                task.horizon,
                past_only_covariates=[_columns(item, ahead=False) for item in items],
                past_future_covariates=[_columns(item, ahead=True) for item in items],
                return_quantiles=True,
            )
        )
    quantiles = np.stack([output.quantiles.T for output in outputs]).astype(np.float64)
    return _torch.answers(at_levels(quantiles, model.forecaster.config.quantiles, (0.5, *task.quantiles)), scales)


def _columns(item: Item, *, ahead: bool) -> NDArray[np.float64] | None:
    """The covariates that are known ahead, (C, T + H), or those that are not, (C, T); None if there are none."""
    columns = []
    for name, column in item.past_covariates.items():
        if (name in item.future_covariates) != ahead:
            continue
        if ahead:
            column = np.concatenate([column, item.future_covariates[name]])
        # Each is normalised by itself, so what 32 bits cannot hold may be moved to where they can.
        if not np.isnan(column).all() and (scale := rescaling(column)) is not None:
            column = scale.apply(column)
        columns.append(column)
    return np.stack(columns) if columns else None
