"""API keys: made here, shown once, kept as hashes, compared in constant time.

A key is 256 random bits, so one round of SHA-256 is enough: there is nothing to guess, and a check costs microseconds.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field

PREFIX = "tlm_"
"""What every key of ours begins with: a leaked one is known by its shape."""
SHORTEST = 16
"""Characters of a key that somebody else made."""
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class ApiKey(BaseModel):
    """One key as it is kept: what it is called, and the SHA-256 of its text in hex."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=NAME)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    created_at: datetime | None = None


def made(name: str) -> tuple[str, ApiKey]:
    """A new key: its text, which nobody can get again, and what is kept of it."""
    text = PREFIX + secrets.token_urlsafe(32)
    return text, ApiKey(name=name, sha256=digest(text.encode()), created_at=datetime.now(UTC).replace(microsecond=0))


def given(texts: str) -> list[dict[str, str]]:
    """Keys that an environment variable holds, separated by commas. ValueError for one that is short or no ASCII."""
    keys = [text.strip() for text in texts.split(",") if text.strip()]
    if any(len(key) < SHORTEST for key in keys):
        raise ValueError(f"an API key has at least {SHORTEST} characters")
    if not all(map(sendable, keys)):
        raise ValueError("an API key has printable ASCII characters only")
    return [{"name": f"environment-{n}", "sha256": digest(key.encode())} for n, key in enumerate(keys, 1)]


def sendable(key: str) -> bool:
    """Whether ``key`` can stand in an HTTP header."""
    return key.isascii() and key.isprintable()


def digest(text: bytes) -> str:
    """What is kept of a key's text."""
    return hashlib.sha256(text).hexdigest()


def matches(text: bytes, hashes: Iterable[str]) -> bool:
    """Whether ``text`` is one of the keys; takes as long for any wrong one."""
    found = False
    sent = digest(text)
    for known in hashes:
        found |= hmac.compare_digest(sent, known)
    return found
