"""Pulling a model: licence, runtime, files, manifest, told in the lines that Ollama's clients know.

`pull` does it; `pull_in_child` has it done by ``python -m tollama.pull`` in a process of its own, since the hub's
client keeps its settings per process and a server must be able to drop a pull at any moment.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from tollama import licenses
from tollama.errors import DiskFull, Internal, Offline, TollamaError
from tollama.families import families
from tollama.registry import Entry
from tollama.settings import Settings
from tollama.store import Home, Manifest, Resolved, Store, StoredFile, StoredLicense, sha256_of

if TYPE_CHECKING:
    from tollama.hub import Hub, Listing, RemoteFile
    from tollama.runtimes import Runtimes

log = logging.getLogger(__name__)

Progress = Callable[[dict[str, Any]], None]

LINE_SECONDS = 0.2
"""The longest that a download which moves says nothing."""
LEFT_OUT = ("PYTHON", "RAY_", "HF_", "HUGGING", "TOLLAMA_", "VIRTUAL_ENV")
"""Beginnings of the environment variables that a pull's process does not inherit; it gets what it needs in words."""


class PullRequest(BaseModel):
    """The body of a pull, ours and Ollama's."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: str = Field("", min_length=1, validate_default=True, description="The model's name.")
    model: str | None = Field(None, description="The same as name, as Ollama's clients say it.")
    accept_license: bool = Field(False, description="Accept the licence, on record.")
    revision: str | None = Field(
        None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$", description="Instead of the known."
    )
    offline: bool = Field(False, description="Use only what is in the cache.")
    no_runtime: bool = Field(False, description="Leave the family's runtime uninstalled.")
    stream: bool | None = Field(None, description="NDJSON progress lines; default true on /api/pull.")
    token: SecretStr | None = Field(None, description="Token for the hub, for this pull.")
    endpoint: str | None = Field(None, pattern=r"^https?://", description="Another hub, for this pull.")
    insecure: bool | None = Field(None, description="Taken for Ollama's clients; changes nothing.")

    @model_validator(mode="before")
    @classmethod
    def _one_name(cls, body: Any) -> Any:
        return body | {"name": body["model"]} if isinstance(body, dict) and body.get("model") else body


def gate(entry: Entry, request: PullRequest, home: Home) -> None:
    """Raise :class:`LicenseNotAccepted` unless the licence is, or with this request gets, accepted."""
    if not request.accept_license:
        licenses.require(home, entry.name, entry.license)


def pull(
    entry: Entry, request: PullRequest, home: Home, runtimes: Runtimes, settings: Settings, progress: Progress
) -> Manifest:
    """Install the model of ``entry``, with its family's runtime, and return its manifest.

    ``progress`` gets the lines of Ollama's pull, ``{"status": "success"}`` last. An embedded model has nothing to
    fetch: its manifest is returned but not stored. Raises :class:`LicenseNotAccepted` before any byte, the
    :class:`PullError` leaves, and :class:`RunnerUnavailable` when the runtime cannot be built.
    """
    gate(entry, request, home)
    try:
        if not request.no_runtime:
            _install_runtime(entry, runtimes, progress)
        if entry.source.type == "embedded":
            manifest = _manifest(entry, request, home, "", ())
        else:
            store = Store(home)
            with _alone(store, entry.name, progress):
                manifest = _install(entry, request, store, settings, progress)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull("The disk is full; what was downloaded so far is kept.") from error
        raise
    progress({"status": "success"})
    return manifest


def _install_runtime(entry: Entry, runtimes: Runtimes, progress: Progress) -> None:
    spec = families().get(entry.family)
    if spec is None or runtimes.state(spec).ready:
        return
    status = f"installing runtime {spec.name}"
    progress({"status": status})
    runtimes.install(spec, lambda line: progress({"status": f"{status}: {line}"}))


@contextmanager
def _alone(store: Store, name: str, progress: Progress) -> Iterator[None]:
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


def _install(entry: Entry, request: PullRequest, store: Store, settings: Settings, progress: Progress) -> Manifest:
    from tollama.hub import Hub

    progress({"status": "pulling manifest"})
    repo, revision = str(entry.source.repo_id), request.revision or str(entry.source.revision)
    here = store.get(entry.name)
    if here is not None and here.source.repo_id != repo:
        here = None
    if here is not None and here.resolved.commit_sha == revision and _sound(here, progress):
        return _renewed(entry, request, store, here, progress)
    endpoint, token = _access(request, settings)
    hub = Hub(store.home.cache, endpoint, token=token, offline=request.offline or settings.offline)
    try:
        listing = hub.listing(repo, revision, entry.files)
    except Offline:
        if here is None or here.source.revision != revision or not _sound(here, progress):
            raise
        return _renewed(entry, request, store, here, progress)
    if here is not None and here.resolved.commit_sha == listing.commit and _sound(here, progress):
        return _renewed(entry, request, store, here, progress)
    staged = store.staging(entry.name)
    files = _fetch(hub, listing, staged, store.home.cache, progress)
    manifest = _manifest(entry, request, store.home, listing.commit, files, staged)
    progress({"status": "writing manifest"})
    return store.install(manifest, staged)


def _access(request: PullRequest, settings: Settings) -> tuple[str, str | None]:
    """The hub to ask and the token to show it: the configured token is for the configured hub alone."""
    endpoint = request.endpoint or settings.hf_endpoint
    if request.token:
        return endpoint, request.token.get_secret_value()
    return endpoint, settings.hf_token if endpoint == settings.hf_endpoint else None


def _sound(here: Manifest, progress: Progress) -> bool:
    """Whether the installed files are still what they were."""
    progress({"status": "verifying sha256 digest"})
    try:
        return all(sha256_of(here.snapshot / file.path) == file.sha256 for file in here.files)
    except FileNotFoundError:
        return False


def _renewed(entry: Entry, request: PullRequest, store: Store, here: Manifest, progress: Progress) -> Manifest:
    """The installed model under what the registry says of it now; its files stay."""
    fresh = _manifest(entry, request, store.home, here.resolved.commit_sha, here.files, here.snapshot)
    progress({"status": "writing manifest"})
    kept = {"resolved": here.resolved, "pulled_at": here.pulled_at, "installed_at": here.installed_at}
    return store.update(fresh.model_copy(update=kept))


def _fetch(hub: Hub, listing: Listing, staged: Path, cache: Path, progress: Progress) -> tuple[StoredFile, ...]:
    """Download what is missing, verify everything, and put the snapshot together in ``staged``."""
    cache.mkdir(parents=True, exist_ok=True)
    needed, free = hub.missing(listing), shutil.disk_usage(cache).free
    if needed > free:
        raise DiskFull(f"The model needs {needed / 1e9:.2f} GB more and only {free / 1e9:.2f} GB are free.")
    for file in listing.files:
        hub.download(listing, file, _lines(file, progress))
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


def _manifest(
    entry: Entry,
    request: PullRequest,
    home: Home,
    commit: str,
    files: tuple[StoredFile, ...],
    snapshot: Path | None = None,
) -> Manifest:
    """The manifest of ``entry`` with these files; settles the licence of the very text among them first."""
    terms, accepted = entry.license, not entry.license.needs_acceptance
    if terms.needs_acceptance:
        text = licenses.text(terms, snapshot)
        if request.accept_license:
            licenses.accept(home, entry.name, terms, text=text, revision=commit or None)
        licenses.require(home, entry.name, terms, text=text)
        accepted = True
    now = datetime.now(UTC)
    return Manifest(
        name=entry.name,
        family=entry.family,
        adapter=entry.adapter,
        source=entry.source.model_copy(update={"revision": request.revision or entry.source.revision}),
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
            accepted=accepted,
            receipt=f"licenses/{entry.name}.json" if terms.needs_acceptance else None,
        ),
        capabilities=entry.capabilities,
        defaults=entry.defaults,
        requires=entry.requires,
        details=entry.details,
        description=entry.description,
    )


async def pull_in_child(entry: Entry, request: PullRequest, settings: Settings) -> AsyncGenerator[dict[str, Any]]:
    """Pull in a process of its own; yields its lines, the last ``success`` or an error's body. Never raises.

    Closing the iterator, or cancelling who waits for it, ends the process; what was downloaded is kept.
    """
    home = Home(settings.home)
    home.run.mkdir(parents=True, exist_ok=True)
    endpoint, token = _access(request, settings)
    env = {key: value for key, value in os.environ.items() if not key.startswith(LEFT_OUT)}
    env |= {"HF_HOME": str(home.cache / "hf")} | ({"HF_TOKEN": token} if token else {})
    order = {
        "entry": entry.model_dump(mode="json"),
        "request": request.model_dump(exclude={"token", "endpoint"}),
        "settings": {
            "home": str(settings.home),
            "runtimes_dir": str(settings.runtimes),
            "keep_runtimes": settings.keep_runtimes,
            "hf_endpoint": endpoint,
            "offline": settings.offline,
        },
    }
    with tempfile.TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "tollama.pull"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            cwd=home.run,
            env=env,
            start_new_session=True,  # so that it can be ended together with the uv that it may have started
        )
        assert process.stdin is not None
        assert process.stdout is not None
        line: dict[str, Any] = {}
        try:
            process.stdin.write(json.dumps(order).encode())
            process.stdin.close()
            async for raw in process.stdout:
                line = json.loads(raw)
                yield line
            await process.wait()
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
            errors.seek(0)
            if words := errors.read()[-4000:].decode(errors="replace").strip():
                log.warning("pull of %s: %s", entry.name, words)
        if "error" not in line and line.get("status") != "success":
            hint = "Pull again: what was downloaded so far is kept. The server's log has the cause."
            yield Internal("The pull ended before it was done.", hint=hint).record.body()


def main() -> int:
    """The child: an order as JSON on stdin, its token in ``HF_TOKEN``; NDJSON lines on stdout."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no line of ours

    def tell(line: dict[str, Any]) -> None:
        try:
            print(json.dumps(line), file=out, flush=True)
        except BrokenPipeError:  # nobody waits for this pull any more
            os._exit(1)

    from tollama.runtimes import Runtimes

    try:
        order = json.load(sys.stdin)
        settings = Settings(**order["settings"], hf_token=os.environ.pop("HF_TOKEN", None))
        runtimes = Runtimes(settings.runtimes, keep_runtimes=settings.keep_runtimes)
        entry, request = Entry.model_validate(order["entry"]), PullRequest.model_validate(order["request"])
        pull(entry, request, Home(settings.home), runtimes, settings, tell)
    except TollamaError as error:
        tell(error.record.body())
        return 1
    except Exception:
        logging.getLogger(__name__).exception("the pull failed")
        tell(Internal("The pull failed by a fault of ours.").record.body())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
