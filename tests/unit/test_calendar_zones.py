"""Offsets, time zones, and the days on which clocks change."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tollama.calendar import Grid, grid
from tollama.contract import SeriesInput
from tollama.errors import InvalidSeries


def of(timestamps: list[str], timezone: str | None = None, freq: str = "auto") -> Grid:
    target = [0.0] * len(timestamps)
    return grid(SeriesInput(id="a", target=target, timestamps=timestamps, timezone=timezone, freq=freq))


def refused(timestamps: list[str], timezone: str) -> InvalidSeries:
    with pytest.raises(InvalidSeries) as caught:
        of(timestamps, timezone)
    return caught.value


def dates(start: str, periods: int, freq: str, tz: str | None = None) -> list[str]:
    return [stamp.isoformat() for stamp in pd.date_range(start, periods=periods, freq=freq, tz=tz)]


def test_offsets_are_kept() -> None:
    assert of(dates("2022-01-01T00:00Z", 3, "h")).start() == "2022-01-01T03:00:00+00:00"
    assert of(["2022-01-01T00:00Z", "2022-01-01T01:00Z", "2022-01-01T02:00Z"]).start() == "2022-01-01T03:00:00Z"
    assert of(dates("2022-01-01T00:00-03:30", 3, "D")).start() == "2022-01-04T00:00:00-03:30"


def test_without_a_zone_the_wall_clock_steps_at_the_last_offset() -> None:
    stamps = dates("2024-03-29", 4, "D", tz="Europe/Berlin")  # +01:00 three times, then +02:00
    found = of(stamps)
    assert (found.freq, found.length, found.start()) == ("D", 4, "2024-04-02T00:00:00+02:00")
    hours = dates("2024-03-31", 6, "h", tz="Europe/Berlin")
    assert (of(hours).freq, of(hours).start()) == ("h", "2024-03-31T07:00:00+02:00")


def test_with_a_zone_days_follow_its_clock_both_ways() -> None:
    spring = of(dates("2024-03-27", 4, "D", tz="Europe/Berlin"), timezone="Europe/Berlin")
    assert spring.future(2) == ["2024-03-31T00:00:00+01:00", "2024-04-01T00:00:00+02:00"]
    autumn = of(dates("2024-10-24", 3, "D", tz="Europe/Berlin"), timezone="Europe/Berlin")
    assert autumn.future(2) == ["2024-10-27T00:00:00+02:00", "2024-10-28T00:00:00+01:00"]


def test_with_a_zone_hours_are_elapsed_time() -> None:
    stamps = dates("2024-10-26T23:00", 3, "h", tz="Europe/Berlin")
    assert of(stamps, timezone="Europe/Berlin").future(3) == [
        "2024-10-27T02:00:00+02:00",
        "2024-10-27T02:00:00+01:00",
        "2024-10-27T03:00:00+01:00",
    ]


def test_zulu_input_with_a_zone_steps_there_and_answers_in_zulu() -> None:
    stamps = [f"2024-03-{day}T23:00:00Z" for day in (26, 27, 28, 29)]
    found = of(stamps, timezone="Europe/Berlin")
    assert found.freq == "D"
    assert found.future(3) == ["2024-03-30T23:00:00Z", "2024-03-31T22:00:00Z", "2024-04-01T22:00:00Z"]
    across = of(["2024-03-29T23:00:00Z", "2024-03-30T23:00:00Z", "2024-03-31T22:00:00Z"], timezone="Europe/Berlin")
    assert (across.freq, across.warnings) == ("D", ())


def test_months_in_a_zone() -> None:
    stamps = dates("2024-01-01", 3, "MS", tz="America/New_York")
    assert of(stamps, timezone="America/New_York").future(1) == ["2024-04-01T00:00:00-04:00"]


def test_plain_local_hours_with_a_zone() -> None:
    spring = ["2024-03-31T00:00", "2024-03-31T01:00", "2024-03-31T03:00", "2024-03-31T04:00"]
    found = of(spring, timezone="Europe/Berlin")
    assert (found.freq, found.length, found.start()) == ("h", 4, "2024-03-31T05:00:00")
    autumn = ["2024-10-27T01:00", "2024-10-27T02:00", "2024-10-27T02:00", "2024-10-27T03:00"]
    found = of(autumn, timezone="Europe/Berlin")
    assert (found.freq, found.length, found.warnings) == ("h", 4, ())
    newest_first = of(autumn[::-1], timezone="Europe/Berlin")
    assert newest_first.place(np.array([4.0, 3.0, 2.0, 1.0])).tolist() == [1.0, 2.0, 3.0, 4.0]
    before = of(["2024-10-26T23:00", "2024-10-27T00:00", "2024-10-27T01:00"], timezone="Europe/Berlin")
    assert before.future(3) == ["2024-10-27T02:00:00", "2024-10-27T02:00:00", "2024-10-27T03:00:00"]


def test_a_local_time_sent_three_times_is_a_duplicate() -> None:
    stamps = ["2024-10-27T01:00", *["2024-10-27T02:00"] * 3]
    assert refused(stamps, timezone="Europe/Berlin").index == 3


def test_a_local_time_that_clocks_skip() -> None:
    error = refused(["2024-03-31T01:00", "2024-03-31T02:00", "2024-03-31T03:00"], timezone="Europe/Berlin")
    assert error.index == 1
    assert "skip" in str(error)
    # A daily series at that hour is no less daily for it.
    assert of(dates("2024-03-30T02:30", 3, "D"), timezone="Europe/Berlin").start() == "2024-04-02T02:30:00"


def test_where_clocks_skip_midnight_the_day_begins_later() -> None:
    days = ["2023-09-01T00:00:00-04:00", "2023-09-02T00:00:00-04:00"]
    santiago = "America/Santiago"  # 2023-09-03 began at 01:00
    future = of(["2023-08-31T00:00:00-04:00", *days], timezone=santiago).future(2)
    assert future == ["2023-09-03T01:00:00-03:00", "2023-09-04T00:00:00-03:00"]
    across = of([*days, *future], timezone=santiago)
    assert (across.freq, across.length, across.start()) == ("D", 4, "2023-09-05T00:00:00-03:00")


@pytest.mark.parametrize(
    "zone", ["", "Mars/Base", "../etc/passwd", "/etc/passwd", "Europe", "a\0b", "\ud800", "x" * 300]
)
def test_an_unknown_zone(zone: str) -> None:
    assert refused(dates("2022-01-01", 3, "D"), timezone=zone).field == "timezone"
