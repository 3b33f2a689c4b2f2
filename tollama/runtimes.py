"""The families' Python environments: built by uv, one folder per digest, checked before they are trusted.

``<root>/<family>/<digest>/bin/python`` is known before it exists, because the digest covers what goes in: the lock,
the torch version, the Python minor and the Ray version. Environments cannot be moved, so each is built in its final
place and ``installed.json``, written last, marks it complete; a folder without it is a build that was cut short.
``<root>/<family>/current`` points to the one in use, for people.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from packaging.specifiers import SpecifierSet

from tollama.errors import ConfigError, RunnerUnavailable
from tollama.families import FamilySpec, families
from tollama.runtime_build import MARK, PYTHON_MINOR, Progress, build, failure, probe, ray_version

log = logging.getLogger(__name__)

STATE_SECONDS = 1.0
"""How long `Runtimes.state` trusts that a ready runtime still is; one that is not ready is looked at every time."""


@dataclass(frozen=True, slots=True)
class RuntimeState:
    """``installed``: a complete build is on disk. ``ready``: it can be started now. If not, ``reason`` is a sentence
    for the client and ``repair`` the command that helps; both are empty when it is ready."""

    installed: bool
    ready: bool
    reason: str = ""
    repair: str = ""


@dataclass(frozen=True, slots=True)
class RuntimeRow:
    """One family's runtime as ``tollama runtime list`` shows it; ``size_bytes`` counts shared files in full."""

    family: str
    state: RuntimeState
    digest: str
    python: Path
    size_bytes: int
    libraries: Mapping[str, str]


class Runtimes:
    """The environments under ``root``. Raises `ConfigError` if the path cannot stand in a shell command unquoted."""

    def __init__(self, root: Path, *, keep_runtimes: int = 2, clock: Callable[[], float] = time.monotonic) -> None:
        self.root = Path(root).expanduser().absolute()
        if shlex.quote(str(self.root)) != str(self.root):
            raise ConfigError(
                f"The folder for runtimes has a space or a special character in its path: {str(self.root)!r}.",
                hint="Set TOLLAMA_HOME or TOLLAMA_RUNTIMES_DIR to a path of letters, digits, '.', '_' and '-'.",
            )
        self.keep = max(1, keep_runtimes)
        self._clock = clock
        self._ready_at: dict[str, float] = {}
        self._libraries: dict[Path, Mapping[str, str]] = {}

    def digest(self, spec: FamilySpec) -> str:
        """24 hex digits for what goes into the environment. Raises `ConfigError` if the lock file is gone."""
        assert spec.lock is not None
        try:
            lock = spec.lock.stat()
            return _digest(spec.lock, lock.st_mtime_ns, lock.st_size, spec.torch)
        except OSError as e:
            raise ConfigError(
                f"The lock file of family '{spec.name}' cannot be read.", hint="Reinstall the package it came with."
            ) from e

    def folder(self, spec: FamilySpec) -> Path:
        """Where the environment of ``spec`` is, or will be."""
        return self.root / spec.name / self.digest(spec)

    def python(self, spec: FamilySpec) -> Path:
        """The interpreter of ``spec``, installed or not; a family without a lock uses the server's own."""
        return Path(sys.executable) if spec.lock is None else self.folder(spec) / "bin" / "python"

    def state(self, spec: FamilySpec) -> RuntimeState:
        """Whether the runtime can be started: a few stats; "ready" is at most `STATE_SECONDS` old. Never raises."""
        if spec.lock is None:
            return RuntimeState(True, True)
        if (at := self._ready_at.get(spec.name)) is not None and self._clock() - at < STATE_SECONDS:
            return RuntimeState(True, True)
        try:
            state = self._look(spec)
        except OSError as e:
            reason = f"The runtime of family '{spec.name}' cannot be read: {e.strerror}."
            state = RuntimeState(False, False, reason, "Reinstall tollama, or the package that the family came with")
        if state.ready:
            self._ready_at[spec.name] = self._clock()
        return state

    def _look(self, spec: FamilySpec) -> RuntimeState:
        def broken(what: str, *, installed: bool = True, verb: str = "repair") -> RuntimeState:
            reason = f"The runtime of family '{spec.name}' {what}."
            return RuntimeState(installed, False, reason, f"tollama runtime {verb} {spec.name}")

        try:
            folder, digest = self.folder(spec), self.digest(spec)
        except ConfigError as e:
            return RuntimeState(False, False, str(e), "Reinstall tollama, or the package that the family came with")
        if not folder.is_dir():
            older = (self.root / spec.name / "current").exists()
            what = "was built for another version of its lock, Python or Ray" if older else "is not installed"
            return broken(what, installed=False, verb="install")
        try:
            mark = json.loads((folder / MARK).read_bytes())
            facts = (mark["digest"], mark["python"], mark["ray"])
            origins = [folder / origin for origin in mark["origins"]]
        except FileNotFoundError:
            return broken("is still being installed, or its installation was cut short", installed=False)
        except (OSError, ValueError, KeyError, TypeError):
            return broken("has no readable record of its installation")
        if facts != (digest, PYTHON_MINOR, ray_version()) or not set(spec.probe) <= set(mark.get("probe", ())):
            return broken("is not the one that this server expects")
        python = folder / "bin" / "python"
        if not python.exists():
            gone = python.is_symlink()
            return broken("lost the Python it was built on" if gone else "has no Python interpreter")
        if not python.is_file() or not os.access(python, os.X_OK):
            return broken("has a Python interpreter that cannot be executed")
        if not all(origin.exists() for origin in origins):
            return broken("has lost some of its libraries")
        return RuntimeState(True, True)

    def install(self, spec: FamilySpec, progress: Progress | None = None) -> Path:
        """Builds the environment unless it is ready; returns its interpreter.

        One build at a time per family: whoever comes second waits and finds it done. Raises `RunnerUnavailable`
        with a hint if the build fails; nothing half-built is left behind then.
        """
        if spec.lock is None or (self._look(spec).ready and self._is_current(spec)):
            return self.python(spec)
        say = progress or log.info
        with self._locked(spec, say) as lock_fd:
            if not self._look(spec).ready:
                build(spec, self.folder(spec), say, lock_fd)
            self._settle(spec)
        return self.python(spec)

    def repair(self, spec: FamilySpec, progress: Progress | None = None) -> Path:
        """Imports the libraries in the environment and builds it anew unless all is as it was recorded."""
        if spec.lock is None:
            return self.python(spec)
        say = progress or log.info
        with self._locked(spec, say) as lock_fd:
            if not (self._look(spec).ready and self._as_recorded(spec, say)):
                try:
                    build(spec, self.folder(spec), say, lock_fd)
                except RunnerUnavailable:
                    # An environment's files are hard links into uv's cache: a damaged one may be damaged there too.
                    build(spec, self.folder(spec), say, lock_fd, "--no-cache")
            self._settle(spec)
        return self.python(spec)

    def remove(self, spec: FamilySpec) -> bool:
        """Removes every environment of the family; whether there was one."""
        if spec.lock is None or not (self.root / spec.name).exists():
            return False
        with self._locked(spec, log.info):
            shutil.rmtree(self.root / spec.name)
        return True

    def prune(self, spec: FamilySpec, *, dry_run: bool = False) -> tuple[Path, ...]:
        """Removes all but the newest ``keep_runtimes`` environments, the one in use always among them, and the
        remains of builds that were cut short. Returns the folders removed, or to be removed with ``dry_run``."""
        if spec.lock is None or not (self.root / spec.name).is_dir():
            return ()
        with self._locked(spec, log.info):
            surplus = self._surplus(spec)
            for folder in () if dry_run else surplus:
                shutil.rmtree(folder)
        return surplus

    def list(self) -> tuple[RuntimeRow, ...]:
        """One row per known family; walks the files for their size, so not for the hot path."""
        return tuple(self.row(spec) for spec in families().values())

    def row(self, spec: FamilySpec) -> RuntimeRow:
        """The row of one family; empty digest, size and libraries for one that lives in the server's environment."""
        if spec.lock is None:
            return RuntimeRow(spec.name, self.state(spec), "", self.python(spec), 0, {})
        folder = self.folder(spec)
        try:
            libraries = json.loads((folder / MARK).read_bytes())["libraries"]
        except (OSError, ValueError, KeyError):
            libraries = {}
        size = sum(os.lstat(f"{at}/{name}").st_size for at, _, names in os.walk(folder) for name in names)
        return RuntimeRow(spec.name, self._look(spec), folder.name, self.python(spec), size, libraries)

    @contextmanager
    def _locked(self, spec: FamilySpec, say: Progress) -> Iterator[int]:
        # flock itself, because its descriptor is handed to uv: if this process is killed, the lock lives on until the
        # uv it left behind has ended too, and nobody builds in the same folder meanwhile.
        fd = -1
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.root / f"{spec.name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waiting for another installation of {spec.name}")
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        except OSError as e:
            log.error("the runtimes folder of family %s: %s", spec.name, e)
            why = e.strerror or "the folder for runtimes cannot be used"
            raise failure(spec, why, "Check the rights and the room of the folder for runtimes.") from e
        finally:
            if fd >= 0:
                os.close(fd)
            self._ready_at.pop(spec.name, None)

    def lacks(self, spec: FamilySpec, requires: Mapping[str, str]) -> str | None:
        """What of ``requires`` (distribution -> version specifier) the family's environment does not fulfil, or None.

        An environment does not change, so one look at what was recorded of it is enough.
        """
        if spec.lock is None:
            return None
        folder = self.folder(spec)
        if folder not in self._libraries:
            try:
                self._libraries[folder] = json.loads((folder / MARK).read_bytes())["libraries"]
            except (OSError, ValueError, KeyError):
                return None  # `state` tells what is wrong with it
        for name, wanted in requires.items():
            found = self._libraries[folder].get(name)
            if found is None or not SpecifierSet(wanted).contains(found, prereleases=True):
                return f"{name} {wanted} (it has {found or 'none'})"
        return None

    def _as_recorded(self, spec: FamilySpec, say: Progress) -> bool:
        try:
            recorded: dict[str, str] = json.loads((self.folder(spec) / MARK).read_bytes())["libraries"]
            return bool(recorded == probe(spec, self.folder(spec), say)["libraries"])
        except (RunnerUnavailable, OSError, ValueError, KeyError):
            return False

    def _is_current(self, spec: FamilySpec) -> bool:
        return (self.root / spec.name / "current").resolve() == self.folder(spec).resolve()

    def _settle(self, spec: FamilySpec) -> None:
        folder = self.folder(spec)
        link = folder.parent / ".current"
        link.unlink(missing_ok=True)
        link.symlink_to(folder.name)
        link.replace(folder.parent / "current")
        for old in self._surplus(spec):
            shutil.rmtree(old, ignore_errors=True)

    def _surplus(self, spec: FamilySpec) -> tuple[Path, ...]:
        using = self.digest(spec)
        built: dict[Path, float] = {}
        for folder in (self.root / spec.name).iterdir():
            if folder.is_dir() and not folder.is_symlink() and folder.name != using:
                mark = folder / MARK
                built[folder] = mark.stat().st_mtime if mark.exists() else 0.0
        newest = sorted((folder for folder in built if built[folder]), key=lambda f: built[f], reverse=True)
        kept = set(newest[: self.keep - 1])
        return tuple(folder for folder in built if folder not in kept)


@cache
def _digest(lock: Path, mtime_ns: int, size: int, torch: str | None) -> str:
    """``mtime_ns`` and ``size`` only tell the cache when the file has changed."""
    facts = json.dumps([torch, PYTHON_MINOR, ray_version()]).encode()
    return hashlib.sha256(facts + b"\0" + lock.read_bytes()).hexdigest()[:24]
