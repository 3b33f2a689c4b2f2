"""ISO 8601 text to numpy arrays and back, and both directions of a time zone.

A panel sends millions of timestamps, so text of one shape is read as one block of bytes. Years 2 to 9998 can be
said (1900 to 2191 with nanoseconds): that leaves room for any offset.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from tollama.errors import InvalidSeries

Stamps = NDArray[np.datetime64]
Offsets = NDArray[np.timedelta64]

LIMITS = {
    "us": (np.datetime64("0002-01-01", "us"), np.datetime64("9998-12-31", "us")),
    "ns": (np.datetime64("1900-01-01", "us"), np.datetime64("2191-12-31", "us")),
}
"""First and last instant, by the unit of the array; the difference of any two fits 64 bits."""

RANGES = {"us": "the years 2 to 9998", "ns": "the years 1900 to 2191 of nanosecond timestamps"}

_OFFSET = re.compile(r"Z|[+-]\d\d(?::?\d\d(?::?\d\d)?)?", re.ASCII)
_ISO = re.compile(
    r"(?P<body>\d{4}-\d\d-\d\d[T ]\d\d(?::\d\d(?::\d\d(?:\.\d{1,9})?)?)?)"
    rf"(?P<offset>{_OFFSET.pattern})?"
    r"|(?P<date>\d{4}(?:-\d\d){0,2})",
    re.ASCII,
)
_MICROSECONDS = len("2023-01-01T00:00:00.000000")


@dataclass(frozen=True, slots=True)
class Read:
    """Timestamps as sent: ``wall`` (T,) datetime64[us] or [ns], and ``offset`` (T,) timedelta64[s] from UTC.

    ``offset`` is None when none was sent; ``zulu`` when each was sent as ``Z``.
    """

    wall: Stamps
    offset: Offsets | None
    zulu: bool


def read(texts: Sequence[str]) -> Read:
    """Parse ISO 8601 timestamps, a year or a month alone too.

    Raises :class:`InvalidSeries` with the index of the first one that is no timestamp, is out of range, or has an
    offset where the first has none (or the reverse).
    """
    found = _read_block(texts)
    return _read_each(texts) if found is None else found


def _read_block(texts: Sequence[str]) -> Read | None:
    """Text of one length and shape, offsets apart; None when it is anything else."""
    width = len(texts[0])
    match = _ISO.fullmatch(texts[0])
    if match is None or set(map(len, texts)) != {width}:
        return None
    joined = "".join(texts)
    if not joined.isascii():
        return None
    rows = np.frombuffer(joined.encode(), np.uint8).reshape(-1, width)
    body = match.end("body") if match["body"] else width
    digits = rows[0, :body] - np.uint8(48) <= 9  # uint8 wraps, so what sorts before "0" is above 9
    if ((rows[:, :body] - np.uint8(48) <= 9) != digits).any():
        return None
    separators = np.flatnonzero(~digits)
    if (rows[:, separators] != rows[0, separators]).any():
        return None
    suffixes = [texts[0][body:]] if (rows[:, body:] == rows[0, body:]).all() else [text[body:] for text in texts]
    if not all(map(_OFFSET.fullmatch, set(suffixes) - {""})):
        return None
    bodies = np.ascontiguousarray(rows[:, :body]).view(f"S{body}").ravel()
    try:
        wall = bodies.astype("M8[us]")
    except ValueError:
        return None
    return Read(_bounded(wall, bodies), *_offsets(suffixes, len(texts)))


def _read_each(texts: Sequence[str]) -> Read:
    bodies: list[str] = []
    suffixes: list[str] = []
    for index, text in enumerate(texts):
        match = _ISO.fullmatch(text) or _ISO.fullmatch(_respelled(text))
        if match is None:
            raise _unreadable(index)
        bodies.append(match["body"] or match["date"])
        suffixes.append(match["offset"] or "")
        if bool(suffixes[-1]) != bool(suffixes[0]):
            raise InvalidSeries(
                f"timestamps[0] and timestamps[{index}] differ: only one of them has a UTC offset.",
                field="timestamps",
                index=index,
                hint="Send every timestamp of a series with an offset, or none.",
            )
    array = np.array(bodies, "S")
    try:
        wall = array.astype("M8[us]")
    except ValueError:
        raise _unreadable(next(index for index, body in enumerate(bodies) if not _is_date(body))) from None
    return Read(_bounded(wall, array), *_offsets(suffixes, len(texts)))


def _offsets(suffixes: Sequence[str], count: int) -> tuple[Offsets | None, bool]:
    """The offsets of ``count`` timestamps, one given for all of them or one for each, and whether all are ``Z``."""
    if not suffixes[0]:
        return None, False
    seconds = {suffix: _offset(suffix, suffixes.index(suffix)) for suffix in set(suffixes)}
    offsets = np.array([seconds[suffix] for suffix in suffixes], "m8[s]")
    return np.broadcast_to(offsets, count), set(suffixes) == {"Z"}


def _bounded(wall: Stamps, bodies: NDArray[np.bytes_]) -> Stamps:
    """``wall``, in nanoseconds where the text has that many digits; numpy itself would wrap round silently."""
    unit = "ns" if bodies.itemsize > _MICROSECONDS else "us"
    low, high = LIMITS[unit]
    outside = (wall < low) | (wall > high)
    if outside.any():
        index = int(outside.argmax())
        raise InvalidSeries(
            f"timestamps[{index}] is outside {RANGES[unit]}.",
            field="timestamps",
            index=index,
            hint="Correct that timestamp.",
        )
    return bodies.astype("M8[ns]") if unit == "ns" else wall


def _respelled(text: str) -> str:
    """Other spellings of ISO 8601 (20230101T00, 2023-W01-1, a decimal comma) in the common one."""
    try:
        return datetime.fromisoformat(text).isoformat()
    except ValueError:
        return ""


def _is_date(body: str) -> bool:
    try:
        np.datetime64(body, "us")
    except ValueError:
        return False
    return True


def _offset(suffix: str, index: int) -> int:
    """Seconds east of UTC."""
    if suffix == "Z":
        return 0
    digits = suffix[1:].replace(":", "").ljust(6, "0")
    hours, minutes, seconds = (int(digits[at : at + 2]) for at in (0, 2, 4))
    if hours > 23 or minutes > 59 or seconds > 59:
        raise _unreadable(index)
    total = hours * 3600 + minutes * 60 + seconds
    return -total if suffix[0] == "-" else total


def _unreadable(index: int) -> InvalidSeries:
    return InvalidSeries(
        f"timestamps[{index}] is not an ISO 8601 timestamp.",
        field="timestamps",
        index=index,
        hint="Write timestamps as 2023-01-31, 2023-01-31T12:00:00 or 2023-01-31T12:00:00+01:00.",
    )


def write(local: Stamps, offset: Offsets | None, zulu: bool, unit: str) -> list[str]:
    """``YYYY-MM-DDTHH:MM:SS``, with the fraction that ``unit`` (s, ms, us, ns) asks for, ``Z`` or an offset."""
    texts: list[str] = np.datetime_as_string(local, unit=unit).tolist()  # type: ignore[call-overload]
    if zulu:
        return [text + "Z" for text in texts]
    if offset is None:
        return texts
    seconds = np.broadcast_to(offset, local.shape).astype(np.int64).tolist()
    suffixes = {value: _suffix(value) for value in set(seconds)}
    return [text + suffixes[value] for text, value in zip(texts, seconds, strict=True)]


def _suffix(seconds: int) -> str:
    minutes, rest = divmod(abs(seconds), 60)
    tail = f":{rest:02d}" if rest else ""
    return f"{'-' if seconds < 0 else '+'}{minutes // 60:02d}:{minutes % 60:02d}{tail}"


def zone_of(name: str) -> ZoneInfo:
    """The IANA zone of that name; :class:`InvalidSeries` when there is none."""
    try:
        return ZoneInfo(name)
    except (ValueError, KeyError, OSError):
        raise InvalidSeries(
            "the timezone is not a known IANA zone.", field="timezone", hint="Use a name such as Europe/Berlin or UTC."
        ) from None


def offsets_at(instants: Stamps, zone: ZoneInfo) -> Offsets:
    """What the zone's clocks are ahead of UTC at each instant."""
    seconds = instants.astype("M8[s]").astype(np.int64).tolist()
    return _seconds([datetime.fromtimestamp(second, zone).utcoffset() for second in seconds])


def _seconds(offsets: list[timedelta | None]) -> Offsets:
    # A zone always has an offset; the None is datetime's, for classes of others.
    return np.array([offset.total_seconds() for offset in offsets if offset is not None]).astype("m8[s]")


def to_instants(wall: Stamps, zone: ZoneInfo, second: NDArray[np.bool_] | None = None) -> Stamps:
    """The instant of each wall-clock time.

    A time that clocks show twice is the first of the two, or the second where ``second`` says so. A time that they
    skip is read with the offset before the change (RFC 5545): 02:30 becomes 03:30.
    """
    moments = wall.astype("M8[us]").tolist()
    if second is not None:
        moments = [moment.replace(fold=int(late)) for moment, late in zip(moments, second.tolist(), strict=True)]
    return np.subtract(wall, _seconds([zone.utcoffset(moment) for moment in moments]))


def finer(stamps: Stamps) -> Stamps:
    """In nanoseconds; :class:`InvalidSeries` for years that those cannot say."""
    low, high = LIMITS["ns"]
    if (stamps < low).any() or (stamps > high).any():
        raise InvalidSeries(
            f"a timestamp is outside {RANGES['ns']}.", field="timestamps", hint="Send a freq of 1us or more."
        )
    return stamps.astype("M8[ns]")


def time_of_day(wall: Stamps) -> Offsets:
    """Since midnight."""
    since: Offsets = np.subtract(wall, wall.astype("M8[D]"))
    return since


def wall_clock(instants: Stamps, zone: ZoneInfo) -> Stamps:
    """The zone's wall clock at each instant.

    Where clocks skip midnight, the day begins at 01:00; a daily series is not irregular for that, so such a time is
    put back to the one of the other days.
    """
    wall: Stamps = instants + offsets_at(instants, zone)
    times, counts = np.unique(time_of_day(wall), return_counts=True)
    if 1 < len(times) <= 4:  # more than that is not a daily series
        usual = wall.astype("M8[D]") + times[counts.argmax()]
        wall = np.where(to_instants(usual, zone) == instants, usual, wall)
    return wall


def instants_of(wall: Stamps, zone: ZoneInfo) -> Stamps:
    """The instants of plain local times; where clocks go back, a time sent twice is first the earlier instant."""
    by_time = np.argsort(wall, kind="stable")
    same = np.flatnonzero(np.diff(wall[by_time]) == np.timedelta64(0))
    later = np.zeros(len(wall), bool)
    later[by_time[same if wall[0] > wall[-1] else same + 1]] = True
    instants = to_instants(wall, zone, later)
    skipped = instants + offsets_at(instants, zone) != wall
    if skipped.any():
        index = int(skipped.argmax())
        raise InvalidSeries(
            f"timestamps[{index}] does not exist in the timezone: its clocks skip that time.",
            field="timestamps",
            index=index,
            hint="Send timestamps with their UTC offset, or leave timezone out.",
        )
    return instants
