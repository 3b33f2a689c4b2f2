"""The manifest: what one installed model is, as a file; read whatever version of tollama wrote it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from tollama.capabilities import Capabilities
from tollama.registry import Defaults, Details, Requires, Source

SCHEMA = 2
"""Version of the manifest that this tollama writes."""
LICENSE_FILES = ("[Ll][Ii][Cc][Ee][Nn][CcSs][Ee]*",)
"""Names of a licence's text at the top of a repository: in either spelling, in any letter case."""
MAX_TEXT = 1_000_000
"""Bytes that a licence's text may have; a longer one is passed over."""


def safe_path(path: str) -> str:
    """``path`` if it stays inside the folder it is relative to; ValueError if not."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or not path.isprintable():
        raise ValueError("must be a relative path inside its folder")
    return path


def matches(path: str, pattern: str) -> bool:
    """Whether ``path`` matches the glob ``pattern``; one without a slash is of the files at the top."""
    return ("/" in path) <= ("/" in pattern) and fnmatchcase(path, pattern)


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class StoredFile(_Part):
    """One file of a snapshot; ``size`` in bytes, ``sha256`` in 64 hex digits."""

    path: Annotated[str, AfterValidator(safe_path)]
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Resolved(_Part):
    """What was really fetched: the commit, and the snapshot's folder relative to the model's."""

    commit_sha: str
    snapshot_path: Annotated[str, AfterValidator(safe_path)] = "snapshot"


class StoredLicense(_Part):
    """The licence the model came under; ``receipt`` is the file, relative to the home, that records its acceptance.

    ``text_sha256`` is of the text that has to be accepted, None where none has to be.
    """

    id: str
    needs_acceptance: bool = False
    notice: str = ""
    url: str | None = None
    accepted: bool = False
    receipt: str | None = None
    text_sha256: str | None = None


class Manifest(_Part):
    """One installed model. Fields that a newer tollama added are ignored."""

    name: str
    family: str
    adapter: str
    source: Source
    resolved: Resolved
    size_bytes: int
    files: tuple[StoredFile, ...]
    pulled_at: datetime
    installed_at: datetime
    license: StoredLicense
    capabilities: Capabilities
    defaults: Defaults
    requires: Requires
    details: Details
    description: str = ""
    schema_version: int = Field(SCHEMA, ge=SCHEMA, le=SCHEMA)

    _folder: Path | None = PrivateAttr(None)

    @property
    def digest(self) -> str:
        """64 hex digits over the files' names and contents: two snapshots with the same are the same."""
        lines = sorted(f"{file.sha256}  {file.path}\n" for file in self.files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def snapshot(self) -> Path:
        """The folder of the files, absolute, wherever the home lies now. Only for a manifest read from a store."""
        if self._folder is None:
            raise ValueError("this manifest was not read from a store")
        return self._folder / self.resolved.snapshot_path


def license_text(notice: str, snapshot: Path | None) -> str:
    """A licence's text: the ``LICENSE`` file among the model's files, else ``notice``."""
    found = sorted({path for name in LICENSE_FILES for path in snapshot.glob(name)}) if snapshot else []
    for path in found:
        if path.is_file() and not path.is_symlink() and path.stat().st_size <= MAX_TEXT:
            return text_of(path.read_bytes())
    return notice


def text_of(content: bytes) -> str:
    """The text of a licence's file, the same whichever line ends it was saved with."""
    return content.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")


def sha256_of_text(text: str) -> str:
    """The sha256 of a licence's text, 64 hex digits."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def _with_text(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """1 to 2: the licence has the digest of its text, which was looked up at every pull before."""
    terms = dict(raw["license"])
    if terms.get("needs_acceptance"):
        snapshot = folder / safe_path(raw["resolved"].get("snapshot_path", "snapshot"))
        terms["text_sha256"] = sha256_of_text(license_text(terms.get("notice", ""), snapshot))
    return raw | {"license": terms, "schema_version": 2}


MIGRATIONS: Mapping[int, Callable[[dict[str, Any], Path], dict[str, Any]]] = {1: _with_text}
"""How a manifest of each older version, in that folder, becomes one of the next. On the disk it stays as it is until
something writes it anew, so that an older tollama can still read it."""


def read(path: Path) -> Manifest:
    """The manifest in the file ``path``. Raises ValueError with what is wrong with it, or OSError."""
    try:
        raw = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError("its manifest is malformed: it is not JSON") from None
    if not isinstance(raw, dict):
        raise ValueError("its manifest is malformed: it is not a JSON object")
    try:
        while (version := raw.get("schema_version", 1)) in MIGRATIONS:
            raw = MIGRATIONS[version](raw, path.parent)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise ValueError("its manifest is malformed: an older version that lacks what it must have") from None
    if isinstance(version, int) and version > SCHEMA:
        raise ValueError(f"its manifest is of a newer tollama (schema_version {version})")
    try:
        # What is forbidden in a request (unknown fields) is what a newer version added in a manifest.
        manifest = Manifest.model_validate(raw, extra="ignore")
    except ValidationError as error:
        raise ValueError(_fault(error)) from None
    manifest._folder = path.parent
    return manifest


def _fault(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"its manifest is malformed: {where + ': ' if where else ''}{first['msg']}"
