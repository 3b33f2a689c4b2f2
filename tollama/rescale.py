"""Series whose numbers 32-bit arithmetic cannot hold: moved to where it can, exactly, and their forecast back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LARGEST = 1e15
"""Squares of larger values come near the end of float32 (3.4e38), and models square them when they normalise."""
SMALLEST = 1e-15
"""Squares of smaller values fall below float32's smallest normal number (1.2e-38)."""
NARROWEST = 1e-5
"""A range of fewer than this times the level is under 170 steps of float32 (resolution 6e-8)."""

WARNING = (
    "Its values are too large, too small or too close together for the model's arithmetic: they were shifted and "
    "scaled exactly, and the forecast back."
)


@dataclass(frozen=True, slots=True)
class Rescaling:
    """``x -> (x - offset) / 2**exponent`` and back; both steps are exact for the series that it was made for."""

    offset: float
    exponent: int

    def apply(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The values as the model is to see them, any shape."""
        return np.ldexp(values - self.offset, -self.exponent)

    def restore(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The model's answer on the scale of the series; infinite where float64 ends."""
        with np.errstate(over="ignore"):
            return np.ldexp(values, self.exponent) + self.offset


def rescaling(values: NDArray[np.float64]) -> Rescaling | None:
    """What ``values`` (T,), at least one of them a number, need before a cast to float32; None: nothing.

    An offset is taken off where the range is narrower than ``NARROWEST`` of the level (a constant has no range and
    keeps its level); the scale is a power of two, where values are then still beyond ``LARGEST`` or ``SMALLEST``.
    """
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    middle = low / 2 + high / 2
    offset = middle if 0 < high / 2 - low / 2 < NARROWEST / 2 * abs(middle) else 0.0
    size = max(high - offset, offset - low)
    exponent = 0 if size == 0 or SMALLEST <= size <= LARGEST else math.frexp(size)[1]
    return Rescaling(offset, exponent) if offset or exponent else None
