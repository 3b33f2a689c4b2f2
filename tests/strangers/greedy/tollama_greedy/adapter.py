"""Answers the last value again, with models and series that want memory.

``greedy-heavy-...`` hold 64 MB, ``greedy-block`` as many as the file says that ``GREEDY_BLOCK`` names. ``greedy-vast``
wants more than any machine has, and so do ``greedy-shy`` when another model is loaded beside it, ``greedy-narrow`` when
it is asked for more than three series at once, and a series ``huge``. A series ``odd`` is one that cannot be forecast,
``assert`` breaks a GPU, and ``slow`` takes four seconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tollama.capabilities import Capabilities
from tollama.seam import Item, ItemFailure, ItemForecast, ModelRef, Placement, Task

HEAVY = 64_000_000 // 8
NARROW = 3
SLOW_S = 4.0
PETABYTE = 10**15


@dataclass(slots=True)
class Loaded:
    """A model and the memory that it holds."""

    name: str
    block: NDArray[Any]


class Greedy:
    """Adapter ``greedy``."""

    chunk = 8

    def __init__(self) -> None:
        self._held: set[str] = set()

    def hello(self) -> Mapping[str, str]:
        return {"numpy": np.__version__}

    def ping(self) -> None:
        """The GPU that a series breaks is not there, so there is nothing to look at."""

    def capabilities(self, model: Loaded, declared: Capabilities) -> Capabilities:
        return declared

    def load(self, ref: ModelRef, placement: Placement) -> Loaded:
        if ref.name == "greedy-vast" or (ref.name == "greedy-shy" and self._held):
            np.empty(PETABYTE)
        self._held.add(ref.name)
        size = HEAVY if "heavy" in ref.name else 0
        if ref.name == "greedy-block":
            size = int(float(Path(os.environ["GREEDY_BLOCK"]).read_text()) * 1e6 / 8)
        return Loaded(ref.name, np.ones(size))

    def unload(self, model: Loaded) -> None:
        self._held.discard(model.name)
        model.block = np.ones(0)

    def forecast(self, model: Loaded, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
        if model.name == "greedy-narrow" and len(items) > NARROW:
            np.empty(PETABYTE)
        return [_forecast(item, task) for item in items]


def _forecast(item: Item, task: Task) -> ItemForecast:
    match item.id:
        case "huge":
            np.empty(PETABYTE)
        case "odd":
            raise ValueError("this series is odd")
        case "assert":
            raise RuntimeError("CUDA error: device-side assert triggered")
        case "slow":
            time.sleep(SLOW_S)
    value = item.target[~np.isnan(item.target)][-1]
    return ItemForecast(np.full(task.horizon, value), np.full((len(task.quantiles), task.horizon), value))
