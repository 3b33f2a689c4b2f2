"""The store: one folder per installed model, each with a manifest that says everything routing needs.

``models/<name>/manifest.json`` is written last and replaced in one step, so a model is either wholly there or not at
all, and another revision takes over in one step too. Only `canonical_name` makes a folder's name from a client's text.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from tollama.errors import DigestMismatch, ModelNotFound, ModelNotInstalled
from tollama.manifest import Manifest, Resolved, StoredFile, StoredLicense, read, safe_path
from tollama.registry import canonical_name

if TYPE_CHECKING:
    from filelock import FileLock

__all__ = [
    "Broken",
    "FileCache",
    "Home",
    "Manifest",
    "Resolved",
    "Store",
    "StoredFile",
    "StoredLicense",
    "atomic_write",
    "in_use",
    "safe_path",
    "sha256_of",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Home:
    """The folders of one ``TOLLAMA_HOME``. Nothing is made until it is written to."""

    root: Path

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def licenses(self) -> Path:
        return self.root / "licenses"

    @property
    def runtimes(self) -> Path:
        return self.root / "runtimes"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def run(self) -> Path:
        return self.root / "run"


@dataclass(frozen=True, slots=True)
class Broken:
    """A model folder that cannot be used, and why; pulling the model again repairs it."""

    name: str
    reason: str


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, 64 hex digits."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def atomic_write(path: Path, data: bytes) -> None:
    """Write ``path`` whole or not at all, on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temp = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, path)
    except BaseException:
        os.unlink(temp)
        raise
    _fsync(path.parent)


@contextmanager
def in_use(cache: Path, *, alone: bool = False) -> Iterator[bool]:
    """Within, what is in ``cache`` stays: several pulls may be in it, or one that takes away, ``alone``.

    Yields False if it cannot be had alone now, True else. The kernel frees it when its holder dies.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".in-use").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
        except BlockingIOError:
            yield False
            return
        yield True


class FileCache(Generic[T]):
    """Files parsed once per change: one stat tells whether what was parsed is still what the file holds."""

    def __init__(self, parse: Callable[[Path], T]) -> None:
        self._parse = parse
        self._known: dict[str, tuple[tuple[int, int], T]] = {}

    def read(self, path: str) -> T | None:
        """The parsed file, the same object while the file is unchanged; None when there is no file."""
        try:
            found = os.stat(path)
            mark = (found.st_mtime_ns, found.st_ino)
            known = self._known.get(path)
            if known is None or known[0] != mark:
                known = self._known[path] = (mark, self._parse(Path(path)))
        except (FileNotFoundError, NotADirectoryError):
            self._known.pop(path, None)
            return None
        return known[1]


def _parse(path: Path) -> Manifest | Broken:
    name = path.parent.name
    try:
        manifest = read(path)
    except ValueError as error:
        return Broken(name, str(error))
    except FileNotFoundError:
        raise
    except OSError as error:
        return Broken(name, f"its manifest cannot be read: {error.strerror}")
    return manifest if manifest.name == name else Broken(name, "its manifest names another model")


class Store:
    """The installed models of one home."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._manifests = FileCache(_parse)

    def _folder(self, name: str) -> Path:
        return self.home.models / canonical_name(name)

    def get(self, name: str) -> Manifest | None:
        """The manifest of ``name``; None if it is not installed or broken. One stat; the same object until it changes.

        Raises :class:`ModelNotFound` if ``name`` cannot be a model's name.
        """
        manifest = self._manifests.read(f"{self.home.root}/models/{canonical_name(name)}/manifest.json")
        return manifest if isinstance(manifest, Manifest) else None

    def all(self) -> list[Manifest | Broken]:
        """Every model folder, in order of name; the files of each are looked for, not read."""
        found: list[Manifest | Broken] = []
        for folder in sorted(self.home.models.glob("[!.]*")):
            try:
                if canonical_name(folder.name) != folder.name:
                    continue
            except ModelNotFound:
                continue
            if (model := self._look(folder)) is not None:
                found.append(model)
        return found

    def _look(self, folder: Path) -> Manifest | Broken | None:
        """What a model's folder holds, whatever goes on there; None when it was removed meanwhile."""
        while isinstance(manifest := self._manifests.read(str(folder / "manifest.json")), Manifest):
            fault = fault_of(manifest)
            if not fault:
                return manifest
            if self._manifests.read(str(folder / "manifest.json")) is manifest:  # no other snapshot took over
                return Broken(folder.name, fault)
        if manifest is None and folder.exists():
            return Broken(folder.name, "it has no manifest")
        return manifest

    def staging(self, name: str) -> Path:
        """An empty folder, on the models' file system, to put a snapshot together in. For one pull at a time."""
        return self._fresh(canonical_name(name))

    def _fresh(self, name: str) -> Path:
        folder = self.home.cache / "staging" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def install(self, manifest: Manifest, staged: Path, *, keep: int = 1) -> Manifest:
        """Make ``staged`` the snapshot of ``manifest.name`` and return the manifest as stored.

        ``staged`` must lie on the models' file system and hold real files, those of the manifest and no others, else
        :class:`DigestMismatch`. Of the model's snapshots the newest ``keep`` stay. When it fails, for want of room
        say, ``staged`` is gone and the model is as it was.
        """
        if fault := _incomplete(manifest.files, staged, strict=True):
            raise DigestMismatch(f"The model {manifest.name!r} was not installed: {fault}.")
        for path in [*staged.rglob("*"), staged]:
            _fsync(path)
        folder = self._folder(manifest.name)
        with self.lock(f".{folder.name}"):
            taken = {path.name for path in folder.glob("snapshot*")}
            slots = ("snapshot", *(f"snapshot-{n}" for n in range(2, len(taken) + 3)))
            slot = next(slot for slot in slots if slot not in taken)
            resolved = manifest.resolved.model_copy(update={"snapshot_path": slot})
            manifest = manifest.model_copy(update={"resolved": resolved, "name": folder.name})
            new = folder
            if not folder.exists():  # put together aside, so that no folder without a manifest is ever seen
                new = self._fresh(f".new-{folder.name}")
            try:
                os.rename(staged, new / slot)
                os.utime(new / slot)
                atomic_write(new / "manifest.json", _bytes(manifest))
                if new != folder:
                    os.rename(new, folder)
            except BaseException:
                shutil.rmtree(staged, ignore_errors=True)
                current = self.get(folder.name)
                if current is None or current.resolved.snapshot_path != slot:
                    shutil.rmtree(new if new != folder else new / slot, ignore_errors=True)
                raise
            _fsync(self.home.models)
            for old in _older(folder, slot)[max(keep, 1) - 1 :]:
                shutil.rmtree(old, ignore_errors=True)
        return self._stored(manifest)

    def surplus(self, keep: int) -> Iterator[tuple[str, Path]]:
        """Each model's snapshots beside the newest ``keep``, the one in use always among them: its name, the folder.

        While one is looked at and taken away, no other takes over.
        """
        for folder in sorted(self.home.models.glob("[!.]*")):
            with self.lock(f".{folder.name}"):
                manifest = self._manifests.read(str(folder / "manifest.json"))
                if isinstance(manifest, Manifest):
                    for old in _older(folder, manifest.resolved.snapshot_path)[max(keep, 1) - 1 :]:
                        yield manifest.name, old

    def update(self, manifest: Manifest) -> Manifest | None:
        """Replace the manifest of an installed model whose snapshot stays as it is; None if that was removed."""
        folder = self._folder(manifest.name)
        with self.lock(f".{folder.name}"):
            if not (folder / manifest.resolved.snapshot_path).is_dir():
                return None
            atomic_write(folder / "manifest.json", _bytes(manifest))
            return self._stored(manifest)

    def remove(self, name: str) -> None:
        """Take the model away; its licence receipt stays. Raises :class:`ModelNotInstalled`."""
        folder = self._folder(name)
        with self.lock(f".{folder.name}"), in_use(self.home.cache):
            if not folder.exists():
                raise ModelNotInstalled(f"The model {folder.name!r} is not installed.", hint="tollama list")
            gone = self._fresh(f".removed-{folder.name}")
            os.rename(folder, gone / folder.name)
            shutil.rmtree(gone)

    def lock(self, name: str) -> FileLock:
        """A lock between processes, freed by the kernel when its holder dies."""
        from filelock import FileLock

        locks = self.home.models / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        return FileLock(locks / f"{name}.lock")

    def _stored(self, manifest: Manifest) -> Manifest:
        stored = self.get(manifest.name)
        assert stored is not None, "a manifest that was just written can be read"
        return stored


def _older(folder: Path, current: str) -> list[Path]:
    """A model's snapshots but the ``current`` one, the newest first."""
    others = [path for path in folder.glob("snapshot*") if path.name != current]
    return sorted(others, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _bytes(manifest: Manifest) -> bytes:
    return manifest.model_dump_json(indent=2).encode() + b"\n"


def fault_of(manifest: Manifest) -> str:
    """What keeps an installed model's files from being whole, "" if nothing does: they are looked for, not read."""
    return _incomplete(manifest.files, manifest.snapshot)


def _incomplete(files: tuple[StoredFile, ...], folder: Path, *, strict: bool = False) -> str:
    """What keeps ``folder`` from being these files, "" if nothing does; ``strict`` finds what is too much as well."""
    for file in files:
        try:
            found = os.stat(folder / file.path)
        except OSError:
            return f"the file {file.path} is missing"
        if not stat.S_ISREG(found.st_mode):
            return f"the file {file.path} is missing"
        if found.st_size != file.size:
            return f"the file {file.path} has another size"
    if strict:
        known = {file.path for file in files}
        for path in folder.rglob("*"):
            name = path.relative_to(folder).as_posix()
            if path.is_symlink():
                return f"{name} is a link, not a file"
            if path.is_file() and name not in known:
                return f"the file {name} does not belong to it"
    return ""
