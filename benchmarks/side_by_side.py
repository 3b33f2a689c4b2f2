"""An adapter and its library in turns, on the same weights, in one process. Runs inside the families' environments."""

from __future__ import annotations

import gc
import importlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import bodies
from benchmarks.libraries import LIBRARIES, Asked
from tollama.seam import Adapter, Item, ItemForecast, ModelRef, Placement, Task

SEASON = 7
LEAST, MOST = 3, 40
"""Rounds of each case."""


@dataclass(frozen=True, slots=True)
class Case:
    """So many series: median milliseconds of the adapter and, by way, of the library, and how far the numbers of that
    are from the adapter's, as a share of the largest of the series."""

    series: int
    ours: float
    library: dict[str, float]
    difference: dict[str, float]


def alone(
    target: str, ref: ModelRef, task: Task, steps: int, series: int, threads: int, seconds: float
) -> tuple[float, float]:
    """The adapter called with so many series for so long: series per second, and the median seconds of a call."""
    module, _, name = target.partition(":")
    adapter: Adapter = getattr(importlib.import_module(module), name)()
    model = adapter.load(ref, Placement(threads=threads))
    items = [_item(number, steps) for number in range(series)]
    adapter.forecast(model, items, task)
    times: list[float] = []
    while sum(times) < seconds:
        start = time.perf_counter()
        adapter.forecast(model, items, task)
        times.append(time.perf_counter() - start)
    return series * len(times) / sum(times), statistics.median(times)


def compare(
    target: str, ref: ModelRef, task: Task, steps: int, sizes: Sequence[int], threads: int, seconds: float
) -> list[Case]:
    """One case for each of ``sizes``, of series of ``steps``; rounds are made for about ``seconds`` each."""
    module, _, name = target.partition(":")
    adapter: Adapter = getattr(importlib.import_module(module), name)()
    model = adapter.load(ref, Placement(threads=threads))
    assert ref.snapshot is not None
    ways = LIBRARIES[ref.adapter](ref.snapshot, task)
    seed = task.options["seed"] if "num_samples" in task.options else None

    def forecast(items: Sequence[Item]) -> list[Any]:
        """As a replica calls it."""
        lots = range(0, len(items), adapter.chunk)
        return [answer for at in lots for answer in adapter.forecast(model, items[at : at + adapter.chunk], task)]

    cases = []
    for size in sizes:
        items = [_item(number, steps) for number in range(size)]
        expected = _read(forecast(items))
        difference = {way: _difference(expected, _theirs(ways[way], items, seed)) for way in ways}
        asked = {way: make(items).call for way, make in ways.items()}
        times = _turns({"": lambda items=items: forecast(items), **asked}, seconds)
        ours = times.pop("")
        cases.append(Case(size, ours, times, difference))
    adapter.unload(model)
    return cases


def _item(number: int, steps: int) -> Item:
    return Item(f"s{number:02}", np.array(bodies.values(steps, number), float), "D", SEASON)


def _turns(calls: dict[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Median milliseconds of each call, made in turns, every other round in the opposite order. Each has been made
    before; "" is ours."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    # An adapter may have told the collector to leave alone what is there; a process of the library's user has not.
    frozen = gc.get_freeze_count() > 0
    end = time.perf_counter() + seconds
    for number in range(MOST):
        if number >= LEAST and time.perf_counter() > end:
            break
        for name in order:
            if name and frozen:
                gc.unfreeze()
            start = time.perf_counter()
            calls[name]()
            times[name].append(time.perf_counter() - start)
            if name and frozen:
                gc.freeze()
        order.reverse()
    return {name: statistics.median(taken) * 1e3 for name, taken in times.items()}


def _read(answers: Sequence[Any]) -> NDArray[np.float64]:
    """Our quantiles (B, Q, H), or the point (B, 1, H) where none were asked for."""
    assert all(isinstance(answer, ItemForecast) for answer in answers), answers
    return np.stack([answer.quantiles if len(answer.quantiles) else answer.mean[None] for answer in answers])


def _theirs(make: Callable[[Sequence[Item]], Asked], items: Sequence[Item], seed: int | None) -> NDArray[np.float64]:
    """The library's numbers, crossed quantiles in order; of what is drawn those of each series alone, with its seed."""
    import torch

    from deployments.adapters._torch import seed_of

    lots = [items] if seed is None else [[item] for item in items]
    done = []
    for lot in lots:
        asked = make(lot)
        if seed is not None:
            torch.manual_seed(seed_of(seed, lot[0].id))
        done.append(asked.read(asked.call()))
    return np.sort(np.concatenate(done).astype(np.float64), axis=1)


def _difference(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float((np.abs(ours - theirs).max(axis=(1, 2)) / np.abs(theirs).max(axis=(1, 2))).max())
