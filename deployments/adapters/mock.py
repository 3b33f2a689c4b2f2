"""A model for people who write clients: instant, deterministic, no library.

The forecast repeats the last season of the history, or its last value if that is shorter than a season. Around it the
quantiles are those of a normal distribution whose standard deviation is a quarter of the history's range.
The options ``delay_s`` and ``fail`` let a client meet a slow model and each kind of failure.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tollama.capabilities import Capabilities
from tollama.errors import RunnerFailed
from tollama.quantiles import NORMAL
from tollama.seam import Item, ItemFailure, ItemForecast, ModelRef, Placement, Task


class Mock:
    """Adapter ``mock``; the model that it loads is its name."""

    chunk = 256

    def hello(self) -> Mapping[str, str]:
        return {"numpy": np.__version__}

    def ping(self) -> None:
        """Nothing here can go bad."""

    def capabilities(self, model: str, declared: Capabilities) -> Capabilities:
        return declared

    def load(self, ref: ModelRef, placement: Placement) -> str:
        return ref.name

    def unload(self, model: str) -> None:
        """Nothing is held."""

    def forecast(self, model: str, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
        z = np.array([NORMAL.inv_cdf(level) for level in task.quantiles])[:, None]
        answers: list[ItemForecast | ItemFailure] = [_forecast(item, z, task.horizon) for item in items]
        if delay := task.options.get("delay_s"):
            time.sleep(delay)
        match task.options.get("fail"):
            case "raise":
                raise RuntimeError("the request asked for it")
            case "non_finite":
                answers = [ItemForecast(a.mean + np.nan, a.quantiles) for a in answers if isinstance(a, ItemForecast)]
            case "item":
                failure = ItemFailure(RunnerFailed("The request asked for this series to fail.").record)
                answers = [failure if i.id.startswith("fail") else a for i, a in zip(items, answers, strict=True)]
        return answers


def _forecast(item: Item, z: NDArray[np.float64], horizon: int) -> ItemForecast:
    history = seen = item.target
    missing = np.isnan(history)
    if missing.any():
        seen = history[~missing]
        history = np.where(missing, seen[-1], history)
    season = history[-item.season_length :] if item.season_length <= history.size else seen[-1:]
    mean = np.resize(season, horizon)
    return ItemForecast(mean, mean + z * (seen.max() / 4 - seen.min() / 4))
