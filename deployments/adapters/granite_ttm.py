"""Tiny Time Mixers (Granite TTM): one fixed context and horizon per checkpoint, in one pass.

A shorter history is padded to the context and masked. What is masked holds the mean of the values seen: so it lies at
zero once the network has normalised, as it does in the library's own pipeline, which scales a series before it pads.
r1 and r2 give a point forecast; its quantiles are conformal. r3 gives nine quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.adapters import _lazy, _torch
from tollama import conformal
from tollama.capabilities import Capabilities
from tollama.quantiles import at_levels
from tollama.rescale import rescaling
from tollama.seam import Item, ItemFailure, ItemForecast, ModelRef, Placement, Task

ROWS = 256
"""Windows of one tensor call; more at once bring nothing on a CPU (measured: 3716 series/s at 32, 4621 at 256)."""
TOO_SHORT = (
    "The history is too short for errors of the model in it: the quantiles come from those of the seasonal naive."
)
ONE_VALUE = "One value tells nothing of the spread: the quantiles equal the forecast."

FREQUENCIES = {
    "oov": 0,
    "min": 1,
    "2min": 2,
    "5min": 3,
    "10min": 4,
    "15min": 5,
    "30min": 6,
    "h": 7,
    "H": 7,
    "d": 8,
    "D": 8,
    "W": 9,
}
"""The tokens of frequencies: ``DEFAULT_FREQUENCY_MAPPING`` of ``tsfm_public.toolkit.time_series_preprocessor``, written
down here because that module takes 1.3 s to import."""

Floats = NDArray[np.float64]


@dataclass(slots=True)
class Mixer:
    """A loaded model; ``network`` is None once unloaded.

    ``native`` are the levels that it gives, none for a point model. ``frequencies`` maps what the network knows of
    them to its tokens; None where the frequency is no input.
    """

    network: Any
    placement: Placement
    context: int
    horizon: int
    native: tuple[float, ...]
    frequencies: Mapping[str, int] | None


class GraniteTtm:
    """Adapter ``granite-ttm``."""

    chunk = 32  # with conformal quantiles forty windows each

    def hello(self) -> Mapping[str, str]:
        return _torch.versions("granite-tsfm", "transformers")

    def ping(self) -> None:
        _torch.ping()

    def use_threads(self, threads: int) -> None:
        _torch.use_threads(threads)

    def capabilities(self, model: Mixer, declared: Capabilities) -> Capabilities:
        quantiles = {"native": model.native, "method": "interpolated" if model.native else "conformal"}
        return declared.model_copy(
            update={
                "max_context": model.context,
                "max_horizon": model.horizon,
                "quantiles": declared.quantiles.model_copy(update=quantiles),
            }
        )

    @_lazy.put_off(*_torch.GRANITE)
    def load(self, ref: ModelRef, placement: Placement) -> Mixer:
        """Raises ValueError for a snapshot that lacks weights or is fine-tuned to several channels."""
        _torch.start(placement)
        _torch.quiet_granite()
        from tsfm_public.models.tinytimemixer import (
            TinyTimeMixerForDecomposedPrediction,
            TinyTimeMixerForPrediction,
        )

        # The library tells the decomposed ones (-dec-) by the revision's name, which a folder does not have.
        decomposed = any(name.startswith("trend_forecaster.") for name in _torch.stored(ref.snapshot))
        kind = TinyTimeMixerForDecomposedPrediction if decomposed else TinyTimeMixerForPrediction
        network = kind.from_pretrained(ref.snapshot, local_files_only=True, use_safetensors=True)
        _torch.require_weights(network, ref.snapshot)
        config = network.config
        if config.num_input_channels > 1 or config.exogenous_channel_indices or config.categorical_vocab_size_list:
            raise ValueError("this model is fine-tuned to several channels, which are not supported")
        vocabulary = config.frequency_token_vocab_size if config.resolution_prefix_tuning else 0
        model = Mixer(
            network.to(placement.device),
            placement,
            config.context_length,
            config.prediction_filter_length or config.prediction_length,
            tuple(config.quantile_levels) if config.multi_quantile_head else (),
            {name: token for name, token in FREQUENCIES.items() if token < vocabulary} or None,
        )
        _predict(model, [np.zeros(model.context)], ["h"], 1)
        return model

    def unload(self, model: Mixer) -> None:
        model.network = None
        _torch.release(model.placement.device)

    def forecast(self, model: Mixer, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
        if not model.native:
            return _conformal(model, items, task)
        scales = [rescaling(item.target) for item in items]
        windows = [item.target if s is None else s.apply(item.target) for item, s in zip(items, scales, strict=True)]
        predicted = _predict(model, windows, [item.freq for item in items], task.horizon)
        return _torch.answers(at_levels(predicted, model.native, (0.5, *task.quantiles)), scales)


def _conformal(model: Mixer, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
    """Forecasts with quantiles from errors at rolling origins, those of all items in one call. The forecasts are a
    call of their own, so that asking for quantiles does not change their last digit."""
    scales = [rescaling(item.target[-model.context :]) for item in items]
    histories = [item.target if s is None else s.apply(item.target) for item, s in zip(items, scales, strict=True)]
    freqs = [item.freq for item in items]
    points = _predict(model, [history[-model.context :] for history in histories], freqs, task.horizon)[:, 0]
    plans: list[list[int]] = []
    for history in histories:
        before = conformal.origins(history.size, model.context, task.horizon) if task.quantiles else []
        plans.append([at for at in before if np.isfinite(history[max(0, at - model.context) : at]).any()])
    past = _past(model, histories, plans, freqs, task.horizon)
    answers: list[ItemForecast | ItemFailure] = []
    for item, scale, history, before, point in zip(items, scales, histories, plans, points, strict=True):
        forecasts, past = past[: len(before)], past[len(before) :]
        quantiles, notes = _around(point, history, before, forecasts, item.season_length, task.quantiles)
        answers += _torch.answers(np.concatenate([point[None], quantiles])[None], [scale], notes)
    return answers


def _past(
    model: Mixer, histories: Sequence[Floats], plans: Sequence[list[int]], freqs: Sequence[str], horizon: int
) -> Floats:
    """Forecasts (N, horizon) from the origins ``plans`` of each history, one after the other."""
    windows = [
        history[max(0, at - model.context) : at]
        for history, before in zip(histories, plans, strict=True)
        for at in before
    ]
    if not windows:
        return np.empty((0, horizon))
    scales = [rescaling(window) for window in windows]
    windows = [window if s is None else s.apply(window) for window, s in zip(windows, scales, strict=True)]
    told = [freq for freq, before in zip(freqs, plans, strict=True) for _ in before]
    past = _predict(model, windows, told, horizon)[:, 0]
    for row, scale in zip(past, scales, strict=True):
        if scale is not None:
            row[:] = scale.restore(row)
    return past


def _around(
    point: Floats, history: Floats, before: list[int], past: Floats, season: int, levels: tuple[float, ...]
) -> tuple[Floats, tuple[str, ...]]:
    if not levels:
        return np.empty((0, point.size)), ()
    found = conformal.errors(history, before, past) if before else None
    if found is not None:
        return conformal.quantiles(point, found, levels), ()
    naive = conformal.naive_errors(history, season, point.size)
    if naive is not None:
        return conformal.quantiles(point, naive, levels), (TOO_SHORT,)
    return np.repeat(point[None], len(levels), axis=0), (ONE_VALUE,)


def _predict(model: Mixer, windows: Sequence[Floats], freqs: Sequence[str], horizon: int) -> Floats:
    """Forecasts (N, Q, horizon) of ``windows`` of at most the context; Q is 1 for a point model."""
    import torch

    half, device = model.placement.dtype == "bfloat16", model.placement.device
    done = []
    for start in range(0, len(windows), ROWS):
        part = windows[start : start + ROWS]
        values = np.empty((len(part), model.context, 1), dtype=np.float32)
        seen = np.zeros((len(part), model.context, 1), dtype=np.float32)
        for row, mask, window in zip(values[..., 0], seen[..., 0], part, strict=True):
            known = np.isfinite(window)
            mean = window[known].mean()
            row[: -window.size] = mean
            row[-window.size :] = np.where(known, window, mean)
            mask[-window.size :] = known
        more = {}
        if model.frequencies is not None:
            tokens = [_token(model.frequencies, freq) for freq in freqs[start : start + ROWS]]
            more["freq_token"] = torch.tensor(tokens, device=device)
        # Half precision for the matrix products only: in it the values themselves would keep but three digits.
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=half):
            out = model.network(
                torch.from_numpy(values).to(device),
                past_observed_mask=torch.from_numpy(seen).to(device),
                return_dict=True,
                **more,
            )
        predicted = out.quantile_outputs[..., 0] if model.native else out.prediction_outputs[:, None, :, 0]
        done.append(predicted[..., :horizon].double().cpu().numpy())
    return np.concatenate(done)


def _token(frequencies: Mapping[str, int], freq: str) -> int:
    """The token of a frequency, whatever its anchor; that of the unknown for one that the network was not told of."""
    return frequencies.get(freq, frequencies.get(freq.partition("-")[0], frequencies["oov"]))
