"""What every process of Ray's imports before it is asked for anything: Ray Serve, without what of it nobody here uses.

Serve imports pandas, where there is one, only to answer with a DataFrame of a user's: a third of the time that it
takes, and 65 MB of each process. Who needs pandas afterwards imports it as ever. Nothing is collected meanwhile: of
what an import makes nearly all stays.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _without(name: str) -> Iterator[None]:
    """Within, a module that was not imported yet is not found."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


gc.disable()
try:
    with _without("pandas"):
        import ray.serve  # noqa: F401
finally:
    gc.enable()
