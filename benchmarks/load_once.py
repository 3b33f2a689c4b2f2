"""One load of a small model in a process that has what a Ray worker has, and what was imported for it. Runs inside the
families' environments, one call per process."""

from __future__ import annotations

import importlib
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import _bootstrap  # type: ignore[attr-defined]
from typing import Any

from deployments.adapters import _lazy
from tollama.seam import Adapter, ModelRef, Placement


@dataclass(frozen=True, slots=True)
class Load:
    """Processor seconds (user and system, all threads) and seconds of one load, how many modules it imported, and the
    processor seconds that importing took by package: its first two names, of its own modules only."""

    cpu: float
    wall: float
    modules: int
    packages: dict[str, float]


def measure(target: str, ref: ModelRef, plain: bool) -> Load:
    """Load ``ref`` by the adapter ``target``; ``plain`` imports all that its library wants."""
    import deployments.preload  # noqa: F401  (Ray Serve, with numpy)

    if plain:
        _lazy.put_off = _everything
    module, _, name = target.partition(":")
    adapter: Adapter = getattr(importlib.import_module(module), name)()
    before = len(sys.modules)
    with _counting() as packages:
        wall, cpu = time.perf_counter(), time.process_time()
        adapter.load(ref, Placement())
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return Load(cpu, wall, len(sys.modules) - before, dict(packages))


@contextmanager
def _everything(*names: str) -> Iterator[None]:
    """In the place of ``put_off``: nothing is."""
    yield


@contextmanager
def _counting() -> Iterator[dict[str, float]]:
    """Within, the processor seconds of every import, less those of the imports in it, are added to its package's."""
    packages: dict[str, float] = defaultdict(float)
    real, inner = _bootstrap._find_and_load, [0.0]

    def find_and_load(name: str, import_: Any) -> Any:
        start = time.process_time()
        inner.append(0.0)
        try:
            return real(name, import_)
        finally:
            took = time.process_time() - start
            packages[".".join(name.split(".")[:2])] += took - inner.pop()
            inner[-1] += took

    # The interpreter asks this module for the function at every import of what is not there yet.
    _bootstrap._find_and_load = find_and_load
    try:
        yield packages
    finally:
        _bootstrap._find_and_load = real
