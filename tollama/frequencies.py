"""Frequencies: the alias table, and where the steps of one lie.

Names are pandas' new-style aliases, anchor included: ``h``, ``15min``, ``D``, ``B``, ``W-MON``, ``MS``, ``QE-DEC``,
``YS-APR``. pandas 3 refuses the old names and pandas 2.1 the new ones, so the table is ours, and so is the
arithmetic: numpy's datetime64 and business-day functions, which step a whole array at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tollama.errors import InvalidSeries

NS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "min": 60 * 10**9, "h": 3600 * 10**9}
"""Nanoseconds of each unit of absolute time."""

OLD = {
    **{"H": "h", "T": "min", "S": "s", "L": "ms", "U": "us", "N": "ns", "d": "D", "b": "B", "w": "W"},
    **{"BM": "BME", "BQ": "BQE", "BA": "BYE", "BY": "BYE", "AS": "YS", "BAS": "BYS"},
}
"""Old names that mean one new name each. ``M``, ``Q``, ``A``, ``Y`` are not here: bare, they follow the data."""

WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
SPANS = {"M": 1, "Q": 3, "Y": 12}
HINT = (
    "Use 'auto' or one of ns, us, ms, s, min, h, D, B, W, MS, ME, BMS, BME, QS, QE, BQS, BQE, YS, YE, BYS, BYE, with a "
    "whole multiple (15min, 2W) or an anchor (W-MON, QS-OCT, YE-JUN) if need be."
)

Days = NDArray[np.datetime64]
Ints = NDArray[np.int64]

_ALIAS = re.compile(r"([0-9]{0,9})([A-Za-z]{1,3})(?:-([A-Z]{3}))?")
_MONTHLY = re.compile(r"(B?)([MQY])([SE])")
_MONDAY = np.datetime64("0001-01-01", "D")
_EPOCH_WEEKDAY = 3  # 1970-01-01, numpy's day 0, was a Thursday


@dataclass(frozen=True, slots=True)
class Frequency:
    """``n`` units. Absolute time for a ``tick``, dates on the wall calendar for the rest.

    ``span`` is one unit in nanoseconds (tick), days (day) or months (month); ``phase`` the day or month, counted from
    1970-01-01, through which unit steps run; ``edge`` the day of a month: first (S), last (E), or business (BS, BE).
    """

    n: int
    unit: str
    kind: Literal["tick", "day", "business", "month"]
    span: int = 1
    phase: int = 0
    edge: str = ""

    @property
    def alias(self) -> str:
        """The new-style name: ``"15min"``, ``"W-MON"``."""
        return self.unit if self.n == 1 else f"{self.n}{self.unit}"

    def locate(self, days: Days) -> tuple[Ints, NDArray[np.bool_]]:
        """Number of each day (datetime64[D]) in single units, and whether it is on the calendar at all."""
        if self.kind == "business":
            return np.busday_count(_MONDAY, days), np.is_busday(days)
        if self.kind == "day":
            numbers, rest = np.divmod(days.astype(np.int64) - self.phase, self.span)
            return numbers, rest == 0
        months = days.astype("M8[M]")
        numbers, rest = np.divmod(months.astype(np.int64) - self.phase, self.span)
        return numbers, (rest == 0) & (days == edge_days(months, self.edge))

    def days(self, numbers: Ints) -> Days:
        """The days of unit ``numbers``, the inverse of :meth:`locate`."""
        if self.kind == "business":
            return np.busday_offset(_MONDAY, numbers)
        absolute = numbers * self.span + self.phase
        return absolute.astype("M8[D]") if self.kind == "day" else edge_days(absolute.astype("M8[M]"), self.edge)


def edge_days(months: NDArray[Any], edge: str) -> Days:
    """The first (S), last (E), first business (BS) or last business (BE) day of each month."""
    first: Days = months.astype("M8[D]") if edge.endswith("S") else (months + 1).astype("M8[D]")
    if edge == "E":
        return first - 1
    if edge == "S":
        return first
    return np.busday_offset(first, 0 if edge == "BS" else -1, roll="forward")


def tick(n: int, unit: str) -> Frequency:
    """``n`` units of absolute time."""
    return Frequency(n, unit, "tick", NS[unit])


def daily(n: int) -> Frequency:
    """``n`` days of the wall calendar, 23 to 25 hours each where clocks change."""
    return Frequency(n, "D", "day")


def business(n: int) -> Frequency:
    """``n`` days from Monday to Friday; holidays count."""
    return Frequency(n, "B", "business")


def weekly(n: int, weekday: int) -> Frequency:
    """``n`` weeks, on ``weekday`` (Monday is 0)."""
    return Frequency(n, f"W-{WEEKDAYS[weekday]}", "day", 7, weekday - _EPOCH_WEEKDAY)


def monthly(n: int, period: str, edge: str, month: int, name: str | None = None) -> Frequency:
    """``n`` months, quarters or years (``period`` M, Q, Y) on an ``edge`` of ``month`` (January is 0).

    Quarters of one phase are one grid: unless ``name`` says which month the client meant, they are named as pandas'
    defaults are, QS by its first month (JAN, FEB, MAR), QE by its last (DEC, OCT, NOV).
    """
    span = SPANS[period]
    unit = f"{edge[:-1]}{period}{edge[-1]}"
    if period == "Q":
        name = name or MONTHS[month % 3 + (0 if edge.endswith("S") else 9)]
    elif period == "Y":
        name = MONTHS[month % 12]
    return Frequency(n, f"{unit}-{name}" if name else unit, "month", span, month % span, edge)


def weekday(day: np.datetime64) -> int:
    """Monday is 0."""
    return (int(day.astype("M8[D]").astype(np.int64)) + _EPOCH_WEEKDAY) % 7


def parse(alias: str, first: np.datetime64 | None = None) -> Frequency:
    """The frequency of an alias, old or new. Bare W, M, Q, A, Y take the anchor of ``first``, a day of the data.

    Raises :class:`InvalidSeries` for an alias that is not known, or a ``first`` that is no end of a month.
    """
    match = _ALIAS.fullmatch(alias)
    if match is None:
        raise InvalidSeries("the frequency is not a known alias.", field="freq", hint=HINT)
    n, code, anchor = int(match[1] or 1), OLD.get(match[2], match[2]), match[3]
    found = _anchored(n, code, anchor) if anchor else _plain(n, code, first)
    if found is None or n < 1 or (found.kind == "tick" and n * found.span >= 2**62):
        raise InvalidSeries("the frequency is not a known alias.", field="freq", hint=HINT)
    return found


def _anchored(n: int, code: str, anchor: str) -> Frequency | None:
    if code == "W":
        return weekly(n, WEEKDAYS.index(anchor)) if anchor in WEEKDAYS else None
    if anchor not in MONTHS:
        return None
    month = MONTHS.index(anchor)
    # The old names of the anchored ends: Q-DEC, A-DEC, Y-DEC.
    code = {"Q": "QE", "A": "YE", "Y": "YE"}.get(code, code)
    match = _MONTHLY.fullmatch(code)
    if match is None or match[2] == "M":
        return None
    return monthly(n, match[2], match[1] + match[3], month, anchor)


def _plain(n: int, code: str, first: np.datetime64 | None) -> Frequency | None:
    if code in NS:
        return tick(n, code)
    if code == "D":
        return daily(n)
    if code == "B":
        return business(n)
    if code == "W":
        return weekly(n, 6 if first is None else weekday(first))
    if code in ("M", "Q", "A", "Y"):
        return _bare(n, "Y" if code == "A" else code, first)
    match = _MONTHLY.fullmatch(code)
    if match is None:
        return None
    return monthly(n, match[2], match[1] + match[3], 0 if match[3] == "S" else 11)


def _bare(n: int, period: str, first: np.datetime64 | None) -> Frequency:
    if first is None:
        return monthly(n, period, "E", 11)
    month = first.astype("M8[M]")
    for edge in ("S", "E"):
        if edge_days(np.array([month]), edge)[0] == first:
            return monthly(n, period, edge, int(month.astype(np.int64)) % 12)
    raise InvalidSeries(
        "the data begin neither on the first nor on the last day of a month, so they have no monthly, quarterly or "
        "yearly anchor.",
        field="freq",
        hint="Move the timestamps to the first or last day of the month, or send another freq.",
    )


def season_length(freq: str) -> int:
    """Steps in one season of ``freq``; 1 where none is usual or it is no whole number of steps.

    The seasons are the usual ones of Hyndman and Athanasopoulos, *Forecasting: Principles and Practice* (3rd ed.,
    section 2.1): seconds by the minute (60), minutes and hours by the day (1440, 24), days by the week (7, business
    days 5), weeks, months and quarters by the year (52, 12, 4). Whole days given in hours season by the week too.
    """
    frequency = parse(freq)
    step = frequency.n * frequency.span
    if frequency.kind == "tick":
        minute, day, second = NS["min"], 24 * NS["h"], NS["s"]
        season = minute if step < minute else day if step < day else 7 * day
        return season // step if step >= second and season % step == 0 else 1
    if frequency.kind == "month":
        season = 12
    elif frequency.kind == "business":
        season = 5
    else:
        season, step = (7, step) if frequency.span == 1 else (52, frequency.n)
    return season // step if season % step == 0 else 1
