"""Secrets out of what is shown: by the name they are under, and by their shape inside any text.

In doubt something is masked that was none; what is known to look like a secret never gets through.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from typing import Any

MASK = "[redacted]"

_PART = r"token(?!iz)|secret|passw|passphrase|credential|(?<!un)authoriz|cookie|apikey|accesskey|privatekey|signature"
_WORD = r"key|keys|pass|pwd|auth|bearer|sig"
_SECRET = re.compile(rf"{_PART}|(?:^|[^a-z])(?:{_WORD})(?:[^a-z]|$)|keys?$")
_TELLS_WHERE = re.compile(r"(?:path|file|mode)$")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

# user:password@ in a URL. A password with a slash or an @ in it breaks the rules and is common, so after a colon all
# up to the word's last @ goes, unless what follows the colon is a port.
_USERINFO = re.compile(r"(?<=://)(?:[^\s/?#@:]{0,512}:(?!\d+(?:/|$))\S{0,1024}@|[^\s/?#]{0,512}@)")
# The same without a scheme, as some take their proxies.
_LOOSE_USERINFO = re.compile(r"(?<![\w/])[^\s:/@\"'=]{1,256}:[^\s/@]{1,256}@(?=[\w\[.-])")
_KNOWN = re.compile(
    r"tlm_[\w-]{16,}|hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}|(?:ghp|gho|ghs|ghu)_\w{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"
    r"|xox[a-z]-[\w-]{10,}|(?<![A-Za-z0-9])sk-[\w-]{16,}|AKIA[A-Z0-9]{12,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|$)"
)
_BEARER = re.compile(r"(?i)\b(bearer\s++)[^\s\"']+")
# NAME=value, NAME: value, "NAME": "value" and --name value: in a query, an environment, a header, a command line, or
# JSON that is a text (or a text in such a text).
_NAME = re.compile(r"(?<![\w.-])(?P<option>--?)?(?P<name>\w[\w.-]*+)(?:\\?[\"']?\s*[=:]\s*|(?(option)\s+|(?!)))")
_VALUE = re.compile(
    r"""(?ix) "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*' | \\"(?:[^"\\]|\\\\(?:\\.|[^\\]))*\\"
    | (?:(?:bearer|basic|digest|negotiate|token)\s+)? [^\s&]+"""
)


def secret(name: str) -> bool:
    """Whether what is called so is a secret: ``HF_TOKEN``, ``apiKey``, ``password`` ...; a file's path is none."""
    lowered = _CAMEL.sub("_", name).lower()
    return bool(_SECRET.search(lowered)) and not _TELLS_WHERE.search(lowered)


def redacted(value: Any, name: str = "") -> Any:
    """``value`` with its secrets masked, all the way down; ``name`` is what it is called.

    Mappings, lists and texts come back as dicts, lists and texts; None, truth values and, under a name that is no
    secret's, numbers as they are; anything else as its text. That a secret is not set (None, an empty text) is none.
    """
    if value is None or isinstance(value, bool) or value == "":
        return value
    if isinstance(value, Mapping):
        return _mapping(value, name)
    if isinstance(value, (list, tuple, Sequence, Set)) and not isinstance(value, (str, bytes, bytearray)):
        return _list(list(value), name)
    if secret(name):
        return MASK
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, (bytes, bytearray)):
        value = bytes(value).decode(errors="replace")
    return text(str(value))


def text(words: str) -> str:
    """``words`` with every secret masked that can be told by its shape or by the name before it."""
    words = _USERINFO.sub(f"{MASK}@", words)
    words = _KNOWN.sub(MASK, words)
    words = _named(words)
    words = _BEARER.sub(rf"\1{MASK}", words)
    return _LOOSE_USERINFO.sub(f"{MASK}@", words)


def _named(words: str) -> str:
    parts = []
    at = 0
    while found := _NAME.search(words, at):
        parts.append(words[at : found.end()])
        at = found.end()
        # What no secret's name stands before may hold names of its own: a URL with a query.
        if secret(found["name"]) and (value := _VALUE.match(words, at)):
            quote = next((mark for mark in ('\\"', '"', "'") if value[0].startswith(mark)), "")
            parts.append(f"{quote}{MASK}{quote if value[0].endswith(quote) else ''}")
            at = value.end()
    return "".join([*parts, words[at:]])


def _mapping(value: Mapping[Any, Any], name: str) -> dict[Any, Any]:
    # {"name": "HF_TOKEN", "value": "..."}: the name of the value is itself a value.
    called = next((value[key] for key in ("name", "key") if isinstance(value.get(key), str) and "value" in value), "")
    found = {}
    for key, inner in value.items():
        inside = str(key)
        if called and key in ("name", "key"):
            inside = ""
        elif called and key == "value" and secret(called):
            inside = called
        shown = text(key) if isinstance(key, str) else key
        found[shown] = redacted(inner, name if secret(name) else inside)
    return found


def _list(values: list[Any], name: str) -> list[Any]:
    found: list[Any] = []
    for index, value in enumerate(values):
        before = values[index - 1] if index else None
        called = name
        if isinstance(before, str) and not secret(name) and (before.startswith("-") or (index, len(values)) == (1, 2)):
            # ["--token", "..."] and ["Authorization", "..."]
            called = before.lstrip("-") if "=" not in before else name
        found.append(redacted(value, called if secret(called) else name))
    return found
