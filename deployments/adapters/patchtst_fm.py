"""PatchTST-FM: 99 quantiles in one pass; history and horizon share one window.

Series of different lengths go in one tensor, padded on the left and masked as such: the library's list of series is
padded to the whole window, which costs many times as much and gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.adapters import _lazy, _torch
from tollama.capabilities import Capabilities
from tollama.quantiles import at_levels
from tollama.rescale import rescaling
from tollama.seam import Item, ItemFailure, ItemForecast, ModelRef, Placement, Task

CHUNK = {"cpu": 8, "cuda": 64}
"""Series of one forecast call: of a whole window they take 1.1 s each on two cores, however many they are; of 512 steps
eight at once take a sixth less than four and four."""
STEPS = 32 * 1024
"""Steps of history and horizon of one tensor call, over all of its series: 32 of 1024, or 4 of 8192, the whole window.
More at once bring nothing on a CPU (measured: 0.9 series/s at 1 and at 32) and take 58 MB for each whole window."""


@dataclass(slots=True)
class PatchTst:
    """A loaded model; ``network`` is a ``PatchTSTFMForPrediction``, None once unloaded."""

    network: Any
    placement: Placement


class PatchTstFm:
    """Adapter ``patchtst-fm``."""

    chunk = CHUNK["cpu"]

    def hello(self) -> Mapping[str, str]:
        return _torch.versions("granite-tsfm", "transformers")

    def ping(self) -> None:
        _torch.ping()

    def capabilities(self, model: PatchTst, declared: Capabilities) -> Capabilities:
        config = model.network.config
        native = declared.quantiles.model_copy(update={"native": tuple(config.quantile_levels)})
        max_context = config.context_length - declared.max_horizon
        return declared.model_copy(update={"max_context": max_context, "quantiles": native})

    @_lazy.put_off(*_torch.GRANITE)
    def load(self, ref: ModelRef, placement: Placement) -> PatchTst:
        """Raises ValueError for a snapshot that lacks weights."""
        _torch.start(placement)
        self.chunk = CHUNK[placement.device]
        _torch.quiet_granite()
        from tsfm_public.models.patchtst_fm import PatchTSTFMForPrediction

        network = PatchTSTFMForPrediction.from_pretrained(ref.snapshot, local_files_only=True, use_safetensors=True)
        _torch.require_weights(network, ref.snapshot)
        model = PatchTst(network.to(placement.device), placement)
        _predict(model, [np.zeros(16)], 1, (0.5,))
        return model

    def unload(self, model: PatchTst) -> None:
        model.network = None
        _torch.release(model.placement.device)

    def forecast(self, model: PatchTst, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
        # A call costs what its longest series does, so none is more than twice as long as another.
        groups: dict[int, list[int]] = {}
        for index, item in enumerate(items):
            groups.setdefault(item.target.size.bit_length(), []).append(index)
        answers: dict[int, ItemForecast | ItemFailure] = {}
        for bits, members in groups.items():
            rows = max(1, STEPS // (2**bits + task.horizon))
            for start in range(0, len(members), rows):
                chosen = members[start : start + rows]
                answers.update(zip(chosen, _forecast(model, [items[index] for index in chosen], task), strict=True))
        return [answers[index] for index in range(len(items))]


def _forecast(model: PatchTst, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
    scales = [rescaling(item.target) for item in items]
    histories = [item.target if s is None else s.apply(item.target) for item, s in zip(items, scales, strict=True)]
    return _torch.answers(_predict(model, histories, task.horizon, task.quantiles), scales)


def _predict(
    model: PatchTst, histories: Sequence[NDArray[np.float64]], horizon: int, levels: Sequence[float]
) -> NDArray[np.float64]:
    """Forecasts (B, 1 + Q, horizon): the mean, by the library as the integral of its quantiles, then ``levels``."""
    import torch

    longest = max(history.size for history in histories)
    values = np.full((len(histories), longest, 1), np.nan, dtype=np.float32)
    padding = np.ones((len(histories), longest, 1), dtype=bool)
    for row, pad, history in zip(values[..., 0], padding[..., 0], histories, strict=True):
        row[-history.size :] = history
        pad[-history.size :] = False
    half, device = model.placement.dtype == "bfloat16", model.placement.device
    # Half precision for the matrix products only; on a GPU the library itself has it so, whatever is asked.
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=half):
        out = model.network(
            torch.from_numpy(values).to(device),
            pad_mask=torch.from_numpy(padding).to(device),
            prediction_length=horizon,
            return_dict=True,
        )
    native = out.quantile_outputs[..., 0].double().cpu().numpy()
    point = out.prediction_outputs[..., 0].double().cpu().numpy()
    return np.concatenate([point[:, None], at_levels(native, model.network.config.quantile_levels, levels)], axis=1)
