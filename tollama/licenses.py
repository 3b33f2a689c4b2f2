"""Licences that want to be accepted: one receipt per model, which outlives the model's removal."""

from __future__ import annotations

import getpass
import hashlib
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from tollama.errors import LicenseNotAccepted
from tollama.registry import canonical_name
from tollama.store import FileCache, Home, atomic_write
from tollama.version import __version__


class Terms(Protocol):
    """What is asked of a licence: a registry entry's and a manifest's both have it."""

    @property
    def id(self) -> str: ...
    @property
    def needs_acceptance(self) -> bool: ...
    @property
    def notice(self) -> str: ...
    @property
    def url(self) -> str | None: ...


class Receipt(BaseModel):
    """Who accepted which licence, when. ``text_sha256`` is of the text that was accepted, see `text`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    license: str
    text_sha256: str
    notice: str
    accepted_at: datetime
    by: str
    tollama: str
    revision: str | None = None


def _parse(path: Path) -> Receipt | None:
    try:
        return Receipt.model_validate_json(path.read_bytes(), extra="ignore")
    except (ValidationError, OSError):
        return None  # a damaged receipt proves nothing: the licence has to be accepted again


_receipts = FileCache(_parse)


def receipt(home: Home, name: str) -> Receipt | None:
    """The receipt for the model ``name``, if there is a sound one. One stat while it is unchanged."""
    return _receipts.read(f"{home.root}/licenses/{canonical_name(name)}.json")


def text(terms: Terms, snapshot: Path | None) -> str:
    """The licence's text: the ``LICENSE`` file among the model's files, else the registry's notice."""
    found = sorted(path for path in snapshot.glob("LICENSE*") if path.is_file()) if snapshot else []
    return found[0].read_text(encoding="utf-8", errors="replace") if found else terms.notice


def shown(terms: Terms, snapshot: Path | None) -> str:
    """What a person gets to read: the `text`; where that is but a notice, the licence's name and address with it."""
    found = text(terms, snapshot)
    return found if found != terms.notice else "\n".join(part for part in (terms.id, found, terms.url) if part)


def accepted(home: Home, name: str, terms: Terms) -> bool:
    """Whether the model may run as far as its licence goes. Cheap: asked before each run."""
    if not terms.needs_acceptance:
        return True
    found = receipt(home, name)
    return found is not None and found.license == terms.id


def require(home: Home, name: str, terms: Terms, *, text: str | None = None) -> None:
    """Raise :class:`LicenseNotAccepted` unless the licence is accepted; with ``text``, unless that very text is."""
    if not accepted(home, name, terms):
        what = f"The licence of {name!r} ({terms.id}) has to be accepted first."
    elif terms.needs_acceptance and text is not None and _sha256(text) != _accepted_text(home, name):
        what = f"The licence text of {name!r} ({terms.id}) is not the one that was accepted."
    else:
        return
    detail = {"license": terms.id, "notice": terms.notice, "url": terms.url}
    raise LicenseNotAccepted(what, detail=detail, hint=f"tollama pull {name} --accept-license")


def accept(home: Home, name: str, terms: Terms, *, text: str | None = None, revision: str | None = None) -> Receipt:
    """Record that the licence is accepted: its ``text`` (default: the notice) at the source's ``revision``."""
    given = Receipt(
        name=canonical_name(name),
        license=terms.id,
        text_sha256=_sha256(terms.notice if text is None else text),
        notice=terms.notice,
        accepted_at=datetime.now(UTC),
        by=f"{_user()}@{socket.gethostname()}",
        tollama=__version__,
        revision=revision,
    )
    atomic_write(home.licenses / f"{given.name}.json", given.model_dump_json(indent=2).encode() + b"\n")
    return given


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _accepted_text(home: Home, name: str) -> str | None:
    found = receipt(home, name)
    return found.text_sha256 if found else None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        return "unknown"
