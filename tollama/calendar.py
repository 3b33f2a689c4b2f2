"""The time axis of a series: sorted, regular, and going on into the future.

Absolute frequencies (h, min, s ...) step in elapsed time. Wall-clock ones (D, B, W, months, quarters, years) step
on the calendar of the series' timezone, or of the offset or plain time that was sent, at one time of day.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from math import gcd
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from tollama.contract import SeriesInput
from tollama.errors import InvalidSeries
from tollama.frequencies import NS, Frequency, Ints, parse
from tollama.frequencies import season_length as season_length
from tollama.inference import infer, refit
from tollama.timestamps import (
    LIMITS,
    RANGES,
    Stamps,
    finer,
    instants_of,
    offsets_at,
    read,
    time_of_day,
    to_instants,
    wall_clock,
    write,
    zone_of,
)

AUTO = "auto"
MIN_AUTO = 3
"""Timestamps that ``auto`` needs."""

FILL_STEPS, FILL_RATIO = 1000, 20
"""A grid may hold this many steps more than timestamps, or this many times as many: a gap of years in a series of
seconds would else fill the memory with missing values."""

CACHED_AXES, CACHED_LENGTH = 32, 4096
"""Axes kept for panels that share one, and the longest one kept: about 10 MB of text."""


CACHED_FUTURES = 4
"""Lists of forecast timestamps kept per axis."""


@dataclass(frozen=True, slots=True, eq=False)
class _Axis:
    """A time axis without its series: what equal timestamps share.

    ``order`` sorts the input, ``slots`` are the places of the sorted values on the grid; each None when it would
    change nothing. ``first`` is the first step: an instant for a tick, else a unit number. ``offset`` is the last
    one sent; it holds for the future unless there is a ``zone``.
    """

    frequency: Frequency
    length: int
    order: NDArray[np.intp] | None
    slots: Ints | None
    first: int
    time_of_day: np.timedelta64
    resolution: str
    offset: np.timedelta64 | None
    zulu: bool
    zone: ZoneInfo | None
    said: dict[tuple[int, int], list[str]] = field(default_factory=dict)

    def future(self, length: int, horizon: int) -> list[str]:
        """:func:`_future`, kept while the axis is: the series of a panel, and repeated requests, share it."""
        found = self.said.get((length, horizon))
        if found is None:
            if len(self.said) >= CACHED_FUTURES:
                self.said.clear()
            found = self.said[length, horizon] = _future(self, length, horizon)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The regular grid of one series.

    ``freq`` is the new-style alias in pandas' own naming, anchor included (``QE-DEC``, ``W-SUN``); ``length`` the T
    steps of the history, gaps included; ``warnings`` name the series.
    """

    freq: str
    length: int
    warnings: tuple[str, ...]
    series_id: str
    _axis: _Axis = field(repr=False)

    def place(self, values: NDArray[Any]) -> NDArray[Any]:
        """``values``, numbers or objects, one per target value in its order, sorted and on the grid: shape (length,).

        Gaps are NaN, None in an object array. The same array comes back when there is nothing to do.
        """
        if self._axis.order is not None:
            values = values[self._axis.order]
        if self._axis.slots is None:
            return values
        if values.dtype == object:
            placed: NDArray[Any] = np.full(self.length, None, dtype=object)
        else:
            placed = np.full(self.length, np.nan, np.result_type(values, np.float32))
        placed[self._axis.slots] = values
        return placed

    def check(self, horizon: int) -> None:
        """Raises :class:`InvalidSeries` when forecast timestamps would leave the years that can be said."""
        try:
            self._axis.future(self.length + horizon - 1, 1)
        except InvalidSeries as error:
            raise _named(self.series_id, error) from None

    def start(self) -> str:
        """The first forecast timestamp; errors as :meth:`future`."""
        return self.future(1)[0]

    def future(self, horizon: int) -> list[str]:
        """The forecast timestamps, ``YYYY-MM-DDTHH:MM:SS`` with a fraction if the series has one.

        They carry what the input carried: nothing, ``Z``, or an offset, that of the zone at each step when the series
        has a timezone. A local time that clocks skip is moved on by the skip. Raises :class:`InvalidSeries` when
        they would leave the years that can be said.
        """
        try:
            return list(self._axis.future(self.length, horizon))
        except InvalidSeries as error:
            raise _named(self.series_id, error) from None


def grid(series: SeriesInput) -> Grid:
    """The grid of a series from its ``timestamps``, or ``start`` and ``freq``.

    Raises :class:`InvalidSeries` naming the series, the index and the fix; never anything else.
    """
    length = len(series.target)
    try:
        texts = _texts(series, length)
        make = _cached_axis if len(texts) <= CACHED_LENGTH else _axis
        axis = make(texts, series.freq, series.timezone)
    except InvalidSeries as error:
        raise _named(series.id, error, start=series.timestamps is None) from None
    if series.timestamps is not None:
        length = axis.length
    return Grid(axis.frequency.alias, length, _warnings(axis, series), series.id, axis)


def _texts(series: SeriesInput, length: int) -> tuple[str, ...]:
    if series.start is not None and series.timestamps is None:
        if series.freq == AUTO:
            raise InvalidSeries("start needs a freq.", field="freq", hint="Send freq, for example 'D' or 'MS'.")
        return (series.start,)
    if series.timestamps is None or series.start is not None:
        raise InvalidSeries(
            "exactly one of timestamps and start is needed.",
            field="timestamps",
            hint="Send timestamps, one per target value, or start together with freq.",
        )
    if len(series.timestamps) != length:
        raise InvalidSeries(
            f"there are {len(series.timestamps)} timestamps for {length} target values.",
            field="timestamps",
            hint="Send one timestamp per target value; null is a missing value.",
        )
    if series.freq == AUTO and length < MIN_AUTO:
        raise InvalidSeries(
            f"inferring the frequency needs at least {MIN_AUTO} timestamps.",
            field="freq",
            hint="Send freq, for example 'D' or 'MS'.",
        )
    return tuple(series.timestamps)


def _named(series_id: str, error: InvalidSeries, *, start: bool = False) -> InvalidSeries:
    """``error`` about an axis as one about its series."""
    text, index, name = str(error), error.index, error.field
    if start:
        text, index = text.replace("timestamps[0]", "start"), None
        name = "start" if name == "timestamps" else name
    return InvalidSeries(f"{_label(series_id)}: {text}", series_id=series_id, index=index, field=name, hint=error.hint)


def _label(series_id: str) -> str:
    return f"Series {series_id!r}" if len(series_id) <= 80 else f"Series {series_id[:80]!r}..."


def _warnings(axis: _Axis, series: SeriesInput) -> tuple[str, ...]:
    found = []
    if axis.order is not None:
        found.append(f"{_label(series.id)}: the timestamps were not in order; they were sorted with their values.")
    if axis.slots is not None:
        gaps = axis.length - len(series.target)
        found.append(f"{_label(series.id)}: {gaps} missing step(s) of its {axis.frequency.alias} grid hold no value.")
    return tuple(found)


def _axis(texts: tuple[str, ...], freq: str, timezone: str | None) -> _Axis:
    zone = None if timezone is None else zone_of(timezone)
    given = read(texts)
    wall = instants = given.wall
    if given.offset is not None:
        instants = wall - given.offset
        if zone is not None:
            wall = wall_clock(instants, zone)
    one_time = bool((time_of_day(wall) == time_of_day(wall[:1])).all())
    frequency = None if freq == AUTO else parse(freq, wall.min().astype("M8[D]"))
    absolute = not one_time if frequency is None else frequency.kind == "tick"
    if absolute and zone is not None and given.offset is None:
        instants = instants_of(wall, zone)
    order = _order(instants)
    if order is not None:
        wall, instants = wall[order], instants[order]
    if frequency is None:
        frequency = infer(wall, instants)
        if frequency is None:
            raise InvalidSeries(
                "no frequency fits 80 % of the steps between its timestamps.",
                field="freq",
                hint="Make the timestamps regular, or send freq.",
            )
    elif frequency.kind == "tick" and frequency.n * frequency.span % NS["us"]:
        wall, instants = finer(wall), finer(instants)
    first, slots, wrong = _slots(frequency, wall, instants)
    if wrong is not None:
        raise _off_grid(frequency, wall, instants, order, wrong)
    length = int(slots[-1]) + 1
    if length > max(len(texts) + FILL_STEPS, len(texts) * FILL_RATIO):
        raise InvalidSeries(
            f"the {frequency.alias} grid would hold {length:,} steps for {len(texts):,} timestamps.",
            field="freq",
            hint="Send a coarser freq, or only the history after the long gap.",
        )
    newest = -1 if order is None else order[-1]
    return _Axis(
        frequency=frequency,
        length=length,
        order=order,
        slots=None if length == len(texts) else slots,
        first=first,
        time_of_day=time_of_day(wall[:1])[0],
        resolution=np.datetime_data(wall.dtype)[0],
        offset=None if given.offset is None else given.offset[newest],
        zulu=given.zulu,
        zone=zone,
    )


_cached_axis = lru_cache(CACHED_AXES)(_axis)


def _order(instants: Stamps) -> NDArray[np.intp] | None:
    """What sorts ``instants``, or None when they are sorted; duplicates are an error."""
    zero = np.timedelta64(0)
    if (np.diff(instants) > zero).all():
        return None
    order = np.argsort(instants, kind="stable")
    same = np.diff(instants[order]) == zero
    if same.any():
        at = int(same.argmax())
        raise InvalidSeries(
            f"timestamps[{order[at]}] and timestamps[{order[at + 1]}] are the same time.",
            field="timestamps",
            index=int(order[at + 1]),
            hint="Send one value per time; if clocks went back, send UTC offsets or timezone.",
        )
    return order


def _slots(frequency: Frequency, wall: Stamps, instants: Stamps) -> tuple[int, Ints, int | None]:
    """The first step, the steps of each timestamp from there, and the index of the first one off the grid."""
    if frequency.kind == "tick":
        numbers = instants.astype(np.int64)
        slots, rest = np.divmod(numbers - numbers[0], _step(frequency, np.datetime_data(instants.dtype)[0]))
        on = rest == 0
    else:
        numbers, on = frequency.locate(wall.astype("M8[D]"))
        slots, rest = np.divmod(numbers - numbers[0], frequency.n)
        on = on & (rest == 0) & (time_of_day(wall) == time_of_day(wall[:1]))
    on[1:] &= np.diff(slots) > 0
    return int(numbers[0]), slots, None if on.all() else int(on.argmin())


def _step(frequency: Frequency, unit: str) -> int:
    """The step of a tick in ``unit``, us or ns."""
    return frequency.n * frequency.span // NS[unit]


def _off_grid(
    frequency: Frequency, wall: Stamps, instants: Stamps, order: NDArray[np.intp] | None, wrong: int
) -> InvalidSeries:
    hint = "Correct or drop what is off the grid, or send the freq that the timestamps follow."
    for other in (refit(frequency, wall), infer(wall, instants) if len(wall) >= MIN_AUTO else None):
        if other is not None and _slots(other, wall, instants)[2] is None:
            hint = f"The timestamps fit freq {other.alias!r}."
            break
    pair = [wrong] if len(wall) == 1 else [max(wrong, 1) - 1, max(wrong, 1)]
    found = [at if order is None else int(order[at]) for at in pair]
    said = " and ".join(f"timestamps[{at}]" for at in found)
    return InvalidSeries(
        f"{said} {'is' if len(found) == 1 else 'are'} not on one {frequency.alias} grid.",
        field="timestamps",
        index=found[-1] if wrong else found[0],
        hint=hint,
    )


def _future(axis: _Axis, length: int, horizon: int) -> list[str]:
    frequency, zone, offset = axis.frequency, axis.zone, axis.offset
    unit = axis.resolution
    latest = LIMITS[unit][1].astype(f"M8[{unit}]")
    if frequency.kind == "tick":
        step, end = _step(frequency, unit), int(latest.astype(np.int64))
        grain = gcd(axis.first, step)
    else:
        step, end = frequency.n, int(frequency.locate(np.array([latest.astype("M8[D]")]))[0][0])
        grain = int(axis.time_of_day.astype(f"m8[{unit}]").astype(np.int64))
    if axis.first + step * (length + horizon - 1) > end:
        raise InvalidSeries(
            f"the forecast would go beyond {RANGES[unit]}.",
            field="timestamps",
            hint="Ask for a shorter horizon, or correct the timestamps.",
        )
    numbers = axis.first + step * np.arange(length, length + horizon)
    if frequency.kind == "tick":
        instants = numbers.astype(f"M8[{unit}]")
        if zone is not None and not axis.zulu:
            shift: Any = offsets_at(instants, zone)
        else:
            shift = np.timedelta64(0, "s") if offset is None else offset
        local = instants + shift
    else:
        local = frequency.days(numbers).astype(f"M8[{unit}]") + axis.time_of_day
        shift = offset
        if zone is not None and offset is not None:
            instants = to_instants(local, zone)
            shift = np.timedelta64(0, "s") if axis.zulu else offsets_at(instants, zone)
            local = instants + shift
    shown = next(name for name in ("s", "ms", "us", "ns") if grain % (NS[name] // NS[unit] or 1) == 0)
    return write(local, None if offset is None else shift, axis.zulu, shown)
