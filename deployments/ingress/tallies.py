"""The files of the metrics' values: read as one, and those of processes that are gone folded into one.

A file costs each page some milliseconds, for as long as the server runs. So what dead processes counted is added up in
one file of each kind, and their own are taken away. Whoever reads does that first, alone (a file lock), and whole: what
is to change is written down before (``INTENT``), so one that is killed meanwhile has its work finished by the next.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

ALIVE = ".alive"
"""End of the name of the file that a process holds a lock on while it lives."""
DEAD = "dead"
"""In place of the process's id in the names of the files in which others are folded."""
INTENT = "intent.json"
LOCK, LOCK_S = "folding.lock", 5.0
"""Who reads holds this lock for some 20 ms."""


def lives(lock: Path) -> bool:
    """Whether the process that holds this lock is there; process ids are used again, locks are not."""
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def merged(folder: Path, pattern: str = "*.db") -> Iterable[Metric]:
    """The values of all processes added up, of the files of this pattern. Gauges are those of processes that live."""
    with FileLock(folder / LOCK, timeout=LOCK_S, poll_interval=0.002):
        _finish(folder)
        _bury(folder)
        # One that was killed as it began a file left it empty.
        files = [str(path) for path in sorted(folder.glob(pattern)) if path.stat().st_size]
        found: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        return found


def _bury(folder: Path) -> None:
    """Fold the files of processes that are gone, and take away their gauges."""
    owned = {path: path.stem.rpartition("_")[2] for path in sorted(folder.glob("*.db"))}
    with ExitStack() as held:
        dead = set()
        for pid in set(owned.values()) - {DEAD}:
            # Held meanwhile: a new process of the same id begins its files after that.
            with suppress(Timeout):
                held.enter_context(FileLock(folder / f"{pid}{ALIVE}", timeout=0))
                dead.add(pid)
        gone = [path for path, pid in owned.items() if pid in dead]
        folds = {kind: [path for path in gone if path.name.startswith(kind)] for kind in ("counter", "histogram")}
        for kind, paths in folds.items():
            if paths:
                _add_up([*paths, folder / f"{kind}_{DEAD}.db"], folder / f"{kind}_{DEAD}.new")
        if gone:
            written = folder / f"{INTENT}.new"
            written.write_text(json.dumps([path.name for path in gone]))
            written.rename(folder / INTENT)
            _finish(folder)


def _finish(folder: Path) -> None:
    """Do what is intended, again if it was begun; without an intention, nothing of it counts."""
    intent = folder / INTENT
    new = list(folder.glob(f"*_{DEAD}.new"))
    if intent.exists():
        for path in new:
            path.rename(path.with_suffix(".db"))
        for name in json.loads(intent.read_text()):
            (folder / name).unlink(missing_ok=True)
        intent.unlink()
    else:
        for path in new:
            path.unlink()


def _add_up(paths: Iterable[Path], into: Path) -> None:
    total: Counter[str] = Counter()
    for path in paths:
        if path.exists() and path.stat().st_size:
            values = MmapedDict.read_all_values_from_file(path)  # type: ignore[no-untyped-call]
            total.update({key: value for key, value, _, _ in values})
    written = MmapedDict(str(into))  # type: ignore[no-untyped-call]
    for key, value in total.items():
        written.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]
    written.close()  # type: ignore[no-untyped-call]
