"""Licences: which are known, and which have to be accepted: one receipt per model, which outlives its removal."""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from tollama.errors import LicenseNotAccepted
from tollama.manifest import StoredLicense, license_text, sha256_of_text
from tollama.paths import data
from tollama.registry import License, Source, canonical_name, registry, rows
from tollama.store import FileCache, Home, atomic_write
from tollama.version import __version__

SHOWN = 4000
"""Characters of a licence's text that an error carries."""

CHANGED = "The licence text of {} ({}) is not the one that was accepted."

_ID = re.compile(r"[A-Za-z0-9][\w.+ -]{0,63}")


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


class Known(BaseModel):
    """One licence of ``model-registry/licenses.yaml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    permissive: bool
    notice: str = ""
    url: str


class Receipt(BaseModel):
    """Who accepted which licence, when. ``text_sha256`` is of the text that was accepted, see `text`; ``earlier`` of
    those that were accepted of the same licence before. ``source`` is where the model comes from."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    license: str
    text_sha256: str
    notice: str
    accepted_at: datetime
    by: str
    tollama: str
    source: str | None = None
    revision: str | None = None
    earlier: tuple[str, ...] = ()


@cache
def known() -> Mapping[str, Known]:
    """The licences known by their id, in lower case."""
    return {one.id.lower(): one for one in rows(data("model-registry/licenses.yaml"), "licenses", Known)}


def named(id: str | None, url: str = "") -> License:
    """The terms of a licence that somebody names by its ``id``, as a hub's model card does.

    One that is not known, or not permissive, needs acceptance. ``url`` is the page to read it at.
    """
    found = known().get((id or "").lower())
    if found is not None:
        notice = found.notice or f"The weights are under the licence {found.id}."
        return License(
            id=found.id, needs_acceptance=not found.permissive, verified=True, notice=notice, url=url or found.url
        )
    if id is None or not _ID.fullmatch(id):
        unnamed = "No licence is named with the weights; find out what you may do with them before you accept."
        return License(id="unknown", needs_acceptance=True, verified=False, notice=unnamed, url=url)
    strange = f"The weights are said to be under the licence {id}, which tollama does not know; read it first."
    return License(id=id, needs_acceptance=True, verified=False, notice=strange, url=url)


def on_card(card: Mapping[str, Any], url: str = "") -> License:
    """The terms that a model card's metadata name: ``license``, or where that is ``other``, ``license_name``."""
    id = card.get("license")
    if isinstance(id, list) and len(id) == 1:
        id = id[0]
    if id == "other":
        id = card.get("license_name") or id
    if not isinstance(id, str):  # none, or several: which of them holds is not for us to say
        id = None
    link = card.get("license_link")
    return named(id, link if isinstance(link, str) and link.startswith("https://") else url)


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
    """The licence's text: the ``LICENSE`` file among the model's files, else the notice."""
    return license_text(terms.notice, snapshot)


def shown(terms: Terms, snapshot: Path | None) -> str:
    """What a person gets to read: the `text`; where that is but a notice, the licence's name and address with it."""
    found = text(terms, snapshot)
    return found if found != terms.notice else "\n".join(part for part in (terms.id, found, terms.url) if part)


def accepted(home: Home, name: str, terms: Terms, source: Source | None = None) -> bool:
    """Whether the model may run as far as its licence goes. Cheap: asked before each run.

    ``terms`` of a manifest say which text it is that has to be accepted; a registry entry's know none. With ``source``
    it has to be accepted for a model from there.
    """
    if not terms.needs_acceptance:
        return True
    found = receipt(home, name)
    return found is not None and _is_of(found, terms, source) and _covers(found, getattr(terms, "text_sha256", None))


def require(
    home: Home,
    name: str,
    terms: Terms,
    source: Source | None = None,
    *,
    text: str | None = None,
    snapshot: Path | None = None,
    hint: str = "",
) -> None:
    """Raise :class:`LicenseNotAccepted` unless the licence is accepted; with ``text``, unless that very text is.

    Its ``detail`` has the text, cut to what can be read, and the digest of the whole: of ``text``, else of that among
    the files in ``snapshot``. ``hint`` says how to accept, if not by a pull of ``name``.
    """
    found = receipt(home, name)
    if not accepted(home, name, terms, source):
        same = found is not None and _is_of(found, terms, source)
        what = CHANGED if same else "The licence of {} ({}) has to be accepted first."
    elif terms.needs_acceptance and text is not None and found is not None and not _covers(found, sha256_of_text(text)):
        what = CHANGED
    else:
        return
    shown = license_text(terms.notice, snapshot) if text is None else text
    detail = {"license": terms.id, "notice": terms.notice, "url": terms.url, "text": summary(shown)}
    detail["text_sha256"] = sha256_of_text(shown)
    raise LicenseNotAccepted(
        what.format(repr(name), terms.id),
        detail=detail,
        hint=hint or f"tollama pull {name} --accept-license",
    )


def summary(text: str) -> str:
    """``text``, or its beginning and how much is left; without what would steer a terminal."""
    text = "".join(letter for letter in text if letter.isprintable() or letter in "\n\t")
    left = len(text) - SHOWN
    return text if left <= 0 else f"{text[:SHOWN].rstrip()}\n[... {left} more characters]"


def accept(
    home: Home,
    name: str,
    terms: Terms,
    source: Source | None = None,
    *,
    text: str | None = None,
    revision: str | None = None,
) -> Receipt:
    """Record that the licence is accepted: its ``text`` (default: the notice) at the ``revision`` of ``source``."""
    before = receipt(home, name)
    digest = sha256_of_text(terms.notice if text is None else text)
    same = before is not None and _is_of(before, terms, source)
    earlier = {before.text_sha256, *before.earlier} if before is not None and same else set()
    given = Receipt(
        name=canonical_name(name),
        license=terms.id,
        text_sha256=digest,
        notice=terms.notice,
        accepted_at=datetime.now(UTC),
        by=f"{_user()}@{socket.gethostname()}",
        tollama=__version__,
        source=None if source is None else source.place,
        revision=revision,
        earlier=tuple(sorted(earlier - {digest})),
    )
    atomic_write(home.licenses / f"{given.name}.json", given.model_dump_json(indent=2).encode() + b"\n")
    return given


def _is_of(found: Receipt, terms: Terms, source: Source | None) -> bool:
    """Whether a receipt is of this licence, for a model from ``source``. One that was written before receipts knew
    theirs is of the registry's model of that name, or of the one that is installed."""
    if found.license != terms.id or source is None or found.source == source.place:
        return found.license == terms.id
    return found.source is None and (isinstance(terms, StoredLicense) or found.name in registry())


def _covers(found: Receipt, text_sha256: str | None) -> bool:
    return text_sha256 is None or text_sha256 == found.text_sha256 or text_sha256 in found.earlier


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        return "unknown"
