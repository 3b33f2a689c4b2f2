"""What is kept in a home and what goes: one rule for each folder, applied by ``tollama prune`` and after every pull."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tollama.families import families
from tollama.logs import surplus
from tollama.settings import Settings
from tollama.store import Home, Store, in_use

log = logging.getLogger(__name__)

DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class Surplus:
    """Something that a rule takes away: ``size`` bytes that become free, and ``why``."""

    path: Path
    size: int
    why: str


@dataclass(frozen=True, slots=True)
class Rule:
    """What is kept in one folder by which settings. ``apply(settings, dry_run)`` takes the rest away, unless it is only
    to say what that is, and yields it."""

    folder: str
    settings: tuple[str, ...]
    apply: Callable[[Settings, bool], Iterator[Surplus]]


def cached(settings: Settings, dry_run: bool) -> Iterator[Surplus]:
    """Files of the cache that were not used for ``cache_max_days``, then the least recently used until the rest is no
    more than ``cache_max_gb``. What an installed model shares takes no room of its own and stays."""
    with in_use(Home(settings.home).cache, alone=True) as free:
        if not free:
            return
        yield from _taken(left_over(settings), dry_run)
        now, kept = time.time(), 0
        for path, stat in sorted(_files(settings), key=lambda file: file[1].st_mtime, reverse=True):
            if stat.st_nlink > 1:
                continue
            kept += stat.st_size
            if now - stat.st_mtime > settings.cache_max_days * DAY_S:
                why = f"not used for {settings.cache_max_days:g} days"
            elif kept > settings.cache_max_gb * 1e9:
                why = f"the cache is over {settings.cache_max_gb:g} GB"
                kept -= stat.st_size
            else:
                continue
            yield from _taken(iter([Surplus(path, stat.st_size, why)]), dry_run)


def snapshots(settings: Settings, dry_run: bool) -> Iterator[Surplus]:
    """All but the newest ``keep_snapshots`` of each model, the one in use always among them."""
    store = Store(Home(settings.home))
    for name, path in store.surplus(settings.keep_snapshots):
        yield from _taken(iter([Surplus(path, _size(path), f"an older snapshot of {name}")]), dry_run)


def runtimes(settings: Settings, dry_run: bool) -> Iterator[Surplus]:
    """All but the newest ``keep_runtimes`` environments of each family, the one in use always among them."""
    from tollama.runtimes import Runtimes

    kept = Runtimes(settings.runtimes, keep_runtimes=settings.keep_runtimes)
    for spec in families().values():
        why = f"an older environment of {spec.name}"
        found = {path: Surplus(path, _size(path), why) for path in kept.prune(spec, dry_run=True)}
        gone = found if dry_run or not found else kept.prune(spec)
        yield from (found[path] for path in gone if path in found)


def logs(settings: Settings, dry_run: bool) -> Iterator[Surplus]:
    """Logs over ``log_max_days``, then the oldest until the rest is no more than ``log_max_mb``."""
    for path, size, why in surplus(Home(settings.home).logs, settings.log_max_mb, settings.log_max_days):
        yield from _taken(iter([Surplus(path, size, why)]), dry_run)


RULES = (
    Rule("cache", ("cache_max_gb", "cache_max_days"), cached),
    Rule("models", ("keep_snapshots",), snapshots),
    Rule("runtimes", ("keep_runtimes",), runtimes),
    Rule("logs", ("log_max_mb", "log_max_days"), logs),
)
"""Every rule, in the order in which they are applied."""


def prune(settings: Settings, *, dry_run: bool = False) -> Iterator[Surplus]:
    """Apply every rule; with ``dry_run`` only say what would go."""
    for rule in RULES:
        yield from rule.apply(settings, dry_run)


def tidy(settings: Settings) -> None:
    """The rules of what a pull adds to, after one. Never raises: the pull itself went well."""
    try:
        for rule in (cached, snapshots):
            for gone in rule(settings, False):
                log.info("removed %s: %s", gone.path, gone.why)
    except OSError:
        log.exception("what is too much could not be removed")


def empty_cache(home: Home) -> int | None:
    """Remove everything in the cache; the bytes that became free, None while a pull is at work in it."""
    with in_use(home.cache, alone=True) as free:
        if not free:
            return None
        size = _size(home.cache)
        for path in home.cache.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != ".in-use":
                path.unlink(missing_ok=True)
        return size - _size(home.cache)


def _files(settings: Settings) -> Iterator[tuple[Path, os.stat_result]]:
    for path in Home(settings.home).cache.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file() and not path.is_symlink() and path.name != ".in-use":
                yield path, path.stat()


def left_over(settings: Settings) -> Iterator[Surplus]:
    """What pulls that were killed had put together; there is none at work now."""
    staging = Home(settings.home).cache / "staging"
    for path in staging.iterdir() if staging.is_dir() else ():
        yield Surplus(path, _size(path), "left over by a pull that was killed")


def _taken(found: Iterator[Surplus], dry_run: bool) -> Iterator[Surplus]:
    for one in found:
        if not dry_run:
            shutil.rmtree(one.path) if one.path.is_dir() else one.path.unlink(missing_ok=True)
        yield one


def _size(path: Path) -> int:
    """Bytes that would become free if ``path`` went: of files that nothing else shares."""
    total = 0
    for file in path.rglob("*"):
        with suppress(FileNotFoundError):
            stat = file.lstat()
            total += stat.st_size if stat.st_nlink == 1 and file.is_file() else 0
    return total
