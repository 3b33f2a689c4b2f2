"""Durations as Ollama's users write them: a number of seconds, or Go's ``1h30m``, with days besides."""

from __future__ import annotations

import math
import re

from tollama.errors import InvalidRequest

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+"
_PART = re.compile(rf"({_NUMBER})({'|'.join(_UNITS)})")
_WHOLE = re.compile(rf"(?:(?:{_NUMBER})(?:{'|'.join(_UNITS)}))+")
_BARE = re.compile(_NUMBER)

_NS = {"h": 3_600_000_000_000, "m": 60_000_000_000, "s": 1_000_000_000}
_SMALL_NS = {"ms": 1_000_000, "us": 1_000, "ns": 1}


def seconds(value: float | int | str) -> float:
    """``value`` in seconds: 0.0 is at once, ``math.inf`` (any negative value) is for ever.

    A text is a Go duration (``300ms``, ``90s``, ``1h30m``, ``1d``) or a bare number of seconds: Ollama's API wants
    the unit, its environment variable does without, and here both are read everywhere.
    Raises :class:`InvalidRequest` for anything else.
    """
    if isinstance(value, str):
        return _parse(value.strip())
    if isinstance(value, bool) or math.isnan(value):
        raise _malformed()
    return math.inf if value < 0 else float(value)


def _parse(text: str) -> float:
    digits = text.removeprefix("-") if text.startswith("-") else text.removeprefix("+")
    if _BARE.fullmatch(digits):
        amount = float(digits)
    elif _WHOLE.fullmatch(digits):
        amount = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(digits))
    else:
        raise _malformed()
    return math.inf if text.startswith("-") and amount > 0 else amount


def _malformed() -> InvalidRequest:
    return InvalidRequest(
        "That is not a duration.",
        hint="Write seconds (300) or a duration (300ms, 90s, 10m30s, 2h, 1d); negative is for ever, 0 is at once.",
    )


def text(seconds: float) -> str:
    """The shortest Go duration of ``seconds``, to the nanosecond: ``5m``, ``1h30m``, ``1.5s``; ``-1`` for ever."""
    if seconds < 0 or math.isinf(seconds):
        return "-1"
    rest = round(seconds * 1e9)
    if rest == 0:
        return "0s"
    if rest < _NS["s"]:
        unit, size = next((unit, size) for unit, size in _SMALL_NS.items() if rest >= size)
        return f"{_decimal(rest, size)}{unit}"
    hours, rest = divmod(rest, _NS["h"])
    minutes, rest = divmod(rest, _NS["m"])
    parts = [f"{hours}h" if hours else "", f"{minutes}m" if minutes else ""]
    return "".join(parts) + (f"{_decimal(rest, _NS['s'])}s" if rest else "")


def _decimal(amount: int, size: int) -> str:
    whole, fraction = divmod(amount, size)
    if not fraction:
        return str(whole)
    return f"{whole}.{str(fraction).zfill(len(str(size)) - 1).rstrip('0')}"
