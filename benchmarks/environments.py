"""What runs inside a family's own environment: the builders of checkpoints beside the tests, and code from here."""

from __future__ import annotations

import os
import pickle
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.server import CHECKOUT, RUNTIMES
from tollama.families import families
from tollama.runtimes import Runtimes

THREADS = os.cpu_count() or 1
"""Of a model, as in the server."""


def run(family: str, *calls: tuple[str, dict[str, Any]]) -> Sequence[Any]:
    """What the calls (``module:function`` and its keyword arguments) returned, all made in one process.

    A module is one beside ``tests/families/inside.py`` or any of the checkout. Raises RuntimeError with what was
    printed when a call failed, or with the repair when the environment is not there.
    """
    spec = families()[family]
    state = Runtimes(RUNTIMES).state(spec)
    if not state.ready:
        raise RuntimeError(f"{state.reason} Try: {state.repair}")
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(THREADS))
    with tempfile.TemporaryDirectory(prefix="tollama-bench-") as folder:
        asked, returned = Path(folder, "calls"), Path(folder, "results")
        asked.write_bytes(pickle.dumps(calls))
        done = subprocess.run(
            [Runtimes(RUNTIMES).python(spec), CHECKOUT / "tests/families/inside.py", asked, returned],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT), "HF_HUB_OFFLINE": "1", **threads},
            cwd=folder,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"in the environment of {family}: {done.stdout}{done.stderr}")
        results: Sequence[Any] = pickle.loads(returned.read_bytes())
        return results
