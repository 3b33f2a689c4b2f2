"""The statistical models of statsforecast: no weights, fitted to each series as it comes.

Where the model asked for cannot be fitted to a series, a simpler one is, and a warning says so. Quantiles are the
library's own intervals: the level ``q`` is the lower or upper end of the one that covers ``|1 - 2q|``. They are those
of a normal distribution, save Theta's, which the library takes from 200 paths simulated with a fixed seed.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from tollama.capabilities import Capabilities
from tollama.rescale import WARNING, rescaling
from tollama.seam import Item, ItemFailure, ItemForecast, ModelRef, Placement, Task

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kind:
    """One model of the library: its class there, the least history for which that models a season of so many steps,
    and the longest season that it can."""

    model: str
    needs: Callable[[int], int]
    max_season: int | None = None


WIDEST = 99.999999999
"""The widest interval asked for, in percent, as that of 100 has no ends: a level nearer to 0 or 1 than 5e-12 is an end
of this one."""
NAIVE = Kind("SeasonalNaive", lambda season: season + 1)
KINDS = {
    "seasonal-naive": NAIVE,
    "auto-theta": Kind("AutoTheta", lambda season: 2 * season),
    # One state per step of the season: with the 168 hours of a week a fit takes 2 s, with more it takes minutes.
    "auto-ets": Kind("AutoETS", lambda season: season + 1, max_season=168),
}
"""By the model's name."""


class Baseline:
    """Adapter ``statsforecast``; the model that it loads is a :class:`Kind`."""

    chunk = 4

    def hello(self) -> Mapping[str, str]:
        return {"statsforecast": version("statsforecast")}

    def ping(self) -> None:
        """There is no state that could go bad."""

    def capabilities(self, model: Kind, declared: Capabilities) -> Capabilities:
        return declared

    def load(self, ref: ModelRef, placement: Placement) -> Kind:
        """The kind of that name, its code loaded. Raises KeyError for another name."""
        kind = KINDS[ref.name]
        # Short and constant series make these warn by the dozen; what matters of it the forecast's own warnings say.
        for noisy in ("statsforecast", "statsmodels", "scipy"):
            warnings.filterwarnings("ignore", module=noisy)
        _fit(kind, 1, np.arange(30.0), Task(1, (0.5,), {}))
        return kind

    def unload(self, model: Kind) -> None:
        """Nothing is held."""

    def forecast(self, model: Kind, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
        return [_forecast(model, item, task) for item in items]


def _forecast(kind: Kind, item: Item, task: Task) -> ItemForecast:
    history, notes = item.target, []
    scale = rescaling(history)
    if scale is not None:
        history = scale.apply(history)
        notes.append(WARNING)
    asked = season = task.options.get("season_length") or item.season_length
    if season > 1 and history.size < kind.needs(season):
        notes.append(f"The history is too short for a season of {season} steps: none was modelled.")
        season = 1
    elif kind.max_season is not None and season > kind.max_season:
        notes.append(f"A season of {season} steps is too long for {kind.model}: none was modelled.")
        season = 1
    fit = _fit(kind, season, history, task)
    if fit is None and season > 1 and (fit := _fit(kind, 1, history, task)) is not None:
        notes.append(f"{kind.model} could not be fitted with a season of {season} steps: none was modelled.")
    if fit is None:
        season = asked if history.size >= NAIVE.needs(asked) else 1
        notes.append(f"{kind.model} could not be fitted: the last {'season' if season > 1 else 'value'} is repeated.")
        fit = _fit(NAIVE, season, history, task)
    assert fit is not None, "the naive forecast of a finite history is finite"
    if history.size == 1 and task.quantiles:
        notes.append("One value tells nothing of the spread: the quantiles equal the forecast.")
    mean, quantiles = fit if scale is None else (scale.restore(part) for part in fit)
    return ItemForecast(mean, quantiles, tuple(notes))


def _fit(
    kind: Kind, season: int, history: NDArray[np.float64], task: Task
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Mean (H,) and quantiles (Q, H); None if the library cannot fit the model or its forecast is not finite."""
    from statsforecast import models

    spans = [min(round(abs(1 - 2 * level) * 100, 9), WIDEST) for level in task.quantiles]
    try:
        result = getattr(models, kind.model)(season_length=season).forecast(
            history, task.horizon, level=sorted(set(spans)) or None
        )
    # Too little or unsuitable data raises whatever it runs into: NotImplementedError, KeyError, LinAlgError, Exception.
    except Exception as error:
        logger.debug("%s with a season of %s: %r", kind.model, season, error)
        return None
    quantiles = np.empty((len(spans), task.horizon))
    for row, (level, span) in enumerate(zip(task.quantiles, spans, strict=True)):
        quantiles[row] = result[f"{'lo' if level < 0.5 else 'hi'}-{span}"]
    if not (np.isfinite(result["mean"]).all() and np.isfinite(quantiles).all()):
        return None
    return result["mean"], np.sort(quantiles, axis=0)
