"""Answers the last value again, and does whatever a file ``<verb>-<model>`` in the folder ``FAULTS`` says.

``kill`` ends the process as the kernel would, ``hang`` never comes back, a number takes so many seconds; any other text
is the message of a RuntimeError. A file ``<verb>-<model>-<series id>`` acts only in calls that have that series.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tollama.capabilities import Capabilities
from tollama.seam import Item, ItemFailure, ItemForecast, ModelRef, Placement, Task


class Faulty:
    """Adapter ``faulty``."""

    chunk = 8

    def hello(self) -> Mapping[str, str]:
        return {"numpy": np.__version__}

    def ping(self) -> None:
        """Nothing here can go bad by itself."""

    def capabilities(self, model: str, declared: Capabilities) -> Capabilities:
        return declared

    def load(self, ref: ModelRef, placement: Placement) -> str:
        _do(f"load-{ref.name}")
        return ref.name

    def unload(self, model: str) -> None:
        """Nothing is held."""

    def forecast(self, model: str, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
        _do(f"forecast-{model}", *(f"forecast-{model}-{item.id}" for item in items))
        return [_last(item, task) for item in items]


def _last(item: Item, task: Task) -> ItemForecast:
    value = item.target[~np.isnan(item.target)][-1]
    return ItemForecast(np.full(task.horizon, value), np.full((len(task.quantiles), task.horizon), value))


def _do(*names: str) -> None:
    for name in names:
        file = Path(os.environ["FAULTS"]) / name
        if not file.is_file():
            continue
        match file.read_text():
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                threading.Event().wait()
            case seconds if seconds.isdigit():
                time.sleep(int(seconds))
            case message:
                raise RuntimeError(message)
