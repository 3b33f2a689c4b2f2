"""The node's compute slot: one CPU tensor call at a time over all families, so that threads never exceed the cores.

Measured on two cores: two processes with two threads each give a tenth of the work of one after the other. The kernel
frees the lock when its holder dies, and wakes who waits for it at once; a lock that is polled would cost up to 50 ms.

Nobody waits for ever: behind a call that hangs, the other families compute beside it, slowly but surely. Who has
given up once stays in the queue, and does not wait as long again before it has had its turn.
"""

from __future__ import annotations

import fcntl
import os
import threading
from types import TracebackType

PATIENCE_S = 15.0
"""Seconds to wait for the slot: many times what a call takes on a CPU."""
AGAIN_S = 0.1
"""Seconds to wait after giving up, until the slot has been had once."""


class Slot:
    """``with Slot(path):`` waits until no other process computes, for ``patience`` seconds at most. Not for use by two
    threads of one process."""

    def __init__(self, path: str, patience: float = PATIENCE_S) -> None:
        self._path = path
        self._patience = patience
        self._held: int | None = None
        self._turn = threading.Condition()
        self._queued = False
        """Whether a thread waits for the lock."""
        self._wanted = False
        """Whether we still wait for that thread."""

    def __enter__(self) -> None:
        with self._turn:
            patience = AGAIN_S
            if not self._queued:
                file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    patience, self._queued = self._patience, True
                    threading.Thread(target=self._queue, args=(file,), daemon=True, name="compute slot").start()
                else:
                    self._held = file
                    return
            self._wanted = True
            self._turn.wait_for(lambda: not self._queued, patience)
            self._wanted = False

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _queue(self, file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX)
        with self._turn:
            self._queued = False
            if self._wanted:
                self._held = file
                self._turn.notify()
            else:
                os.close(file)
