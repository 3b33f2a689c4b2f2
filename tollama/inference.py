"""Which frequency sorted timestamps follow."""

from __future__ import annotations

import numpy as np

from tollama.errors import InvalidSeries
from tollama.frequencies import NS, Days, Frequency, Ints, business, daily, edge_days, monthly, parse, tick, weekly
from tollama.frequencies import weekday as weekday_of
from tollama.timestamps import Stamps

DOMINANT = 0.8
"""Share of the steps that must be the dominant one or a multiple of it."""

MONTHLY_MEAN_DAYS = 20
"""Steps of a month or more in 80 % of cases are more than this on average; shorter ones need no look at months."""


def infer(wall: Stamps, instants: Stamps) -> Frequency | None:
    """The frequency of at least three distinct times in order, None when none fits 80 % of the steps.

    Times of day that agree make it a wall-clock frequency (``D``, not ``24h``). Weekdays only, in daily steps over at
    least one weekend, make it ``B``. Multiples of months have the longest name: 3 months are ``QS`` or ``QE``.
    """
    days = wall.astype("M8[D]")
    times = wall - days
    if (times == times[0]).all():
        return _by_month(days) or _by_day(days)
    step = _dominant(np.diff(instants).astype(np.int64))
    if step is None:
        return None
    nanoseconds = step * NS[np.datetime_data(instants.dtype)[0]]
    unit = next(name for name in ("h", "min", "s", "ms", "us", "ns") if nanoseconds % NS[name] == 0)
    return tick(nanoseconds // NS[unit], unit)


def refit(frequency: Frequency, wall: Stamps) -> Frequency | None:
    """The same weeks, months, quarters or years with the anchor of the data."""
    period = {("day", 7): "W", ("month", 1): "M", ("month", 3): "Q", ("month", 12): "Y"}.get(
        (frequency.kind, frequency.span)
    )
    if period is None:
        return None
    try:
        return parse(f"{frequency.n}{period}", wall[0].astype("M8[D]"))
    except InvalidSeries:
        return None


def _dominant(steps: Ints) -> int | None:
    """The most frequent step (the shorter of equals), if enough steps are multiples of it."""
    if (steps == steps[0]).all():
        return int(steps[0]) if steps[0] > 0 else None
    values, counts = np.unique(steps, return_counts=True)
    step = int(values[counts.argmax()])
    return step if step > 0 and (steps % step == 0).mean() >= DOMINANT else None


def _by_month(days: Days) -> Frequency | None:
    span = (days[-1] - days[0]).astype(np.int64)
    if span < MONTHLY_MEAN_DAYS * (len(days) - 1):
        return None
    months = days.astype("M8[M]")
    for edge in ("S", "E", "BS", "BE"):
        if (days == edge_days(months, edge)).mean() < DOMINANT:
            continue
        numbers = months.astype(np.int64)
        step = _dominant(np.diff(numbers))
        if step is not None:
            period, size = ("Y", 12) if step % 12 == 0 else ("Q", 3) if step % 3 == 0 else ("M", 1)
            return monthly(step // size, period, edge, int(numbers[0]) % 12)
    return None


def _by_day(days: Days) -> Frequency | None:
    step = _dominant(np.diff(days).astype(np.int64))
    if step is None:
        return None
    if step % 7 == 0:
        return weekly(step // 7, weekday_of(days[0]))
    worked = np.busday_count(days[0], days[-1]) < (days[-1] - days[0]).astype(np.int64)
    if step == 1 and worked and np.is_busday(days).all():
        return business(1)
    return daily(step)
