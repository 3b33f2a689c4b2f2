"""The licence of what is pulled: which text there is to accept, and whether a request accepts it."""

from __future__ import annotations

import threading
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from tollama import licenses
from tollama.errors import TollamaError
from tollama.manifest import LICENSE_FILES, MAX_TEXT, sha256_of_text, text_of
from tollama.registry import Entry
from tollama.store import Store
from tollama.wanted import PullRequest

if TYPE_CHECKING:
    from tollama.hub import Hub, Listing

OFFERED_S = 10.0
"""How long a hub is waited for that is asked for the text of a licence, to be shown."""


def how(request: PullRequest) -> str:
    """How to accept the licence of what is asked for."""
    named = f" --name {request.local_name}" if request.local_name else ""
    return f"tollama pull {request.name}{named} --accept-license"


def agreed(request: PullRequest) -> bool | str:
    """Whether the licence is accepted: that whose text has this sha256, or whichever it turns out to be."""
    return request.accept_license and (request.license_sha256 or True)


def offered(entry: Entry, request: PullRequest, hub: Hub) -> str:
    """The text that is to be accepted: the repository's, else the notice where there is none to be had soon."""
    found: SimpleQueue[str] = SimpleQueue()
    repo, revision = entry.source.repo_id, request.revision or str(entry.source.revision)

    def ask() -> None:
        with suppress(TollamaError, OSError):
            found.put(_text(entry, hub, hub.listing(str(repo), revision, ("*",))))
            return
        found.put(entry.license.notice)

    if repo is not None:
        threading.Thread(target=ask, name="licence", daemon=True).start()
        with suppress(Empty):
            return found.get(timeout=OFFERED_S)
    return entry.license.notice


def _text(entry: Entry, hub: Hub, listing: Listing) -> str:
    for file in sorted(listing.only(LICENSE_FILES).files, key=lambda file: file.path):
        content = hub.read(listing, file.path, MAX_TEXT)
        if content is not None:
            return text_of(content)
    return entry.license.notice


def unchanged(entry: Entry, request: PullRequest, store: Store, hub: Hub, listing: Listing | None) -> None:
    """Raise :class:`LicenseNotAccepted` if the licence's text in ``listing`` is another than the accepted one: before
    the weights, which may be large. What is installed at that commit is settled by `manifest_of`."""
    here, mine = store.get(entry.name), agreed(request)
    if listing is None or not entry.license.needs_acceptance or mine is True:
        return
    if here is not None and here.resolved.commit_sha == listing.commit:
        return
    text = _text(entry, hub, listing)
    if mine != sha256_of_text(text):
        licenses.require(store.home, entry.name, entry.license, entry.source, text=text, hint=how(request))
