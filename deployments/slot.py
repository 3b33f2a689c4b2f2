"""The node's compute slot: one CPU tensor call at a time over all families, so that threads never exceed the cores.

Measured on two cores: two processes with two threads each give a tenth of the work of one after the other. The kernel
frees the lock when its holder dies, and wakes who waits for it at once; a lock that is polled would cost up to 50 ms.
"""

from __future__ import annotations

import fcntl
import os
from types import TracebackType


class Slot:
    """``with Slot(path):`` waits until no other process computes. Not for use by two threads of one process."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: int | None = None

    def __enter__(self) -> None:
        if self._file is None:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._file is not None
        fcntl.flock(self._file, fcntl.LOCK_UN)
