"""Pulling a model: licence, runtime, files, manifest, told in the lines that Ollama's clients know.

A model is one of the registry's, one that is installed, or ``hf:ORG/NAME[@REVISION]``: any repository of the hub whose
architecture is served.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tollama import agreement, architectures, licenses, weights
from tollama.errors import DiskFull, HubError, InvalidRequest, Offline
from tollama.families import families
from tollama.manifest import LICENSE_FILES, sha256_of_text
from tollama.registry import Entry, Source
from tollama.retention import tidy
from tollama.settings import Settings
from tollama.store import (
    Home,
    Manifest,
    Resolved,
    Store,
    StoredFile,
    StoredLicense,
    fault_of,
    in_use,
    sha256_of,
)
from tollama.wanted import PullRequest, Repository, access, as_entry, offline

if TYPE_CHECKING:
    from tollama.hub import Hub, Listing, RemoteFile
    from tollama.runtimes import Runtimes

Progress = Callable[[dict[str, Any]], None]

LINE_SECONDS = 0.2
"""The longest that a download which moves says nothing."""


def pull(
    wanted: Entry | Repository,
    request: PullRequest,
    home: Home,
    runtimes: Runtimes,
    settings: Settings,
    progress: Progress,
) -> Manifest:
    """Install the model, with its family's runtime, and return its manifest.

    ``progress`` gets the lines of Ollama's pull, ``{"status": "success"}`` last. An embedded model has nothing to
    fetch: its manifest is returned but not stored. Where only the acceptance of an installed model's licence is
    missing, nothing but that is done. Raises :class:`LicenseNotAccepted` before anything but the licence's text is
    fetched, :class:`InvalidRequest` where a model from elsewhere has the name, the :class:`PullError` leaves, and
    :class:`RunnerUnavailable` when the runtime cannot be built.
    """
    from tollama.hub import Hub

    store = Store(home)
    endpoint, token = access(request, settings)
    hub = Hub(home.cache, endpoint, token=token, offline=offline(request, settings))
    try:
        with full_disk(), in_use(home.cache):
            manifest = _accepted_only(wanted, request, store, progress) or _pull(
                wanted, request, store, hub, runtimes, settings, progress
            )
    except DiskFull:  # a disk that stays full harms everything else
        with in_use(home.cache, alone=True) as free:  # another pull may share what this one has brought
            if free:
                hub.discard()
        raise
    tidy(settings)
    progress({"status": "success"})
    return manifest


@contextmanager
def full_disk() -> Iterator[None]:
    """Within, a disk that is full is told as such."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull("The disk is full; nothing was installed.") from error
        raise


def _accepted_only(
    wanted: Entry | Repository, request: PullRequest, store: Store, progress: Progress
) -> Manifest | None:
    """The installed model if all that the request changes of it is that its licence is accepted now."""
    here = installed(wanted, store)
    if here is None:
        return None
    local, terms = here.source.type == "local", here.license
    text = licenses.text(terms, here.snapshot)
    if fault_of(here) or (terms.needs_acceptance and sha256_of_text(text) != terms.text_sha256):
        if local:
            hint = f"tollama pull --from-dir DIR {here.name}"
            raise InvalidRequest(f"The files of {here.name!r}, which came from a folder, are damaged.", hint=hint)
        return None
    if not request.accept_license or licenses.accepted(store.home, here.name, terms, here.source):
        return here if local else None
    if request.revision not in (None, here.source.revision, here.resolved.commit_sha):
        return None
    if agreement.agreed(request) not in (True, terms.text_sha256):
        licenses.require(store.home, here.name, terms, here.source, text=text, hint=agreement.how(request))
    licenses.accept(store.home, here.name, terms, here.source, text=text, revision=here.resolved.commit_sha)
    progress({"status": "licence accepted"})
    return here


def installed(wanted: Entry | Repository, store: Store) -> Manifest | None:
    """The installed model of that name. Raises :class:`InvalidRequest` if it came from somewhere else."""
    here = store.get(wanted.name)
    place = wanted.source.place if isinstance(wanted, Entry) else wanted.repo_id.lower()
    if here is None or here.source.place == place:
        return here
    raise InvalidRequest(
        f"The name {here.name!r} is that of another model, from {here.source.repo_id or 'a folder'}.",
        hint=f"Choose another name, or remove it first: tollama rm {here.name}",
    )


def _pull(
    wanted: Entry | Repository,
    request: PullRequest,
    store: Store,
    hub: Hub,
    runtimes: Runtimes,
    settings: Settings,
    progress: Progress,
) -> Manifest:
    entry, listing = _described(wanted, store, hub) if isinstance(wanted, Repository) else (wanted, None)
    agreed = agreement.agreed(request)
    if agreed is not True and not licenses.accepted(store.home, entry.name, entry.license, entry.source):
        text, hint = agreement.offered(entry, request, hub), agreement.how(request)
        if agreed != sha256_of_text(text):
            licenses.require(store.home, entry.name, entry.license, entry.source, text=text, hint=hint)
    embedded = entry.source.type == "embedded"
    if not embedded:
        listing = listing or _listing(entry, request, store, hub)
        agreement.unchanged(entry, request, store, hub, listing)
        # The first line, which commits an answer to success, after what can be refused.
        progress({"status": "pulling manifest"})
    if not request.no_runtime:
        install_runtime(entry.family, runtimes, progress)
    if embedded:
        return manifest_of(entry, agreed, store.home, ())
    with alone(store, entry.name, progress):
        return _install(entry, request, store, hub, listing, settings.keep_snapshots, progress)


def _listing(entry: Entry, request: PullRequest, store: Store, hub: Hub) -> Listing | None:
    """What the repository has at the revision that is asked for; None where the hub is not needed, because that is
    installed, or not to be asked, and something is."""
    here, revision = installed(entry, store), request.revision or str(entry.source.revision)
    if here is not None and here.resolved.commit_sha == revision:
        return None
    try:
        return hub.listing(str(entry.source.repo_id), revision, entry.files, also=LICENSE_FILES)
    except Offline:
        if here is None or here.source.revision != revision:
            raise
        return None


def _described(wanted: Repository, store: Store, hub: Hub) -> tuple[Entry, Listing | None]:
    """The entry of a repository that the registry does not know, by its own words, and what is in it.

    Where the commit is installed already, or the server is offline, the installed model's own say is enough.
    """
    here = installed(wanted, store)
    source = Source(type="huggingface", repo_id=wanted.repo_id, revision=wanted.revision)
    if here is not None and here.resolved.commit_sha == wanted.revision:
        return as_entry(here).model_copy(update={"source": source}), None
    try:
        listing = hub.listing(wanted.repo_id, wanted.revision, ("*",))
        config = _config(hub, listing)
    except Offline:
        if here is None or here.source.revision != wanted.revision:
            raise
        return as_entry(here), None
    terms = licenses.on_card(config["card"], hub.page(wanted.repo_id))
    kind = architectures.detect(config)
    paths = [file.path for file in listing.files]
    return architectures.entry(wanted.name, kind, config, source, terms, paths), listing


def _config(hub: Hub, listing: Listing) -> dict[str, Any]:
    """The repository's ``config.json``, and under ``card`` its model card's metadata."""
    content = hub.read(listing, architectures.CONFIG, architectures.MAX_SIZE)
    config = {} if content is None else architectures.parse(content)
    card = dict(listing.card)
    if "license" not in card:
        card |= architectures.card(hub.read(listing, architectures.CARD, architectures.MAX_SIZE) or b"")
    return config | {"card": card}


def install_runtime(family: str, runtimes: Runtimes, progress: Progress) -> None:
    """Build the runtime of a family where it is missing, and say so."""
    spec = families().get(family)
    if spec is None or runtimes.state(spec).ready:
        return
    status = f"installing runtime {spec.name}"
    progress({"status": status})
    runtimes.install(spec, lambda line: progress({"status": f"{status}: {line}"}))


@contextmanager
def alone(store: Store, name: str, progress: Progress) -> Iterator[None]:
    """One pull of a model at a time; who comes second finds the work done."""
    from filelock import Timeout

    lock = store.lock(name)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress({"status": "waiting for another pull of this model"})
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _install(
    entry: Entry,
    request: PullRequest,
    store: Store,
    hub: Hub,
    listing: Listing | None,
    keep: int,
    progress: Progress,
) -> Manifest:
    repo, revision = str(entry.source.repo_id), request.revision or str(entry.source.revision)
    here = installed(entry, store)
    if here is not None and (listing is None or here.resolved.commit_sha == listing.commit) and _sound(here, progress):
        kept = _renewed(entry, request, store, here, progress)
        if kept is not None:
            return kept
    if listing is None:
        listing = hub.listing(repo, revision, entry.files, also=LICENSE_FILES)
    staged = store.staging(entry.name)
    try:
        files = _fetch(hub, listing.only((*entry.files, *LICENSE_FILES)), staged, store.home.cache, progress)
        manifest = manifest_of(entry, agreement.agreed(request), store.home, files, staged, listing.commit, revision)
        progress({"status": "writing manifest"})
        return store.install(manifest, staged, keep=keep)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def _sound(here: Manifest, progress: Progress) -> bool:
    """Whether the installed files are still what they were."""
    progress({"status": "verifying sha256 digest"})
    try:
        return all(sha256_of(here.snapshot / file.path) == file.sha256 for file in here.files)
    except FileNotFoundError:
        return False


def _renewed(entry: Entry, request: PullRequest, store: Store, here: Manifest, progress: Progress) -> Manifest | None:
    """The installed model under what the registry says of it now, its files stay; None if it was removed meanwhile."""
    asked = request.revision or str(entry.source.revision)
    commit, agreed = here.resolved.commit_sha, agreement.agreed(request)
    fresh = manifest_of(entry, agreed, store.home, here.files, here.snapshot, commit, asked)
    progress({"status": "writing manifest"})
    kept = {"resolved": here.resolved, "pulled_at": here.pulled_at, "installed_at": here.installed_at}
    return store.update(fresh.model_copy(update=kept))


def _fetch(hub: Hub, listing: Listing, staged: Path, cache: Path, progress: Progress) -> tuple[StoredFile, ...]:
    """Download what is missing, verify everything, and put the snapshot together in ``staged``."""
    cache.mkdir(parents=True, exist_ok=True)
    if len({file.path.casefold() for file in listing.files}) < len(listing.files):
        raise HubError("The repository has two files whose names differ in case only.")
    needed, free = hub.missing(listing), shutil.disk_usage(cache).free
    if needed > free:
        raise DiskFull(f"The model needs {needed / 1e9:.2f} GB more and only {free / 1e9:.2f} GB are free.")
    for file in listing.files:
        hub.download(listing, file, _lines(file, progress), lambda status: progress({"status": status}))
    progress({"status": "verifying sha256 digest"})
    files = []
    for file in listing.files:
        blob, sha256 = hub.verify(file)
        target = staged / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(blob, target)
        except OSError:  # a file system without hard links
            shutil.copyfile(blob, target)
        files.append(StoredFile(path=file.path, size=file.size, sha256=sha256))
    return tuple(files)


def _lines(file: RemoteFile, progress: Progress) -> Callable[[int], None]:
    """Progress lines of one file: its first and last byte, each percent, and at least one per `LINE_SECONDS`."""
    told, at = -1, 0.0

    def tell(completed: int) -> None:
        nonlocal told, at
        now = time.monotonic()
        if told < 0 or completed >= file.size or completed - told >= file.size / 100 or now - at >= LINE_SECONDS:
            told, at = completed, now
            status = f"pulling {file.digest.partition(':')[2][:12]}"
            progress({"status": status, "digest": file.digest, "total": file.size, "completed": completed})

    return tell


def manifest_of(
    entry: Entry,
    agreed: bool | str,
    home: Home,
    files: tuple[StoredFile, ...],
    snapshot: Path | None = None,
    commit: str = "",
    revision: str | None = None,
) -> Manifest:
    """The manifest of ``entry`` with these files; settles the licence of the very text among them first.

    ``agreed``: whether it is accepted here and now, or the sha256 of the text of which that is so. ``revision`` was
    asked for and is at ``commit``. Raises :class:`LicenseNotAccepted`, and
    :class:`UnsupportedRepository` for weights of a model not in the registry that are not what they are called.
    """
    terms, digest = entry.license, None
    if terms.needs_acceptance:
        text = licenses.text(terms, snapshot)
        digest = sha256_of_text(text)
        if agreed in (True, digest):
            licenses.accept(home, entry.name, terms, entry.source, text=text, revision=commit or None)
        licenses.require(home, entry.name, terms, entry.source, text=text)
    source = entry.source if revision is None else entry.source.model_copy(update={"revision": revision})
    now = datetime.now(UTC)
    return Manifest(
        name=entry.name,
        family=entry.family,
        adapter=entry.adapter,
        source=source,
        resolved=Resolved(commit_sha=commit),
        size_bytes=sum(file.size for file in files),
        files=files,
        pulled_at=now,
        installed_at=now,
        license=StoredLicense(
            id=terms.id,
            needs_acceptance=terms.needs_acceptance,
            notice=terms.notice,
            url=terms.url,
            accepted=True,
            receipt=f"licenses/{entry.name}.json" if terms.needs_acceptance else None,
            text_sha256=digest,
        ),
        capabilities=entry.capabilities,
        defaults=entry.defaults,
        requires=entry.requires,
        details=entry.details if entry.details.parameter_size or snapshot is None else weights.details(snapshot),
        description=entry.description,
    )
