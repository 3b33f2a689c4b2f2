"""Moirai 1.0, 1.1 and MoE: quantiles and mean of sample paths, with numeric covariates.

The library draws from torch's global random numbers, so a batch would change each series' answer, and it gains no time.
Each series is a call of its own, seeded by the request's seed and its id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.adapters import _lazy, _torch, _uni2ts
from tollama.capabilities import Capabilities
from tollama.errors import UnsupportedByModel
from tollama.seam import Item, ItemFailure, ItemForecast, ModelRef, Placement, Task

PATCH_SIZES = {
    **dict.fromkeys(("Y", "YE", "YS", "BYE", "BYS", "Q", "QE", "QS", "BQE", "BQS"), 8),
    **dict.fromkeys(("M", "ME", "MS", "BME", "BMS", "CBME", "CBMS", "SME", "SMS"), 8),
    **dict.fromkeys(("W", "D", "B", "C"), 16),
    **dict.fromkeys(("h", "bh", "cbh", "min"), 32),
    **dict.fromkeys(("s", "ms", "us", "ns"), 64),
}
"""By frequency: the smallest that the authors trained Moirai 1 with (``DefaultPatchSizeConstraints`` in uni2ts)."""
MOE_PATCH_SIZE = 16
"""The one that Moirai-MoE was trained with."""
CELLS = 2**24
"""The most cells (tokens x tokens, and x samples for Moirai-MoE) of its attention: 400 MB in six heads. Every series
without covariates stays below; each covariate adds as many tokens as the series has."""


_TOO_MUCH = UnsupportedByModel(
    "The series has too many covariates for this much history.",
    hint="Send fewer covariates, or set options.context_length, a larger patch_size or fewer num_samples.",
)


@dataclass(slots=True)
class Loaded:
    """A loaded model; ``network`` is a ``MoiraiModule`` or ``MoiraiMoEModule``, None once unloaded, and ``wrapper``
    the class of the library that forecasts with it."""

    network: Any
    wrapper: Any
    moe: bool
    placement: Placement


class Moirai:
    """Adapters ``moirai`` and ``moirai-moe``."""

    chunk = 1

    def hello(self) -> Mapping[str, str]:
        return _torch.versions("uni2ts", "gluonts")

    def ping(self) -> None:
        _torch.ping()

    def capabilities(self, model: Loaded, declared: Capabilities) -> Capabilities:
        if model.moe:
            return declared.model_copy(update={"native_horizon": MOE_PATCH_SIZE})
        sizes = ("frequency", "auto", *map(str, model.network.patch_sizes))
        option = declared.options["patch_size"].model_copy(update={"choices": sizes})
        return declared.model_copy(update={"options": {**declared.options, "patch_size": option}})

    @_lazy.put_off(*_uni2ts.UNUSED)
    def load(self, ref: ModelRef, placement: Placement) -> Loaded:
        """Raises what `_uni2ts.load` does, and ValueError for a model without the patch sizes needed."""
        _torch.start(placement)
        moe = ref.adapter == "moirai-moe"
        if moe:
            from uni2ts.model.moirai_moe import MoiraiMoEForecast as Wrapper
            from uni2ts.model.moirai_moe import MoiraiMoEModule as Network
        else:
            from uni2ts.model.moirai import MoiraiForecast as Wrapper
            from uni2ts.model.moirai import MoiraiModule as Network

        model = Loaded(_uni2ts.load(Network, ref, placement), Wrapper, moe, placement)
        if not ({MOE_PATCH_SIZE} if moe else set(PATCH_SIZES.values())) <= set(model.network.patch_sizes):
            raise ValueError("the model lacks patch sizes that its kind has")
        options = {"seed": 0, "num_samples": 1, "patch_size": "frequency"}
        _forecast(model, Item("warm-up", np.zeros(1), "D", 1), Task(1, (), options))
        return model

    def unload(self, model: Loaded) -> None:
        model.network = None
        _torch.release(model.placement.device)

    def forecast(self, model: Loaded, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
        return [answer for item in items for answer in _forecast(model, item, task)]


def _forecast(model: Loaded, item: Item, task: Task) -> list[ItemForecast | ItemFailure]:
    import torch

    patch_size, notes = _patch_size(model, item, task)
    # To choose a size, the library reads a horizon more than its context: with this much padding it reads all.
    padding = task.horizon if patch_size == "auto" else 0
    ahead = sorted(item.future_covariates)
    past = sorted(set(item.past_covariates) - set(ahead))
    patch = min(model.network.patch_sizes) if isinstance(patch_size, str) else patch_size
    tokens = -(-item.target.size // patch) * (1 + len(ahead + past)) - (-task.horizon // patch) * (1 + len(ahead))
    if tokens**2 * (task.options["num_samples"] if model.moe else 1) > CELLS:
        return [ItemFailure(_TOO_MUCH.record)]
    values, known, scale = _uni2ts.column(item.target, impute=model.moe)
    inputs = {
        "past_target": _stack([values], padding),
        "past_observed_target": _stack([known], padding),
        "past_is_pad": np.arange(padding + values.size)[None] < padding,
    }
    if ahead:
        columns = [np.concatenate([item.past_covariates[name], item.future_covariates[name]]) for name in ahead]
        inputs |= _covariates("feat_dynamic_real", "observed_feat_dynamic_real", columns, padding)
    if past:
        columns = [item.past_covariates[name] for name in past]
        inputs |= _covariates("past_feat_dynamic_real", "past_observed_feat_dynamic_real", columns, padding)
    device = model.placement.device
    # The library's wrapper holds the lengths; it costs 0.2 ms to make and shares the network.
    forecaster = model.wrapper(
        prediction_length=task.horizon,
        target_dim=1,
        feat_dynamic_real_dim=len(ahead),
        past_feat_dynamic_real_dim=len(past),
        context_length=values.size,
        module=model.network,
        patch_size=patch_size,
        num_samples=task.options["num_samples"],
    ).to(device)
    tensors = {name: torch.from_numpy(part).to(device) for name, part in inputs.items()}
    try:
        with (
            torch.inference_mode(),
            _uni2ts.precision(model.placement),
            _torch.seeded(task.options["seed"], item.id, device),
        ):
            samples = forecaster(**tensors)[0].double().cpu().numpy()
    except ValueError:  # torch's distributions refuse parameters that are no numbers
        samples = np.full((1, task.horizon), np.nan)
    with np.errstate(invalid="ignore"):
        quantiles = np.quantile(samples, task.quantiles, axis=0)
    return _torch.answers(np.concatenate([samples.mean(axis=0)[None], quantiles])[None], [scale], notes)


def _patch_size(model: Loaded, item: Item, task: Task) -> tuple[int | str, tuple[str, ...]]:
    """The steps of a patch, or ``auto``, and what has to be told of the choice."""
    if model.moe:
        return MOE_PATCH_SIZE, ()
    asked = task.options["patch_size"]
    if asked not in ("auto", "frequency"):
        return int(asked), ()
    if asked == "auto" and item.target.size > task.horizon:
        return "auto", ()
    unit = re.match(r"\d*([A-Za-z]*)", item.freq)
    size = PATCH_SIZES.get(unit[1] if unit else "", 32)
    note = "The history is too short to choose a patch size by: that of its frequency was taken."
    return size, (note,) if asked == "auto" else ()


def _covariates(name: str, mask: str, columns: list[NDArray[np.float64]], padding: int) -> dict[str, NDArray[Any]]:
    """Each covariate on its own scale, as the network puts it on its own, too."""
    prepared = [_uni2ts.column(values) for values in columns]
    return {name: _stack([p[0] for p in prepared], padding), mask: _stack([p[1] for p in prepared], padding)}


def _stack(columns: list[NDArray[Any]], padding: int) -> NDArray[Any]:
    """Columns (T,) -> (1, padding + T, columns), 0 in front."""
    return np.pad(np.stack(columns, axis=-1), ((padding, 0), (0, 0)))[None]
