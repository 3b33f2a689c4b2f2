"""Quantiles for a model that gives a point forecast only: split-conformal, from its signed errors in the history.

The model forecasts from earlier points of the history (rolling origins), and what it missed by, step by step, is put
around its forecast of the future. The level ``q`` of ``n`` errors is their ``q (n + 1)``-th smallest, with linear
interpolation between two and the outermost beyond: for errors that are exchangeable the next one lies below it with
probability ``q`` (Vovk, Gammerman and Shafer, *Algorithmic Learning in a Random World*, 2005; signed errors, each
side on its own: Linusson, Johansson and Lofstrom, *Signed-Error Conformal Regression*, 2014). The errors of a series
are exchangeable only roughly, so the levels hold roughly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAST = 8
"""Origins below which a model's own errors say too little."""
ORIGINS = 39
"""Origins at most: 40 divides every level that is a multiple of 0.025 evenly."""


def origins(length: int, context: int, horizon: int) -> list[int]:
    """Steps of history before each rolling origin, the newest first; none if fewer than ``LEAST`` fit.

    ``length`` and the model's ``context`` are in steps. An origin has ``horizon`` steps after it, and before it the
    whole context or, where that leaves fewer than ``ORIGINS``, half of what there is. Origins are as far apart as the
    history allows, up to a horizon.
    """
    last = length - horizon
    room = last - (context if last - context >= ORIGINS - 1 else min(context, last // 2))
    if last < 2 or room < LEAST - 1:
        return []
    apart = max(1, min(room // (ORIGINS - 1), horizon))
    return [last - apart * step for step in range(min(ORIGINS, room // apart + 1))]


def errors(history: Floats, before: Sequence[int], forecasts: Floats) -> Floats | None:
    """``history`` (T,) less ``forecasts`` (N, H), each made from the first ``before[n]`` steps: (N, H), NaN where a
    value is missing. None if some step has fewer than ``LEAST`` errors."""
    horizon = forecasts.shape[1]
    with np.errstate(invalid="ignore", over="ignore"):
        found = np.array([history[at : at + horizon] for at in before]).reshape(-1, horizon) - forecasts
    known = np.isfinite(found)
    return np.where(known, found, np.nan) if known.sum(axis=0).min() >= LEAST else None


def naive_errors(history: Floats, season: int, horizon: int) -> Floats | None:
    """Errors (N, H) of the seasonal naive forecast within ``history`` (T,), or of the last value if no two values are
    a ``season`` apart; None if there is none.

    They are those of one season ahead, about their median, as its bias is not the model's; ``k`` seasons ahead they
    grow with the square root of ``k`` (Hyndman and Athanasopoulos, *Forecasting: Principles and Practice*, 3rd ed.,
    section 5.5).
    """
    for step in (season, 1):
        found = history[step:] - history[:-step]
        found = found[np.isfinite(found)]
        if found.size:
            seasons = np.ceil(np.arange(1, horizon + 1) / step)
            spread: Floats = (found - np.median(found))[:, None] * np.sqrt(seasons)
            return spread
    return None


def quantiles(point: Floats, found: Floats, levels: Sequence[float]) -> Floats:
    """``point`` (H,) and ``found`` errors (N, H) -> quantiles (Q, H) at ``levels``, non-decreasing along Q."""
    around = np.nanquantile(found, levels, axis=0, method="weibull")
    ordered: Floats = np.maximum.accumulate(point + around, axis=0)
    return ordered
