"""Scores of a forecast against what really came.

All work on float64 arrays: ``actuals`` and ``mean`` of shape (H,), ``quantiles`` (Q, H) at ``levels``, ``history``
(T,). Steps whose actual is NaN are left out. A score that is not defined is None, never NaN or infinite.
Ratios are fractions, not per cent, as in AutoGluon and GluonTS.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Case:
    actuals: Floats
    mean: Floats
    quantiles: Floats
    levels: Floats
    history: Floats
    season: int


def mae(case: _Case) -> float:
    """Mean absolute error: mean |y - f|."""
    return float(np.mean(np.abs(case.actuals - case.mean)))


def rmse(case: _Case) -> float:
    """Root mean squared error: sqrt(mean (y - f)^2)."""
    return float(np.sqrt(np.mean((case.actuals - case.mean) ** 2)))


def mape(case: _Case) -> float | None:
    """Mean absolute percentage error: mean |y - f| / |y| over the steps with y != 0 (AutoGluon)."""
    some = case.actuals != 0
    return _mean(np.abs(case.actuals - case.mean)[some] / np.abs(case.actuals)[some])


def smape(case: _Case) -> float | None:
    """Symmetric MAPE: mean 2 |y - f| / (|y| + |f|), from 0 to 2 (Makridakis 1993); 0 where both are 0."""
    size = np.abs(case.actuals) + np.abs(case.mean)
    error = 2 * np.abs(case.actuals - case.mean)
    return _mean(np.divide(error, size, out=np.zeros_like(size), where=size > 0))


def wape(case: _Case) -> float | None:
    """Weighted absolute percentage error: sum |y - f| / sum |y| (AutoGluon)."""
    return _ratio(float(np.sum(np.abs(case.actuals - case.mean))), float(np.sum(np.abs(case.actuals))))


def mase(case: _Case) -> float | None:
    """Mean absolute scaled error: MAE over the seasonal naive's MAE inside the history (Hyndman & Koehler 2006)."""
    return _ratio(mae(case), _mean(np.abs(_seasonal_steps(case))))


def rmsse(case: _Case) -> float | None:
    """Root mean squared scaled error: as MASE with squares, then the root (M5 competition 2020)."""
    scale = _mean(_seasonal_steps(case) ** 2)
    squared = _ratio(float(np.mean((case.actuals - case.mean) ** 2)), scale)
    return None if squared is None else math.sqrt(squared)


def pinball(case: _Case) -> float | None:
    """Quantile loss: mean over levels and steps of max(q (y - f), (q - 1) (y - f)) (Koenker & Bassett 1978)."""
    return _mean(_pinball(case))


def wql(case: _Case) -> float | None:
    """Weighted quantile loss: 2 sum of quantile losses / (levels x sum |y|) (AutoGluon, Chronos)."""
    if not case.levels.size:
        return None
    return _ratio(2 * float(np.sum(_pinball(case))), case.levels.size * float(np.sum(np.abs(case.actuals))))


def coverage(case: _Case) -> float | None:
    """Share of actuals inside the interval from the lowest to the highest level asked; needs two levels."""
    if case.levels.size < 2:
        return None
    inside = (case.actuals >= case.quantiles[0]) & (case.actuals <= case.quantiles[-1])
    return float(np.mean(inside))


METRICS: Mapping[str, Callable[[_Case], float | None]] = {
    metric.__name__: metric for metric in (mae, rmse, mape, smape, wape, mase, rmsse, pinball, wql, coverage)
}


def score(
    names: Sequence[str],
    actuals: Floats,
    mean: Floats,
    quantiles: Floats,
    levels: Sequence[float],
    history: Floats,
    season: int,
) -> dict[str, float | None]:
    """The scores ``names`` (keys of ``METRICS``) of one series; ``season`` in steps, for MASE and RMSSE."""
    known = ~np.isnan(actuals)
    if not known.any():
        return dict.fromkeys(names)
    case = _Case(
        actuals[known],
        mean[known],
        quantiles.reshape(len(levels), -1)[:, known] if len(levels) else np.empty((0, int(known.sum()))),
        np.asarray(levels, dtype=np.float64),
        history,
        season,
    )
    with np.errstate(all="ignore"):  # an overflow becomes None below
        return {name: _finite(METRICS[name](case)) for name in names}


def summary(scores: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The mean of each score over the series in which it is defined; each series counts the same."""
    names = dict.fromkeys(name for one in scores for name in one)
    defined = {name: [value for one in scores if (value := one.get(name)) is not None] for name in names}
    return {name: _finite(_mean(np.array(values))) for name, values in defined.items()}


def _pinball(case: _Case) -> Floats:
    error = case.actuals - case.quantiles
    level = case.levels[:, None]
    return np.maximum(level * error, (level - 1) * error)


def _seasonal_steps(case: _Case) -> Floats:
    steps = case.history[case.season :] - case.history[: -case.season]
    return steps[~np.isnan(steps)]


def _mean(values: Floats) -> float | None:
    return float(np.mean(values)) if values.size else None


def _ratio(above: float, below: float | None) -> float | None:
    return above / below if below else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
