"""The second process of an ingress: it prepares big requests and writes big answers. Imports no Ray."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import signal
import sys
import types
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

from tollama import forecasting
from tollama.catalog import Catalog
from tollama.forecasting import Outcome, Prepared
from tollama.settings import Settings
from tollama.store import Home

PR_SET_PDEATHSIG = 1

_catalog: Catalog
_settings: Settings


def _initialise(settings: Settings) -> None:
    global _catalog, _settings
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # not to outlive an ingress that is killed
    _settings = settings
    _catalog = Catalog(Home(settings.home))


def prepare(body: bytes) -> Prepared:
    """:func:`tollama.forecasting.prepare`, its frames sealed."""
    return forecasting.sealed(forecasting.prepare(body, _catalog, _settings))


def answer(prepared: Prepared, outcome: Outcome) -> bytes:
    """:func:`tollama.forecasting.answer`."""
    return forecasting.answer(prepared, outcome)


class SecondProcess:
    """An executor of one spawned process."""

    def __init__(self, settings: Settings) -> None:
        # Spawned, not forked: a fork would copy the locks of this process's threads as they stand.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_initialise, initargs=(settings,))

    def submit(self, work: Any, *args: Any) -> Future[Any]:
        """Run ``work`` there; the process is started by the first call."""
        with _bare_main():
            return self._pool.submit(work, *args)

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _bare_main() -> Iterator[None]:
    """A spawned child imports its parent's main module: in a replica that is Ray's worker, 2 s and 100 MB in vain."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
