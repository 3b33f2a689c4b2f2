"""The model hub through its own client library: what a repository holds, and its files, resumable and verified.

Files are kept by content under ``cache/blobs`` (``<digest>``, or ``<digest>.part`` while incomplete), so a pull that
was cut short goes on where it stopped, and models share what they have in common. The library's own download starts
every file over in a new process; its `http_get`, used here, resumes.

The library's settings are process-wide and are changed on import: pulls run in a process of their own.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from huggingface_hub import HfApi, constants, get_session, hf_hub_url
from huggingface_hub.errors import GatedRepoError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import RepoSibling

from tollama.errors import (
    DigestMismatch,
    DiskFull,
    HubError,
    HubUnauthorized,
    HubUnavailable,
    Offline,
    RevisionNotFound,
    TollamaError,
)
from tollama.manifest import matches
from tollama.store import atomic_write, safe_path, sha256_of
from tollama.version import __version__

LIST_TIMEOUT_S = 20.0
"""For the file list: the hub's own client waits for ever."""
RESETS = 3
"""Times in a row that a connection may be reset before a byte came."""
RESET_S = 1.0
"""How long a hub is left alone that has reset a connection."""
PATIENCE_S = 60.0
"""How long in all a hub is waited for that says 429, for one file."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha1:[0-9a-f]{40}")

constants.DOWNLOAD_CHUNK_SIZE = 256 * 1024  # 10 MB by default: what a cut connection loses, and a step of progress
constants.HF_HUB_DISABLE_TELEMETRY = True


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a repository; ``sha256`` is known of large (LFS) files, the others have git's object id."""

    path: str
    size: int
    git_oid: str
    sha256: str | None = None

    @property
    def digest(self) -> str:
        """The digest that the hub vouches for, with its kind."""
        return f"sha256:{self.sha256}" if self.sha256 else f"sha1:{self.git_oid}"


@dataclass(frozen=True, slots=True)
class Listing:
    """The wanted files of ``repo_id`` at ``commit`` (40 hex digits); ``card`` is what its model card says in data."""

    repo_id: str
    commit: str
    files: tuple[RemoteFile, ...]
    card: dict[str, Any] = field(default_factory=dict)

    def only(self, patterns: Iterable[str]) -> Listing:
        """The files that match any of ``patterns``; one without a slash is of the files at the top."""
        wanted = tuple(patterns)
        files = tuple(file for file in self.files if any(matches(file.path, pattern) for pattern in wanted))
        return replace(self, files=files)


class Hub:
    """One hub, and the cache of what came from it. ``token`` is sent to ``endpoint`` and nowhere else."""

    def __init__(self, cache: Path, endpoint: str, *, token: str | None = None, offline: bool = False) -> None:
        self._blobs = cache / "blobs"
        self._listings = cache / "listings"
        self._endpoint = endpoint.rstrip("/")
        self._token: str | bool = token or False  # False: no token that lies around on this machine either
        self._offline = offline
        self._brought: list[RemoteFile] = []

    def listing(self, repo_id: str, revision: str, patterns: tuple[str, ...], *, also: tuple[str, ...] = ()) -> Listing:
        """The files of ``revision`` (a branch, tag or commit) that match any of ``patterns``, of which there must be
        one, or of ``also``.

        Offline it is what was listed last. Raises the :class:`PullError` leaves.
        """
        listed = self._remembered(repo_id, revision) if self._offline else self._asked(repo_id, revision)
        if not listed.only(patterns).files:
            raise HubError("The repository has none of the files that this model is made of.")
        return listed.only((*patterns, *also))

    def _asked(self, repo_id: str, revision: str) -> Listing:
        try:
            api = HfApi(self._endpoint, token=self._token, library_name="tollama", library_version=__version__)
            info = api.model_info(repo_id, revision=revision, files_metadata=True, timeout=LIST_TIMEOUT_S)
            commit = str(info.sha)
            if not _COMMIT.fullmatch(commit) or (_COMMIT.fullmatch(revision) and commit != revision):
                raise ValueError("no commit, or another than the one asked for")
            card = {"tags": list(info.tags or ()), "library_name": info.library_name}
            card |= _plain(vars(info.card_data)) if info.card_data else {}
            files = tuple(_remote(sibling) for sibling in info.siblings or ())
            found = Listing(repo_id, commit, files, card)
        except Exception as error:
            raise translate(error, self.page(repo_id)) from error
        for known_as in {revision, found.commit}:
            atomic_write(self._listed(repo_id, known_as), json.dumps(asdict(found)).encode())
        return found

    def page(self, repo_id: str) -> str:
        """Where people read of a repository; without what an endpoint may hold of secrets."""
        return re.sub("//[^/]*@", "//", f"{self._endpoint}/{repo_id}")

    def read(self, listing: Listing, path: str, limit: int) -> bytes | None:
        """The content of a small file of ``listing``, None when it is not there or has more than ``limit`` bytes."""
        file = next((file for file in listing.files if file.path == path), None)
        if file is None or file.size > limit:
            return None
        self.download(listing, file, lambda _: None)
        return self.verify(file)[0].read_bytes()

    def missing(self, listing: Listing) -> int:
        """Bytes of ``listing`` that are not in the cache yet."""
        return sum(max(0, file.size - self._have(file)) for file in listing.files)

    def download(
        self,
        listing: Listing,
        file: RemoteFile,
        progress: Callable[[int], None],
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Bring ``file`` into the cache, from where it was left; ``progress`` gets the bytes that are there, ``say``
        what is waited for."""
        self._blobs.mkdir(parents=True, exist_ok=True)
        blob, part = self._blob(file), self._part(file)
        with self._alone(file):
            if blob.exists():
                if _sha256_if_right(blob, file):
                    progress(file.size)
                    return
                blob.unlink()
            if self._offline:
                raise Offline("A file of the model is not here, and the server is told to stay offline.")
            have = self._have(file)
            if have > file.size:
                part.unlink()
            self._brought.append(file)
            url = hf_hub_url(listing.repo_id, file.path, revision=listing.commit, endpoint=self._endpoint)
            left, waited, pause = RESETS, 0.0, 1.0
            while True:
                progress(have := self._have(file))
                try:
                    self._get(url, part, have, file.size, progress)
                    return
                except Exception as error:
                    failure = translate(error, self.page(listing.repo_id))
                    if isinstance(failure, (DigestMismatch, DiskFull)):  # else the next pull would go on from there
                        part.unlink(missing_ok=True)
                    left = RESETS if self._have(file) > have else left - 1
                    if failure.retry_after is not None:  # a 429
                        pause = max(failure.retry_after, 2 * pause)
                        waited += pause
                        if waited > PATIENCE_S:
                            raise failure from error
                        say(f"waiting {pause:.0f} s for the hub, which is busy")
                        time.sleep(pause)
                    elif left and _was_reset(error):  # of all that breaks off, what the library does not try again
                        time.sleep(RESET_S)
                    else:
                        raise failure from error

    def _get(self, url: str, part: Path, have: int, size: int, progress: Callable[[int], None]) -> None:
        headers = {"user-agent": f"tollama/{__version__}", "accept-encoding": "identity"}
        if self._token:
            headers["authorization"] = f"Bearer {self._token}"
        session = get_session()
        answered = session.event_hooks["response"]
        if _refuse_429 not in answered:
            session.event_hooks = session.event_hooks | {"response": [*answered, _refuse_429]}
        with _Counted(part, progress) as out:
            http_get(url, out, resume_size=have, headers=headers, expected_size=size)

    def discard(self) -> None:
        """Remove what was brought here and what no model shares. For when nobody else uses the cache."""
        for file in self._brought:
            for path in (self._part(file), self._blob(file)):
                if path.exists() and path.stat().st_nlink == 1:
                    path.unlink()

    def verify(self, file: RemoteFile) -> tuple[Path, str]:
        """Check a downloaded ``file`` against its digest; its place in the cache and its sha256.

        Raises :class:`DigestMismatch` and discards the file if it is another.
        """
        with self._alone(file):
            blob, part = self._blob(file), self._part(file)
            path = blob if blob.exists() else part
            sha256 = _sha256_if_right(path, file)
            if sha256 is None:
                path.unlink()
                raise DigestMismatch("A file of the model is not what the hub said it would be.", detail=file.path)
            if path == part:
                os.replace(part, blob)
            os.utime(blob)  # the cache forgets first what was not used for longest
            return blob, sha256

    def _blob(self, file: RemoteFile) -> Path:
        return self._blobs / (file.sha256 or file.git_oid)

    def _part(self, file: RemoteFile) -> Path:
        return self._blob(file).with_suffix(".part")

    def _have(self, file: RemoteFile) -> int:
        for path in (self._blob(file), self._part(file)):
            if path.exists():
                return path.stat().st_size
        return 0

    def _alone(self, file: RemoteFile) -> FileLock:
        return FileLock(self._blob(file).with_suffix(".lock"))

    def _listed(self, repo_id: str, revision: str) -> Path:
        return self._listings / f"{hashlib.sha256(f'{self._endpoint} {repo_id}@{revision}'.encode()).hexdigest()}.json"

    def _remembered(self, repo_id: str, revision: str) -> Listing:
        try:
            raw = json.loads(self._listed(repo_id, revision).read_bytes())
        except FileNotFoundError:
            raise Offline("The model was never pulled here, and the server is told to stay offline.") from None
        files = tuple(RemoteFile(**file) for file in raw["files"])
        return Listing(raw["repo_id"], raw["commit"], files, raw.get("card") or {})


def _refuse_429(response: Any) -> None:
    """Raise for the status 429, at which the library itself waits in silence, for as long as the hub says."""
    if response.status_code == 429:
        # The real hub says it as RateLimit: "api";r=0;t=55
        said = response.headers.get("retry-after") or response.headers.get("ratelimit", "").rpartition("t=")[2]
        raise _unavailable(429, float(said) if said.isdigit() else 0.0)


def _was_reset(error: Exception) -> bool:
    return isinstance(error, ConnectionError) or type(error).__name__ in ("ReadError", "WriteError")


def _unavailable(status: int, retry_after: float | None = None) -> HubUnavailable:
    when = f"in {retry_after:.0f} s" if retry_after else "in a while"
    hint = f"Try again {when}; what was downloaded so far is kept."
    return HubUnavailable("The hub is overloaded or down.", detail=f"HTTP {status}", hint=hint, retry_after=retry_after)


class _Counted(io.BufferedWriter):
    """A file that continues where it ends and tells its length after each write."""

    def __init__(self, path: Path, progress: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(path, "a"))
        self._progress = progress

    def write(self, data: bytes) -> int:  # type: ignore[override]
        written = super().write(data)
        self._progress(self.tell())
        return written


def _plain(card: dict[str, Any]) -> dict[str, Any]:
    """The texts of a model card, and its lists of texts."""
    lists = {key: value for key, value in card.items() if isinstance(value, list)}
    texts = {key: value for key, value in card.items() if isinstance(value, str)}
    return texts | {key: value for key, value in lists.items() if all(isinstance(one, str) for one in value)}


def _remote(sibling: RepoSibling) -> RemoteFile:
    """A row of the hub's list, refused if it could reach outside the cache or the snapshot."""
    sha256 = sibling.lfs.sha256 if sibling.lfs else None
    file = RemoteFile(safe_path(sibling.rfilename), int(sibling.size or 0), str(sibling.blob_id), sha256)
    if not _DIGEST.fullmatch(file.digest):
        raise ValueError("not a digest")
    return file


def _sha256_if_right(path: Path, file: RemoteFile) -> str | None:
    sha256 = sha256_of(path)
    right = sha256 == file.sha256 if file.sha256 else _git_oid(path) == file.git_oid
    return sha256 if right else None


def _git_oid(path: Path) -> str:
    """Git's object id of a file: the sha1 of a header with its size and the content."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as content:
        for chunk in iter(lambda: content.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def translate(error: Exception, page: str = "") -> TollamaError:
    """The :class:`PullError` that an exception of the hub's client, or of the disk, means; ``page`` is the model's."""
    if isinstance(error, TollamaError):
        return error
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    detail = None if status is None else f"HTTP {status}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull("The disk is full; what did not fit was discarded.")
    if isinstance(error, OfflineModeIsEnabled):
        return Offline("The hub's client is told to stay offline.")
    if isinstance(error, GatedRepoError):
        hint = f"Ask for access at {page or 'its page'}, set HF_TOKEN on the server to your token, then pull again."
        return HubUnauthorized(
            "The repository is gated: the hub wants a token of somebody with access.", detail=detail, hint=hint
        )
    if status in (401, 403):
        hint = "If the name is right, the repository is private: ask for access and set HF_TOKEN."
        return HubUnauthorized("The hub refuses access to the repository.", detail=detail, hint=hint)
    if status == 404 or isinstance(error, HFValidationError):
        hint = "Check the repository's name and the revision on the hub."
        return RevisionNotFound("The repository, the revision or the file is not on the hub.", detail=detail, hint=hint)
    if status == 416 or (type(error) is OSError and error.errno is None):
        return DigestMismatch("A file of the model is not as long as the hub said it would be.")
    if status in (429, 502, 503, 504):
        return _unavailable(status)
    if status is not None:
        return HubError("The hub answered with a fault.", detail=detail, hint="Try again in a while.")
    # Transport failures are exceptions of whichever HTTP library this version of the hub's client is built on.
    if type(error).__module__.partition(".")[0].startswith("httpx") or isinstance(error, ConnectionError):
        return HubUnavailable("The hub could not be reached, or the connection broke off; what came is kept.")
    return HubError("The hub's answer is not one of a model hub.", hint="Check HF_ENDPOINT and the proxy settings.")
