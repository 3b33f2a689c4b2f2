"""TimesFM 2.5: nine quantiles up to 1024 steps ahead, the median rolled out in steps of 128 by the library.

The library runs with the flags that its authors recommend: normalised inputs, the quantile head, the mean of the
forecasts of the series and of its mirror image, nothing below zero after a history without it, crossed quantiles put
in order. Its numbers are passed on as they are.

Covariates are not taken: XReg, the library's regression on them, needs JAX built for CUDA, several gigabytes beside
the torch that is there already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deployments.adapters import _lazy, _timesfm, _torch
from tollama.capabilities import Capabilities
from tollama.quantiles import at_levels
from tollama.rescale import rescaling
from tollama.seam import Item, ItemFailure, ItemForecast, ModelRef, Placement, Task


@dataclass(slots=True)
class Model:
    """A loaded model; ``library`` is a ``TimesFM_2p5_200M_torch``, None once unloaded."""

    library: Any
    placement: Placement


class TimesFM2p5:
    """Adapter ``timesfm-2.5``."""

    chunk = _timesfm.ROWS

    def hello(self) -> Mapping[str, str]:
        return _torch.versions("timesfm")

    def ping(self) -> None:
        _torch.ping()

    def capabilities(self, model: Model, declared: Capabilities) -> Capabilities:
        config = model.library.model.config
        return declared.model_copy(
            update={
                "max_context": config.context_limit - config.output_quantile_len,
                "max_horizon": config.output_quantile_len,
                "native_horizon": config.output_patch_len,
                "quantiles": declared.quantiles.model_copy(update={"native": tuple(config.quantiles)}),
            }
        )

    @_lazy.put_off(*_torch.COMPILER)
    def load(self, ref: ModelRef, placement: Placement) -> Model:
        """Raises RuntimeError or FileNotFoundError for a snapshot that is no TimesFM 2.5 model or lacks weights."""
        torch = _torch.start(placement)
        from timesfm import TimesFM_2p5_200M_torch

        library = TimesFM_2p5_200M_torch(torch_compile=False)
        # It would take the first of all the GPUs that it finds, and batches for each of them.
        library.model.device, library.model.device_count = torch.device(placement.device), 1
        library.load_checkpoint(ref.snapshot)
        _timesfm.lighten(library.model, placement)
        model = Model(library, placement)
        _forecast(model, [Item("", np.zeros(1), "D", 1)], Task(1, (), {}))
        return model

    def unload(self, model: Model) -> None:
        model.library.compiled_decode = None  # holds the library's object, which holds it
        model.library = None
        _torch.release(model.placement.device)

    def forecast(self, model: Model, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
        patches = [-(-item.target.size // model.library.model.p) for item in items]
        return _timesfm.in_batches(items, patches, lambda batch: _forecast(model, batch, task))


def _forecast(model: Model, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
    from timesfm import ForecastConfig

    network = model.library.model
    scales = [rescaling(item.target) for item in items]
    histories = [
        item.target if scale is None else scale.apply(item.target) for item, scale in zip(items, scales, strict=True)
    ]
    # This compiles nothing: it sets what the next call computes, and that is always a full batch of full length.
    model.library.compile(
        ForecastConfig(
            max_context=_up(max(history.size for history in histories), network.p),
            max_horizon=_up(task.horizon, network.o),
            per_core_batch_size=len(items),
            normalize_inputs=True,
            use_continuous_quantile_head=True,
            force_flip_invariance=True,
            infer_is_positive=True,
            fix_quantile_crossing=True,
        )
    )
    with _timesfm.precision(model.placement):
        _, outputs = model.library.forecast(task.horizon, histories)
    # (B, H, 1 + 9), of which the first is a mean that the authors do not use
    quantiles = np.moveaxis(outputs[..., 1:], -1, 1).astype(np.float64)
    return _torch.answers(at_levels(quantiles, network.config.quantiles, (0.5, *task.quantiles)), scales)


def _up(steps: int, patch: int) -> int:
    return -(-steps // patch) * patch
