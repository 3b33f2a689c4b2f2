"""The node's compute slot: on a CPU one family at a time computes, so that they do not fight for the cores.

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
QUEUE = ".queue"
"""After the path: the file that those who wait have locked together."""


class Slot:
    """``with Slot(path):`` waits until no other process computes, for ``patience`` seconds at most. Threads of one
    process share it, but none joins the others once another process waits for it."""

    def __init__(self, path: str, patience: float = PATIENCE_S) -> None:
        self._path = path
        self._patience = patience
        self._held: int | None = None
        self._turn = threading.Condition()
        self._queued = self._gave_up = False
        """Whether a thread waits for the lock, and whether somebody has given up waiting for that one."""
        self._wanting = 0
        """How many threads still wait for that one."""
        self._inside = 0

    def __enter__(self) -> None:
        with self._turn:
            if self._inside and self._wanted():
                self._turn.wait_for(lambda: not self._inside, self._patience)
            if not self._inside:
                self._acquire()
            self._inside += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._turn:
            self._inside -= 1
            if not self._inside:
                self._turn.notify_all()
                if self._held is not None:
                    os.close(self._held)
                    self._held = None

    def _acquire(self) -> None:
        if not self._queued:
            file = _open(self._path)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._queued = True
                threading.Thread(target=self._queue, args=(file,), daemon=True, name="compute slot").start()
            else:
                self._held = file
                return
        self._wanting += 1
        had = self._turn.wait_for(lambda: not self._queued, AGAIN_S if self._gave_up else self._patience)
        self._wanting -= 1
        self._gave_up = not had

    def _queue(self, file: int) -> None:
        told = _open(self._path + QUEUE)
        fcntl.flock(told, fcntl.LOCK_SH)
        fcntl.flock(file, fcntl.LOCK_EX)
        os.close(told)
        with self._turn:
            self._queued = False
            if self._wanting:
                self._held = file
                self._turn.notify_all()
            else:
                os.close(file)

    def _wanted(self) -> bool:
        """Whether a process waits for the slot."""
        told = _open(self._path + QUEUE)
        try:
            fcntl.flock(told, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(told)
        return False


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
