"""What runs inside a family's own environment: the builders of checkpoints beside the tests, and code from here."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import Pipe
from typing import Any

from benchmarks.server import CHECKOUT, RUNTIMES
from tollama.families import families
from tollama.runtimes import Runtimes

THREADS = os.cpu_count() or 1
"""Of a model, as in the server."""

Call = Callable[[str, dict[str, Any]], Any]


@contextmanager
def process(family: str) -> Iterator[Call]:
    """A process that makes a call (``module:function`` and its keyword arguments) whenever it is asked to, for the time
    of the block.

    A module is one beside ``tests/families/checkpoints.py`` or any of the checkout. A call that failed raises
    RuntimeError with what was printed; so does this, with the repair, when the environment is not there.
    """
    spec = families()[family]
    state = Runtimes(RUNTIMES).state(spec)
    if not state.ready:
        raise RuntimeError(f"{state.reason} Try: {state.repair}")
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(THREADS))
    path = os.pathsep.join((str(CHECKOUT), str(CHECKOUT / "tests/families")))
    with tempfile.TemporaryDirectory(prefix="tollama-bench-") as folder, tempfile.TemporaryFile("w+") as printed:
        ours, theirs = Pipe()
        child = subprocess.Popen(
            [Runtimes(RUNTIMES).python(spec), "-m", "benchmarks.within", str(theirs.fileno())],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", **threads},
            cwd=folder,
            pass_fds=(theirs.fileno(),),
            stdout=printed,
            stderr=printed,
        )
        theirs.close()

        def call(target: str, arguments: dict[str, Any]) -> Any:
            try:
                ours.send((target, arguments))
                return ours.recv()
            except (EOFError, OSError):
                child.wait()
                printed.seek(0)
                raise RuntimeError(f"in the environment of {family}: {printed.read()}") from None

        try:
            yield call
        finally:
            ours.close()
            child.wait()


def run(family: str, *calls: tuple[str, dict[str, Any]]) -> Sequence[Any]:
    """What the calls returned, all made in one :func:`process`."""
    with process(family) as call:
        return [call(*one) for one in calls]
