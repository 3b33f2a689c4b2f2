"""Chronos-T5: quantiles and mean of sample paths, rolled out by the library beyond 64 steps.

The library draws from torch's global random numbers, so a batch would change each series' answer, and it gains no time
(measured: 0.8 series/s alone, 0.9 by 32). Each series is a call of its own, seeded by the request's seed and its id.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from deployments.adapters import _chronos, _lazy, _torch
from deployments.adapters._chronos import Loaded
from tollama.capabilities import Capabilities
from tollama.rescale import rescaling
from tollama.seam import Item, ItemFailure, ItemForecast, ModelRef, Placement, Task


class ChronosT5:
    """Adapter ``chronos-t5``."""

    chunk = 1

    def hello(self) -> Mapping[str, str]:
        return _chronos.versions()

    def ping(self) -> None:
        _torch.ping()

    def capabilities(self, model: Loaded, declared: Capabilities) -> Capabilities:
        return _chronos.capabilities(model, declared)

    @_lazy.put_off(*_torch.TRANSFORMERS)
    def load(self, ref: ModelRef, placement: Placement) -> Loaded:
        """Raises ValueError for a snapshot that is no Chronos-Loaded model or lacks some of its weights."""
        pipeline = _chronos.load(ref, placement, "ChronosPipeline")
        import torch
        from chronos.chronos import logger

        logger.setLevel(logging.ERROR)  # that long horizons are rolled out is told before the run
        network = pipeline.model.model
        shared = ["shared.weight", "embed_tokens.weight"]
        if network.config.tie_word_embeddings:
            shared.append("lm_head.weight")
        _torch.require_weights(network, ref.snapshot, shared=shared)
        pipeline.predict(torch.zeros(1, pipeline.model_context_length), prediction_length=1, num_samples=1)
        return Loaded(pipeline, placement.device)

    def unload(self, model: Loaded) -> None:
        _chronos.unload(model)

    def forecast(self, model: Loaded, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
        return [answer for item in items for answer in _forecast(model, item, task)]


def _forecast(model: Loaded, item: Item, task: Task) -> list[ItemForecast | ItemFailure]:
    import torch

    scale = rescaling(item.target)
    history = (item.target if scale is None else scale.apply(item.target)).astype(np.float32)
    with _torch.seeded(task.options["seed"], item.id, model.device):
        quantiles, mean = model.pipeline.predict_quantiles(
            torch.from_numpy(history),
            prediction_length=task.horizon,
            quantile_levels=[*task.quantiles] or [0.5],
            num_samples=task.options["num_samples"],
        )
    levels = np.sort(quantiles.double().numpy().swapaxes(1, 2)[:, : len(task.quantiles)], axis=1)
    return _torch.answers(np.concatenate([mean.double().numpy()[:, None], levels], axis=1), [scale])
