"""A model out of a folder of this machine: a checkpoint that was saved here, copied into the store.

The folder stays as it is, and the copy is what was checked: changing the one later does not change the other.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tollama import architectures, licenses
from tollama.errors import DigestMismatch, DiskFull, InvalidRequest, UnsupportedRepository
from tollama.manifest import LICENSE_FILES, matches, safe_path
from tollama.pull import Progress, alone, full_disk, installed, manifest_of
from tollama.registry import Entry, Source
from tollama.settings import Settings
from tollama.store import Home, Manifest, Store, StoredFile, in_use, sha256_of
from tollama.wanted import free_name


def describe(folder: Path, name: str, license: str | None = None) -> Entry:
    """The registry entry of the model in ``folder``, to be called ``name``; nothing is written.

    ``license`` is the id of its licence, else the one that its model card names. Raises :class:`InvalidRequest` for a
    folder that cannot be read, and :class:`UnsupportedRepository` for one that holds no model that is served.
    """
    if not folder.is_dir():
        raise InvalidRequest("There is no such folder.", hint="Name the folder that has config.json and the weights.")
    card = architectures.card(_read(folder, architectures.CARD) or b"")
    content = _read(folder, architectures.CONFIG)
    config = {} if content is None else architectures.parse(content)
    if content is None and not card:
        raise UnsupportedRepository(
            "The folder has no config.json.", hint="Name the folder that the model was saved to."
        )
    terms = licenses.on_card(card) if license is None else licenses.named(license)
    config |= {"card": card}
    paths = [path.name for path in folder.iterdir()]
    kind = architectures.detect(config)
    return architectures.entry(free_name(name), kind, config, Source(type="local"), terms, paths)


def adopt(
    folder: Path, entry: Entry, settings: Settings, progress: Progress, *, accept_license: bool | str
) -> Manifest:
    """Install the model of ``folder`` as ``entry`` (see `describe`) says, and return its manifest.

    ``accept_license``: whether its licence is accepted, or the sha256 of the text of which that is so.
    Raises :class:`LicenseNotAccepted`, :class:`InvalidRequest` for files that are none or lie elsewhere and for the
    name of a model that did not come from a folder, and :class:`DiskFull`; the store is as it was then.
    """
    home = Home(settings.home)
    store = Store(home)
    wanted = _files(folder, (*entry.files, *LICENSE_FILES))
    hint = (
        f"Add --accept-license, or --license with the id of the licence, to: tollama pull --from-dir DIR {entry.name}"
    )
    if not accept_license:
        text = licenses.text(entry.license, folder)
        licenses.require(home, entry.name, entry.license, entry.source, text=text, hint=hint)
    with full_disk(), in_use(home.cache), alone(store, entry.name, progress):
        installed(entry, store)
        needed, free = sum(path.stat().st_size for path in wanted), shutil.disk_usage(home.cache).free
        if needed > free:
            raise DiskFull(f"The model needs {needed / 1e9:.2f} GB and only {free / 1e9:.2f} GB are free.")
        staged = store.staging(entry.name)
        try:
            files = tuple(_copied(path, staged, progress) for path in wanted)
            manifest = manifest_of(entry, accept_license, home, files, staged)
            progress({"status": "writing manifest"})
            adopted = store.install(manifest, staged, keep=settings.keep_snapshots)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
    progress({"status": "success"})
    return adopted


def _files(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    """The files at the top of ``folder`` that match. Raises :class:`InvalidRequest` for what is no file in it."""
    inside = folder.resolve()
    found = []
    for path in sorted(folder.iterdir()):
        if not any(matches(path.name, pattern) for pattern in patterns):
            continue
        try:
            safe_path(path.name)
        except ValueError:
            raise InvalidRequest(
                "A file of the folder has a name that is none.", hint="Give it a plain name."
            ) from None
        if not path.resolve().is_relative_to(inside):
            raise InvalidRequest(
                f"{path.name} is a link to somewhere else.",
                hint="Copy the folder with its links followed: cp -rL DIR NEW",
            )
        if not path.is_file():
            raise InvalidRequest(f"{path.name} is not a file.", hint="Leave it out of the folder.")
        found.append(path)
    return found


def _read(folder: Path, name: str) -> bytes | None:
    for path in _files(folder, (name,)):
        if path.stat().st_size <= architectures.MAX_SIZE:
            return path.read_bytes()
    return None


def _copied(path: Path, staged: Path, progress: Progress) -> StoredFile:
    """One file copied, and the copy compared with what it is of."""
    sha256, size = sha256_of(path), path.stat().st_size
    line = {"status": f"copying {path.name}", "digest": f"sha256:{sha256}", "total": size}
    progress({**line, "completed": 0})
    copy = staged / path.name
    shutil.copyfile(path, copy)
    if sha256_of(copy) != sha256:
        raise DigestMismatch(
            f"{path.name} changed while it was copied.", hint="Wait until whatever writes it is done, then try again."
        )
    progress({**line, "completed": size})
    return StoredFile(path=path.name, size=size, sha256=sha256)
