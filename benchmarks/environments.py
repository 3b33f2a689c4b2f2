"""What runs inside a family's own environment: the builders of checkpoints beside the tests, and code from here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.server import RUNTIMES
from tests import environment
from tollama.families import families
from tollama.runtimes import Runtimes

THREADS = os.cpu_count() or 1
"""Of a model, as in the server."""


@contextmanager
def process(family: str) -> Iterator[environment.Caller]:
    """A process in the family's environment that makes calls for the time of the block. Raises RuntimeError with the
    repair when the environment is not there."""
    spec = families()[family]
    state = Runtimes(RUNTIMES).state(spec)
    if not state.ready:
        raise RuntimeError(f"{state.reason} Try: {state.repair}")
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(THREADS))
    with environment.process(Runtimes(RUNTIMES).python(spec), HF_HUB_OFFLINE="1", **threads) as there:
        yield there


def run(family: str, *calls: tuple[str, dict[str, Any]]) -> Sequence[Any]:
    """What the calls returned, all made in one :func:`process`."""
    with process(family) as there:
        return [there.call(*one) for one in calls]
