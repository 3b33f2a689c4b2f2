"""The node's compute slot: one CPU tensor call at a time over all families, so that threads never exceed the cores.

Measured on two cores: two processes with two threads each give a tenth of the work of one after the other. The kernel
frees the lock when its holder dies, and wakes who waits for it at once; a lock that is polled would cost up to 50 ms.

Nobody waits for ever: behind a call that hangs, the other families compute beside it, slowly but surely.
"""

from __future__ import annotations

import fcntl
import os
import threading
from types import TracebackType

PATIENCE_S = 15.0
"""Seconds to wait for the slot: many times what a call takes on a CPU."""


class Slot:
    """``with Slot(path):`` waits until no other process computes, for ``patience`` seconds at most. Not for use by two
    threads of one process."""

    def __init__(self, path: str, patience: float = PATIENCE_S) -> None:
        self._path = path
        self._patience = patience
        self._held: int | None = None

    def __enter__(self) -> None:
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._held = self._wait(file)
        else:
            self._held = file

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _wait(self, file: int) -> int | None:
        """``file`` once it is locked; None when that took too long."""
        locked = threading.Event()
        decide = threading.Lock()
        given_up = False

        def wait() -> None:
            fcntl.flock(file, fcntl.LOCK_EX)
            with decide:
                if given_up:
                    os.close(file)
                locked.set()

        threading.Thread(target=wait, daemon=True, name="compute slot").start()
        locked.wait(self._patience)
        with decide:
            if locked.is_set():
                return file
            given_up = True
            return None
