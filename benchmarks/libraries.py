"""How the users of each library call it, by the name of our adapter. Runs inside the families' environments.

Each entry of :data:`LIBRARIES` loads a snapshot by the library's own loader and gives ways to call it: a way makes its
inputs of the items (frames, tensors, datasets, outside of what is timed) and is then :class:`Asked`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.adapters._torch import quiet_granite
from tollama.seam import Item, Task


@dataclass(frozen=True, slots=True)
class Asked:
    """A call ready to be made, and what reads of its result the quantiles (B, Q, H); the point (B, 1, H) of a point
    model."""

    call: Callable[[], Any]
    read: Callable[[Any], NDArray[Any]]


Ways = dict[str, Callable[[Sequence[Item]], Asked]]

BATCH = 32
"""Series of one tensor call, where the library asks: no fewer than any case here has."""


def chronos(snapshot: str, task: Task) -> Ways:
    """Chronos-Bolt: an array in and out, and a frame in and out."""
    import torch
    from chronos import BaseChronosPipeline

    pipeline = BaseChronosPipeline.from_pretrained(snapshot, device_map="cpu", torch_dtype="float32")
    levels = list(task.quantiles)

    def predict_quantiles(items: Sequence[Item]) -> Asked:
        inputs = [torch.tensor(item.target, dtype=torch.float32) for item in items]
        return Asked(
            lambda: pipeline.predict_quantiles(inputs, prediction_length=task.horizon, quantile_levels=levels),
            # Chronos-2 gives a list of (1, H, Q), the others one tensor (B, H, Q).
            lambda result: np.stack([np.asarray(one).reshape(task.horizon, -1).T for one in result[0]]),
        )

    def predict_df(items: Sequence[Item]) -> Asked:
        frame = _frame(items, "item_id", "timestamp", "target")
        shape = (len(items), task.horizon, len(levels))
        return Asked(
            lambda: pipeline.predict_df(frame, prediction_length=task.horizon, quantile_levels=levels),
            lambda result: result[[str(level) for level in levels]].to_numpy().reshape(shape).swapaxes(1, 2),
        )

    return {"predict_quantiles": predict_quantiles, "predict_df": predict_df}


def chronos_t5(snapshot: str, task: Task) -> Ways:
    """Chronos-T5, an array in and out only: its time is all in the drawing."""
    return {"predict_quantiles": chronos(snapshot, task)["predict_quantiles"]}


def granite_ttm(snapshot: str, task: Task) -> Ways:
    """The library's pipeline, a frame in and out; it gives the whole horizon of the checkpoint."""
    quiet_granite()
    from tsfm_public import TimeSeriesForecastingPipeline
    from tsfm_public.models.tinytimemixer import TinyTimeMixerForPrediction

    network = TinyTimeMixerForPrediction.from_pretrained(snapshot)
    pipeline = TimeSeriesForecastingPipeline(
        network,
        id_columns=["id"],
        timestamp_column="date",
        target_columns=["value"],
        freq="D",
        batch_size=BATCH,
        explode_forecasts=False,
        device="cpu",
    )
    names = [f"value_prediction_q{level}" for level in task.quantiles] or ["value_prediction"]

    def forecast(items: Sequence[Item]) -> Asked:
        frame = _frame(items, "id", "date", "value")
        return Asked(
            lambda: pipeline(frame),
            lambda result: np.array(result.sort_values("id")[names].values.tolist())[..., : task.horizon],
        )

    return {"TimeSeriesForecastingPipeline": forecast}


def flowstate(snapshot: str, task: Task) -> Ways:
    """FlowState as its model card calls it: a tensor (T, B, 1), and the scale of the season."""
    quiet_granite()
    import torch
    from tsfm_public import FlowStateForPrediction

    network = FlowStateForPrediction.from_pretrained(snapshot)

    def forecast(items: Sequence[Item]) -> Asked:
        values = torch.tensor(np.stack([item.target for item in items], axis=1)[..., None], dtype=torch.float32)
        scale = 24 / items[0].season_length

        def call() -> Any:
            with torch.inference_mode():
                return network(values, scale_factor=scale, prediction_length=task.horizon, batch_first=False)

        return Asked(call, lambda result: result.quantile_outputs[..., 0].numpy())

    return {"model(tensor)": forecast}


def patchtst_fm(snapshot: str, task: Task) -> Ways:
    """PatchTST-FM, a tensor (B, T, 1) of series of one length: a list of them costs the library many times as much."""
    quiet_granite()
    import torch
    from tsfm_public import PatchTSTFMForPrediction

    network = PatchTSTFMForPrediction.from_pretrained(snapshot)

    def forecast(items: Sequence[Item]) -> Asked:
        values = torch.tensor(np.stack([item.target for item in items])[..., None], dtype=torch.float32)

        def call() -> Any:
            with torch.inference_mode():
                return network(values, prediction_length=task.horizon, quantile_levels=list(task.quantiles))

        return Asked(call, lambda result: result.quantile_outputs[..., 0].numpy())

    return {"model(tensor)": forecast}


def timesfm_2p5(snapshot: str, task: Task) -> Ways:
    """TimesFM 2.5 with the flags of its README, compiled for just the case: it always computes all that it was
    compiled for."""
    from timesfm import ForecastConfig, TimesFM_2p5_200M_torch

    model = TimesFM_2p5_200M_torch.from_pretrained(snapshot, torch_compile=False, local_files_only=True)

    def forecast(items: Sequence[Item]) -> Asked:
        series = [item.target for item in items]
        config = ForecastConfig(
            max_context=len(series[0]),
            max_horizon=-(-task.horizon // model.model.o) * model.model.o,
            per_core_batch_size=len(series),
            normalize_inputs=True,
            use_continuous_quantile_head=True,
            force_flip_invariance=True,
            infer_is_positive=True,
            fix_quantile_crossing=True,
        )

        model.compile(config)
        return Asked(
            lambda: model.forecast(task.horizon, list(series)), lambda result: result[1][..., 1:].swapaxes(1, 2)
        )

    return {"forecast": forecast}


def timesfm_3(snapshot: str, task: Task) -> Ways:
    """TimesFM 3.0 as its README calls it, its own batches included."""
    from timesfm import TimesFM3Forecaster

    forecaster = TimesFM3Forecaster.from_pretrained(snapshot, device="cpu", local_files_only=True)

    def predict_batch(items: Sequence[Item]) -> Asked:
        series = [item.target for item in items]
        return Asked(
            lambda: list(forecaster.predict_batch(series, task.horizon, return_quantiles=True)),
            lambda result: np.stack([one.quantiles.T for one in result]),
        )

    return {"predict_batch": predict_batch}


def moirai(snapshot: str, task: Task) -> Ways:
    """Moirai 1 with the patch size that our adapter takes: the library's own choice, auto, costs five times as much."""
    from uni2ts.model.moirai import MoiraiForecast, MoiraiModule

    return _gluonts(MoiraiForecast, MoiraiModule, snapshot, task, patch_size=16, samples=True)


def moirai_moe(snapshot: str, task: Task) -> Ways:
    """Moirai-MoE."""
    from uni2ts.model.moirai_moe import MoiraiMoEForecast, MoiraiMoEModule

    return _gluonts(MoiraiMoEForecast, MoiraiMoEModule, snapshot, task, patch_size=16, samples=True)


def moirai_2(snapshot: str, task: Task) -> Ways:
    """Moirai 2."""
    from uni2ts.model.moirai2 import Moirai2Forecast, Moirai2Module

    return _gluonts(Moirai2Forecast, Moirai2Module, snapshot, task, samples=False)


def _gluonts(forecaster: Any, network: Any, snapshot: str, task: Task, *, samples: bool, **more: Any) -> Ways:
    """The predictor of gluonts, its dataset a list of dicts; of sample paths the mean and the quantiles are taken."""
    import pandas as pd

    warnings.simplefilter("ignore")
    module = network.from_pretrained(snapshot)
    if samples:
        more["num_samples"] = task.options["num_samples"]

    def predict(items: Sequence[Item]) -> Asked:
        predictor = forecaster(
            prediction_length=task.horizon,
            context_length=items[0].target.size,
            target_dim=1,
            feat_dynamic_real_dim=0,
            past_feat_dynamic_real_dim=0,
            module=module,
            **more,
        ).create_predictor(batch_size=BATCH, device="cpu")
        dataset = [{"start": pd.Period("2020-01-01", "D"), "target": item.target, "item_id": item.id} for item in items]

        def call() -> Any:
            forecasts = list(predictor.predict(dataset))
            if not samples:
                return [forecast.forecast_array for forecast in forecasts]
            drawn = [forecast.samples for forecast in forecasts]
            return [np.concatenate([[one.mean(axis=0)], np.quantile(one, task.quantiles, axis=0)])[1:] for one in drawn]

        return Asked(call, np.stack)

    return {"create_predictor": predict}


def _frame(items: Sequence[Item], id: str, time: str, value: str) -> Any:
    """A long frame of daily series."""
    import pandas as pd

    days = pd.date_range("2020-01-01", periods=items[0].target.size, freq="D")
    return pd.concat([pd.DataFrame({id: item.id, time: days, value: item.target}) for item in items], ignore_index=True)


LIBRARIES: dict[str, Callable[[str, Task], Ways]] = {
    "chronos-bolt": chronos,
    "chronos-2": chronos,
    "chronos-t5": chronos_t5,
    "granite-ttm": granite_ttm,
    "flowstate": flowstate,
    "patchtst-fm": patchtst_fm,
    "timesfm-2.5": timesfm_2p5,
    "timesfm-3.0": timesfm_3,
    "moirai": moirai,
    "moirai-moe": moirai_moe,
    "moirai-2": moirai_2,
}
