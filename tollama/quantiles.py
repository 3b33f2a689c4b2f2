"""From the quantiles that a model gives to those that were asked."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

NORMAL = NormalDist()


def at_levels(values: NDArray[np.float64], native: Sequence[float], levels: Sequence[float]) -> NDArray[np.float64]:
    """``values`` (..., Q, H) at the ascending levels ``native``, on both sides of 0.5 -> (..., L, H) at ``levels``.

    Crossed quantiles are put in order first, and the result never crosses. A native level is passed on as it is, one
    between two is interpolated linearly. One outside is extrapolated as a normal distribution would: the distance of
    the outermost native quantile from the median grows with the ratio of their standard normal quantiles.
    """
    known, asked = np.asarray(native), np.asarray(levels, dtype=np.float64)
    values = np.sort(values, axis=-2)
    last = len(known) - 1
    left = np.clip(np.searchsorted(known, asked, side="right") - 1, 0, last)
    right = np.minimum(left + 1, last)
    weight = np.clip((asked - known[left]) / np.where(left < right, known[right] - known[left], 1.0), 0.0, 1.0)
    below, above = values[..., left, :], values[..., right, :]
    result: NDArray[np.float64] = np.minimum(below + weight[:, None] * (above - below), above)
    for row, level in enumerate(levels):
        if native[0] <= level <= native[-1]:
            continue
        edge, outward = (0, np.minimum) if level < native[0] else (last, np.maximum)
        median, outermost = at_levels(values, native, [0.5])[..., 0, :], values[..., edge, :]
        ratio = NORMAL.inv_cdf(level) / NORMAL.inv_cdf(native[edge])
        result[..., row, :] = outward(median + ratio * (outermost - median), outermost)
    return result
