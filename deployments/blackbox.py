"""What a replica was doing when it died: a small file that outlives its process.

A replica writes down, before it computes, for which model and which calls. When the process is gone the ingress reads
it: only the calls that were being computed failed with it, the others may be sent again; and the model that was being
computed is the one to blame. The kernel drops the file's lock with the process, so a dead one is told from a live one
without process ids. Imports no Ray.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.failures import OOM
from deployments.memory import killed

BLACK_BOXES = "black-boxes"
"""Their folder in the run folder."""
SIZE = 16_384
"""Bytes of the record: about 400 calls travel together at most."""
KILLED = struct.Struct("=q")
"""After the record: how many processes the kernel had killed for want of memory when this one was last well."""
DEAD = ".dead"
LOADING = "load"
"""In the place of a call's id while a model is loaded, whoever waits for it."""
KEEP_S = 60.0
"""How long the record of a death stays for other ingress replicas to read."""


@dataclass(frozen=True, slots=True)
class Death:
    """One process that ended without leaving properly. ``reason`` is what the process said before it died (``hang``,
    ``cuda``, ``health``), else ``oom`` when the kernel killed a process for want of memory about then, else ``crash``;
    ``model`` and ``calls`` are what it was computing, if anything."""

    name: str
    family: str
    reason: str
    model: str | None
    calls: frozenset[str]
    at: float

    def of(self, model: str, call: str) -> bool:
        """Whether the call of this id, to this model, was what the process died of."""
        return call in self.calls or (LOADING in self.calls and model == self.model)


class BlackBox:
    """A replica's own record, in ``folder``/``family``-``pid``. Without a folder it records nothing."""

    def __init__(self, folder: str | None, family: str) -> None:
        self._map: mmap.mmap | None = None
        self._reason: str | None = None
        self._lock = threading.Lock()
        self._computed: list[tuple[str, Sequence[str]]] = []
        """The models and the calls for which threads compute."""
        if folder is None:
            return
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._path = Path(folder) / f"{family}-{os.getpid()}"
        # Complete under another name first: a file that is seen is locked.
        fresh = self._path.with_name(f".{self._path.name}")
        self._file = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, SIZE + KILLED.size)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        os.replace(fresh, self._path)
        self._map = mmap.mmap(self._file, SIZE + KILLED.size)
        self._write()
        self.well()

    def well(self) -> None:
        """The process lives: whatever the kernel killed until now was another one."""
        if self._map is not None:
            self._map[SIZE:] = KILLED.pack(killed())

    @contextmanager
    def computing(self, model: str, calls: Sequence[str]) -> Iterator[None]:
        """Within, a thread computes for ``model`` and the calls of these ids. Two that do so at once do it for one
        model."""
        this = model, calls
        with self._lock:
            self._computed.append(this)
            self._write()
        try:
            yield
        finally:
            with self._lock:
                if self._reason is None:
                    self._computed.remove(this)
                    self._write()

    def blame(self, reason: str, calls: frozenset[str] | None = None) -> None:
        """Why this process is going to be ended; what it computes stays on record, or of it what has to do with
        ``calls``."""
        with self._lock:
            if self._map is not None and self._reason is None:
                self._reason = reason
                if calls is not None:
                    self._computed = [one for one in self._computed if calls.intersection(one[1])]
                self._write()

    def close(self) -> None:
        """The process leaves properly, unless it has been blamed for something."""
        if self._map is not None and self._reason is None:
            self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        if self._map is None:
            return
        model = self._computed[-1][0] if self._computed else None
        calls = [call for _, calls in self._computed for call in calls]
        record: dict[str, Any] = {"reason": self._reason, "model": model, "calls": calls}
        text = json.dumps(record).encode()
        if len(text) >= SIZE - len(OOM):  # then none of these calls counts as started by this process
            text = json.dumps(record | {"calls": []}).encode()
        self._map[: len(text) + 1] = text + b"\0"


def collect(folder: Path, kills: Callable[[], int] = killed) -> tuple[list[Death], list[Death]]:
    """The deaths on record in ``folder``, and those of them that nobody had found before. ``kills`` is how many
    processes the kernel has killed for want of memory."""
    now = time.time()
    deaths: list[Death] = []
    fresh: list[Death] = []
    try:
        entries = list(folder.iterdir())
    except FileNotFoundError:
        return [], []
    for path in entries:
        if path.name.startswith("."):
            continue
        try:
            if path.suffix == DEAD:
                at = path.stat().st_mtime
                if now - at > KEEP_S:
                    path.unlink()
                    continue
                deaths.append(_death(path, at))
            elif _is_free(path):
                _explain(path, kills())
                dead = path.with_name(f"{path.name}-{int(now * 1e3)}{DEAD}")
                os.rename(path, dead)  # of several ingress replicas one succeeds, and counts it
                os.utime(dead, (now, now))
                death = _death(dead, now)
                deaths.append(death)
                fresh.append(death)
        except FileNotFoundError:
            continue
    return deaths, fresh


def _is_free(path: Path) -> bool:
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True


def _explain(path: Path, kills: int) -> None:
    """Note in the record of a dead process that the kernel killed it for want of memory, if so it seems."""
    with open(path, "r+b") as file:
        content = file.read()
        record = _read(content[:SIZE])
        if record.get("reason") is None and content[SIZE:] and kills > KILLED.unpack_from(content, SIZE)[0]:
            file.seek(0)
            file.write(json.dumps(record | {"reason": OOM}).encode() + b"\0")


def _death(path: Path, at: float) -> Death:
    record = _read(path.read_bytes())
    family = path.name.removesuffix(DEAD).rsplit("-", 2)[0]
    return Death(
        path.name, family, record.get("reason") or "crash", record.get("model"), frozenset(record.get("calls", ())), at
    )


def _read(content: bytes) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(content.partition(b"\0")[0])
    except ValueError:  # it died while it wrote
        return {}
    return record
