"""The dates of every model kind's forecasts, beside pandas: frequencies, anchors, and days on which clocks change.

What the calendar does with each way of writing dates its own tests say. Here each adapter is asked with every
frequency, since it is told them, and what comes back is dated.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from tests.families.kinds import Body, Kind, numbers, waves

BERLIN = "Europe/Berlin"
LENGTH, HORIZON = 24, 8
TARGET = waves(LENGTH)
# In Berlin the clocks went forward on 2024-03-31 and back on 2024-10-27: each forecast passes such a day.
AXES = {
    "D": "2024-03-05",
    "h": "2024-03-30",
    "15min": "2024-03-30T19:15",
    "B": "2024-02-26",
    "W-MON": "2023-10-09",
    "MS": "2022-03-01",
    "ME": "2022-03-31",
    "QS": "2018-04-01",
    "QE": "2018-06-30",
    "YE": "2000-12-31",
}
AUTUMN = {"D": "2024-10-01", "h": "2024-10-26", "15min": "2024-10-26T19:15", "B": "2024-09-23"}
ROWS = [
    *((freq, start, zone) for freq, start in AXES.items() for zone in (None, BERLIN)),
    *((freq, start, BERLIN) for freq, start in AUTUMN.items()),
]


def texts(axis: Any) -> list[str]:
    return [stamp.isoformat() for stamp in axis]


def written(row: int, how: str) -> tuple[Body, tuple[str, list[str]]]:
    """A row of the table, as ``timestamps`` alone or as a ``start`` with its frequency; the alias and dates ahead."""
    freq, start, zone = ROWS[row]
    axis = pd.date_range(start, periods=LENGTH + HORIZON, freq=freq, tz=zone)
    past = texts(axis[:LENGTH])
    given: Body = {"timestamps": past} if how == "timestamps" else {"start": past[0], "freq": freq}
    given |= {"timezone": zone} if zone else {}
    alias = pd.tseries.frequencies.to_offset(freq).freqstr
    return {"id": f"{row} {how}", "target": TARGET, **given}, (alias, texts(axis[LENGTH:]))


def test_the_dates_are_those_of_pandas(kind: Kind) -> None:
    both = [(row, how) for row in range(len(ROWS)) for how in ("timestamps", "start")]
    # Where the model samples, a series costs much and its numbers are its own: each row in one way, by turns.
    asked = both if kind.can.deterministic else [(row, ("timestamps", "start")[row // 2 % 2]) for row, _ in both[::2]]
    series, expected = zip(*(written(*one) for one in asked), strict=True)
    found = kind.answer(*series, horizon=HORIZON, response_options={"timestamps": True})
    for given, (freq, ahead), forecast in zip(series, expected, found["forecasts"], strict=True):
        assert forecast["id"] == given["id"]
        assert (forecast["freq"], forecast["start_timestamp"]) == (freq, ahead[0]), given
        assert forecast["timestamps"] == ahead, given
        numbers(forecast)
    if kind.can.deterministic:
        for one, other in zip(found["forecasts"][::2], found["forecasts"][1::2], strict=True):
            np.testing.assert_allclose(numbers(one), numbers(other), rtol=1e-5)


def test_the_first_date_follows_a_history_of_any_length(kind: Kind) -> None:
    """Of a month to half a year, the ends of months in a zone: what the model reads of them does not matter."""
    axis = pd.date_range("2024-01-31", periods=7, freq="ME", tz=BERLIN)
    zoned = {"start": texts(axis)[0], "freq": "ME", "timezone": BERLIN}
    series = [{"id": str(steps), "target": TARGET[:steps], **zoned} for steps in range(1, 7)]
    found = kind.answer(*series, horizon=1)
    assert [forecast["start_timestamp"] for forecast in found["forecasts"]] == texts(axis[1:])
