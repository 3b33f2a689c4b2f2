"""The logs' one retention rule: what is old goes, and the oldest of what is too much; nothing that is being written."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

SERVE_LOGS = "serve"
"""Folder in the logs' where every process of the graph writes a file of its own."""
FILES = 50
"""Part of the logs' whole size that one file may reach before it is rotated."""
DAY_S = 86400.0


def rotation(max_mb: float) -> int:
    """Bytes of one file at which it is rotated, so that all together stay under ``max_mb``."""
    return max(100_000, int(max_mb * 1e6 / FILES))


def retain(folder: Path, max_mb: float, max_days: float, clock: Callable[[], float] = time.time) -> list[Path]:
    """Remove the :func:`surplus`; which files."""
    removed = []
    for path, _, _ in surplus(folder, max_mb, max_days, clock):
        with suppress(OSError):
            path.unlink()
            removed.append(path)
    return removed


def surplus(
    folder: Path, max_mb: float, max_days: float, clock: Callable[[], float] = time.time
) -> list[tuple[Path, int, str]]:
    """Files below ``folder`` that are over ``max_days`` or, oldest first, over ``max_mb`` in all, with their sizes and
    why. None that is being written."""
    found = []
    for path in folder.rglob("*"):
        with suppress(OSError):
            if path.is_file() and not path.is_symlink():
                state = path.stat()
                found.append((state.st_mtime, state.st_size, path))
    written = _written(folder)
    size = sum(one[1] for one in found)
    over = []
    for modified, length, path in sorted(found):
        old = clock() - modified > max_days * DAY_S
        if (old or size > max_mb * 1e6) and str(path) not in written:
            size -= length
            over.append((path, length, f"a log of over {max_days:g} days" if old else f"logs are over {max_mb:g} MB"))
    return over


def _written(folder: Path) -> set[str]:
    """The files below ``folder`` that processes of ours have open."""
    below = f"{os.path.realpath(folder)}/"
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            target = os.readlink(link)
            if target.startswith(below):
                found.add(str(folder) + target[len(below) - 1 :])
    return found
