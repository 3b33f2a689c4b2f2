"""The calendar against pandas, over all frequencies, and against anything a client may send."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pandas as pd
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tollama.calendar import grid, season_length
from tollama.contract import SeriesInput
from tollama.errors import InvalidSeries
from tollama.frequencies import MONTHS, WEEKDAYS

TICKS = ["h", "min", "s", "ms", "us"]
WALL_CLOCK = [
    *["D", "B", "MS", "ME", "BMS", "BME"],
    *[f"W-{day}" for day in WEEKDAYS],
    *[f"{code}-{month}" for code in ("QS", "QE", "BQS", "BQE", "YS", "YE", "BYS", "BYE") for month in MONTHS],
]
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Europe/Dublin"]

counts = st.integers(1, 6)
lengths = st.integers(3, 30)
starts = st.datetimes(datetime(1700, 1, 1), datetime(2300, 1, 1))
ticks = st.tuples(counts, st.sampled_from(TICKS))
wall_clock = st.tuples(counts, st.sampled_from(WALL_CLOCK))


def alias(freq: tuple[int, str]) -> str:
    return freq[1] if freq[0] == 1 else f"{freq[0]}{freq[1]}"


def series(stamps: list[str], freq: str, timezone: str | None = None) -> SeriesInput:
    return SeriesInput(id="a", target=[0.0] * len(stamps), timestamps=stamps, freq=freq, timezone=timezone)


def texts(index: pd.DatetimeIndex) -> list[str]:
    return [stamp.isoformat() for stamp in index]


def same(found: list[str], expected: pd.DatetimeIndex) -> bool:
    """The same instants at the same offsets."""
    read = [pd.Timestamp(text) for text in found]
    return read == list(expected) and [one.utcoffset() for one in read] == [one.utcoffset() for one in expected]


@settings(deadline=None, max_examples=80)
@given(starts, st.one_of(ticks, wall_clock), lengths, st.integers(1, 12))
def test_an_explicit_frequency_goes_on_as_pandas_does(
    start: datetime, freq: tuple[int, str], length: int, horizon: int
) -> None:
    whole = pd.date_range(start, periods=length + horizon, freq=alias(freq))
    found = grid(series(texts(whole[:length]), alias(freq)))
    assert (found.freq, found.length, found.warnings) == (alias(freq), length, ())
    assert same(found.future(horizon), whole[length:])
    assert found.start() == found.future(horizon)[0]
    from_start = grid(SeriesInput(id="a", target=[0.0] * length, start=whole[0].isoformat(), freq=alias(freq)))
    assert from_start.future(horizon) == found.future(horizon)


@settings(deadline=None, max_examples=80)
@given(starts, st.one_of(ticks, wall_clock.filter(lambda freq: "B" not in freq[1])), lengths)
def test_auto_finds_what_pandas_made(start: datetime, freq: tuple[int, str], length: int) -> None:
    whole = pd.date_range(start, periods=length + 5, freq=alias(freq))
    found = grid(series(texts(whole[:length]), "auto"))
    assert same(found.future(5), whole[length:])
    assert pd.tseries.frequencies.to_offset(found.freq).freqstr == found.freq
    assert season_length(found.freq) >= 1


@settings(deadline=None, max_examples=30)
@given(starts, st.integers(8, 30))
def test_auto_finds_business_days(start: datetime, length: int) -> None:
    whole = pd.date_range(start, periods=length + 5, freq="B")
    found = grid(series(texts(whole[:length]), "auto"))
    assert found.freq == "B"
    assert same(found.future(5), whole[length:])


@settings(deadline=None, max_examples=80)
@given(st.datetimes(datetime(1971, 1, 1), datetime(2036, 1, 1)), st.sampled_from(ZONES), ticks, st.integers(3, 20))
def test_ticks_in_a_zone(start: datetime, zone: str, freq: tuple[int, str], length: int) -> None:
    whole = pd.date_range(pd.Timestamp(start, tz="UTC"), periods=length + 8, freq=alias(freq)).tz_convert(zone)
    found = grid(series(texts(whole[:length]), "auto", zone))
    assert found.length == length
    assert same(found.future(8), whole[length:])
    zulu = [stamp.tz_convert("UTC").tz_localize(None).isoformat() + "Z" for stamp in whole]
    answer = grid(series(zulu[:length], alias(freq), zone)).future(8)
    assert all(text.endswith("Z") for text in answer)
    assert [pd.Timestamp(text) for text in answer] == [pd.Timestamp(text) for text in zulu[length:]]


@settings(deadline=None, max_examples=80)
@given(st.dates(datetime(1971, 1, 1).date(), datetime(2036, 1, 1).date()), st.sampled_from(ZONES), wall_clock, lengths)
def test_wall_clock_steps_in_a_zone(start: object, zone: str, freq: tuple[int, str], length: int) -> None:
    noon = pd.date_range(f"{start}T12:00", periods=length + 8, freq=alias(freq))
    whole = noon.tz_localize(zone)
    found = grid(series(texts(whole[:length]), alias(freq), zone))
    assert (found.freq, found.length) == (alias(freq), length)
    assert same(found.future(8), whole[length:])
    plain = grid(series(texts(noon[:length]), alias(freq), zone))
    assert same(plain.future(8), noon[length:])


@settings(deadline=None, max_examples=60)
@given(st.datetimes(datetime(1971, 1, 1), datetime(2036, 1, 1)), st.sampled_from(ZONES), st.integers(3, 200))
def test_plain_local_hours_survive_both_changes(start: datetime, zone: str, length: int) -> None:
    clock = pd.date_range(pd.Timestamp(start, tz="UTC").floor("h"), periods=length + 8, freq="h").tz_convert(zone)
    plain = clock.tz_localize(None)
    # The later of two showings can be told only when the earlier is there too.
    twice = plain[:length].duplicated(keep=False)
    assume(all(both or not stamp.fold for stamp, both in zip(clock, twice, strict=False)))
    found = grid(series(texts(plain[:length]), "h", zone))
    assert found.length == length
    assert same(found.future(8), plain[length:])


@settings(deadline=None, max_examples=80)
@given(starts, st.one_of(ticks, wall_clock), lengths, st.data())
def test_order_and_gaps(start: datetime, freq: tuple[int, str], length: int, data: st.DataObject) -> None:
    whole = pd.date_range(start, periods=length + 3, freq=alias(freq))
    inner = data.draw(st.sets(st.integers(1, length - 2))) if length > 2 else set()
    kept = data.draw(st.permutations([step for step in range(length) if step not in inner]))
    found = grid(series(texts(whole[kept]), alias(freq)))
    assert found.length == length
    assert same(found.future(3), whole[length:])
    placed = found.place(np.array(kept, float))
    assert set(np.flatnonzero(np.isnan(placed)).tolist()) == inner
    assert all(placed[step] == step for step in kept)
    assert bool(found.warnings) == (bool(inner) or kept != sorted(kept))


PIECES = st.sampled_from(
    [
        *["2024-03-31", "2024-03-31T02:30", "2024-10-27T02:30:00", "2024-10-27T02:30:00+01:00", "2024-01-01T00:00Z"],
        *["9998-12-31", "0002-01-01T00:00:00+23:59", "1900-01-01T00:00:00.000000001", "2191-12-31", "2024-01-15"],
        *["1883-11-18T12:00-04:56:02", "2024-W53-1", "20240101T000000", "2024-01-01T00:00:00,5", "\x00", "\ud800"],
        *["2024", "2025", ""],
    ]
)
ALIASES = st.one_of(
    st.sampled_from(["auto", "M", "W", "Q", "A", "Y", "ns", "B", "99999999h", "999999999YS", "999999999B", "0D", "2M"]),
    st.one_of(ticks, wall_clock).map(alias),
    st.text(max_size=6),
)


@settings(deadline=None, max_examples=200)
@given(
    st.one_of(st.none(), st.lists(st.one_of(PIECES, st.text(max_size=20), starts.map(datetime.isoformat)), max_size=6)),
    st.one_of(st.none(), PIECES),
    ALIASES,
    st.one_of(st.none(), st.sampled_from(ZONES), st.text(max_size=10)),
    st.integers(1, 16_384),
)
@example(["1900-01-01T00:00:00.000000001", "2191-12-31T00:00:00.000000001"], None, "ns", None, 1)
@example(["0002-01-01", "9998-12-31"], None, "YS", "Asia/Kolkata", 16_384)
@example(["2024-01-01T00:00+14:00", "2024-01-01T00:00-12:00", "2024-01-01T00:00-11:00"], None, "auto", None, 2)
@example(["2024-01-03T00:00+14:00", "2024-01-02T00:00-12:00", "2024-01-01T23:00-12:00"], None, "D", None, 2)
@example(None, "2024-01-01", "999999999B", None, 16_384)
def test_nothing_but_invalid_series(
    stamps: list[str] | None, start: str | None, freq: str, timezone: str | None, horizon: int
) -> None:
    count = len(stamps) if stamps else 5
    sent = SeriesInput.model_construct(
        id="a", target=[0.0] * count, timestamps=stamps, start=start, freq=freq, timezone=timezone
    )
    fault = None
    try:
        found = grid(sent)
        assert found.place(np.zeros(count)).shape == (found.length,)
        assert len(found.future(horizon)) == horizon
    except InvalidSeries as error:
        fault = error
    assert fault is None or (fault.series_id == "a" and fault.hint)
