"""The calendar, rule by rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tollama.calendar import Grid, grid, season_length
from tollama.contract import SeriesInput
from tollama.errors import InvalidSeries


def series(timestamps: list[str] | None = None, length: int | None = None, **more: Any) -> SeriesInput:
    count = length if length is not None else len(timestamps or ["start"])
    return SeriesInput(id="a", target=[float(step) for step in range(count)], timestamps=timestamps, **more)


def of(timestamps: list[str] | None = None, length: int | None = None, **more: Any) -> Grid:
    return grid(series(timestamps, length, **more))


def refused(timestamps: list[str] | None = None, length: int | None = None, **more: Any) -> InvalidSeries:
    with pytest.raises(InvalidSeries) as caught:
        of(timestamps, length, **more)
    error = caught.value
    assert error.series_id == "a"
    assert "'a'" in str(error)
    assert error.hint
    return error


def dates(start: str, periods: int, freq: str, **more: Any) -> list[str]:
    return [stamp.isoformat() for stamp in pd.date_range(start, periods=periods, freq=freq, **more)]


@pytest.mark.parametrize(
    ("first", "pandas_freq", "alias", "start"),
    [
        ("2022-01-01", "MS", "MS", "2023-01-01T00:00:00"),
        ("2022-01-31", "ME", "ME", "2023-01-31T00:00:00"),
        ("2022-01-03", "BMS", "BMS", "2023-01-02T00:00:00"),
        ("2022-01-31", "BME", "BME", "2023-01-31T00:00:00"),
        ("2022-01-03", "W-MON", "W-MON", "2022-03-28T00:00:00"),
        ("2022-01-02", "W", "W-SUN", "2022-03-27T00:00:00"),
        ("2022-01-03", "2W-MON", "2W-MON", "2022-06-20T00:00:00"),
        ("2022-01-03", "B", "B", "2022-01-19T00:00:00"),
        ("2022-01-01", "D", "D", "2022-01-13T00:00:00"),
        ("2022-01-01", "3D", "3D", "2022-02-06T00:00:00"),
        ("2022-01-01", "QS", "QS-JAN", "2025-01-01T00:00:00"),
        ("2022-02-01", "QS-FEB", "QS-FEB", "2025-02-01T00:00:00"),
        ("2022-03-31", "QE", "QE-DEC", "2025-03-31T00:00:00"),
        ("2022-01-31", "QE-OCT", "QE-OCT", "2025-01-31T00:00:00"),
        ("2022-02-28", "QE-NOV", "QE-NOV", "2025-02-28T00:00:00"),
        ("2022-01-01", "YS", "YS-JAN", "2034-01-01T00:00:00"),
        ("2022-12-31", "YE", "YE-DEC", "2034-12-31T00:00:00"),
        ("2022-06-30", "YE-JUN", "YE-JUN", "2034-06-30T00:00:00"),
        ("2022-01-01", "2MS", "2MS", "2024-01-01T00:00:00"),
        ("2022-01-01", "6MS", "2QS-JAN", "2028-01-01T00:00:00"),
        ("2022-01-01", "h", "h", "2022-01-01T12:00:00"),
        ("2022-01-01", "15min", "15min", "2022-01-01T03:00:00"),
        ("2022-01-01", "90s", "90s", "2022-01-01T00:18:00"),
        ("2022-01-01", "250ms", "250ms", "2022-01-01T00:00:03.000"),
        ("2022-01-01", "us", "us", "2022-01-01T00:00:00.000012"),
        ("2022-01-01", "7ns", "7ns", "2022-01-01T00:00:00.000000084"),
    ],
)
def test_auto_infers_and_keeps_the_anchor(first: str, pandas_freq: str, alias: str, start: str) -> None:
    found = of(dates(first, 12, pandas_freq))
    assert (found.freq, found.start(), found.length, found.warnings) == (alias, start, 12, ())
    assert pd.tseries.frequencies.to_offset(alias).freqstr == alias


def test_weekdays_within_one_week_are_daily() -> None:
    assert of(dates("2022-01-03", 5, "D")).freq == "D"


def test_business_days_skip_weekends() -> None:
    found = of(["2024-01-04", "2024-01-05", "2024-01-08", "2024-01-09", "2024-01-10", "2024-01-11"])
    assert found.freq == "B"
    assert found.future(2) == ["2024-01-12T00:00:00", "2024-01-15T00:00:00"]


def test_future_is_as_long_as_the_horizon() -> None:
    found = of(["2022-10-31", "2022-11-30", "2022-12-31"])
    assert found.future(3) == ["2023-01-31T00:00:00", "2023-02-28T00:00:00", "2023-03-31T00:00:00"]
    assert found.start() == "2023-01-31T00:00:00"


def test_time_of_day_is_kept() -> None:
    assert of(dates("2022-01-01T09:30", 4, "D")).start() == "2022-01-05T09:30:00"
    assert of(dates("2022-01-01T09:30:00.250", 4, "D")).start() == "2022-01-05T09:30:00.250"


@pytest.mark.parametrize(
    ("timestamps", "alias", "start"),
    [
        (["2020", "2021", "2022"], "YS-JAN", "2023-01-01T00:00:00"),
        (["2022-01", "2022-02", "2022-03"], "MS", "2022-04-01T00:00:00"),
        (["20220101", "20220102", "20220103"], "D", "2022-01-04T00:00:00"),
        (["2022-W01-1", "2022-W02-1", "2022-W03-1"], "W-MON", "2022-01-24T00:00:00"),
        (["2022-01-01 00", "2022-01-01 01", "2022-01-01 02"], "h", "2022-01-01T03:00:00"),
        (["2022-01-01T00:00", "2022-01-01 00:30:00", "2022-01-01T01:00:00.000"], "30min", "2022-01-01T01:30:00"),
    ],
)
def test_every_spelling_of_iso_8601(timestamps: list[str], alias: str, start: str) -> None:
    found = of(timestamps)
    assert (found.freq, found.start()) == (alias, start)


NOT_TIMESTAMPS = [
    *["", "soon", "NaT", "now", "today", "2022-13-01", "2022-02-30", "2022-1-5", "2022-01-01T25:00", "2022-01-01Z"],
    *["2022-01-01T00:00:61", "+12022-01-01", "-022-01-01", "\u0662\u0660\u0662\u0662-01-01", "\ud800", "1641000000"],
    *["0000-01-01", "0001-01-01", "9999-01-01", "1800-01-01T00:00:00.000000001"],
]


@pytest.mark.parametrize("bad", NOT_TIMESTAMPS)
def test_a_bad_timestamp_is_named_and_not_echoed(bad: str) -> None:
    error = refused(["2022-01-01", "2022-01-02", bad], freq="D")
    assert error.index == 2
    assert "timestamps[2]" in str(error)
    assert not bad or bad not in str(error)


def test_one_bad_day_among_equal_shapes_is_named() -> None:
    assert refused([*dates("2022-02-26", 3, "D"), "2022-02-29T00:00:00"]).index == 3


@pytest.mark.parametrize("offset", ["+25:00", "+01:60", "+1", "x", "+01:00:99"])
def test_a_bad_offset_is_named(offset: str) -> None:
    assert refused(["2022-01-01T00:00Z", "2022-01-01T01:00Z", f"2022-01-01T02:00{offset}"]).index == 2
    assert refused(["2022-01-01T00:00+01:00", f"2022-01-01T01:00{offset:0<6}"], freq="h").index == 1


def test_offset_on_some_timestamps_only() -> None:
    error = refused(["2022-01-01T00:00Z", "2022-01-01T01:00Z", "2022-01-01T02:00"])
    assert (error.index, error.field) == (2, "timestamps")


def test_unsorted_is_sorted_with_a_warning() -> None:
    found = of(["2022-01-03", "2022-01-01", "2022-01-02", "2022-01-04"])
    assert found.start() == "2022-01-05T00:00:00"
    assert found.place(np.array([3.0, 1.0, 2.0, 4.0])).tolist() == [1.0, 2.0, 3.0, 4.0]
    assert found.place(np.array(["c", "a", "b", "d"], object)).tolist() == ["a", "b", "c", "d"]
    assert len(found.warnings) == 1
    assert "'a'" in found.warnings[0]
    assert "order" in found.warnings[0]


def test_unsorted_with_offsets_takes_the_offset_of_the_newest() -> None:
    stamps = dates("2024-03-29", 4, "D", tz="Europe/Berlin")
    assert of([stamps[3], *stamps[:3]]).start() == "2024-04-02T00:00:00+02:00"


def test_regular_values_are_not_copied() -> None:
    values = np.arange(4.0)
    assert of(dates("2022-01-01", 4, "D")).place(values) is values


def test_duplicates_are_named() -> None:
    error = refused(["2022-01-01", "2022-01-03", "2022-01-02", "2022-01-03"])
    assert error.index == 3
    assert "timestamps[1] and timestamps[3] are the same" in str(error)
    assert refused(["2022-01-01T00:00Z", "2022-01-01T01:00+01:00"], freq="h").index == 1


def test_gaps_are_completed() -> None:
    stamps = dates("2022-01-01", 12, "D")
    del stamps[4], stamps[7]
    found = of(stamps)
    assert (found.freq, found.length, found.start()) == ("D", 12, "2022-01-13T00:00:00")
    assert np.flatnonzero(np.isnan(found.place(np.ones(10)))).tolist() == [4, 8]
    assert found.place(np.full(10, "x", object)).tolist().count(None) == 2
    assert len(found.warnings) == 1
    assert "'a': 2 missing" in found.warnings[0]
    assert of(stamps, freq="D").length == 12


def test_gaps_in_months_and_business_days() -> None:
    months = dates("2022-01-31", 8, "ME")
    del months[3]
    assert (of(months).freq, of(months).length) == ("ME", 8)
    weekdays = dates("2022-01-03", 10, "B")
    del weekdays[6]
    assert (of(weekdays).freq, of(weekdays).length) == ("B", 10)


def test_auto_needs_the_dominant_step_in_four_of_five() -> None:
    steps = [2, 2, 2, 2, 3]  # 80 % fit, so 2h is the grid, and the last pair is off it
    hours = np.datetime64("2022-01-01T00", "h") + np.cumsum([0, *steps])
    error = refused([str(hour) for hour in hours])
    assert "timestamps[4] and timestamps[5]" in str(error)
    assert "2h" in str(error)
    assert error.index == 5
    steps = [2, 2, 2, 3, 5]
    hours = np.datetime64("2022-01-01T00", "h") + np.cumsum([0, *steps])
    error = refused([str(hour) for hour in hours])
    assert "80 %" in str(error)
    assert error.field == "freq"


def test_one_stray_day_in_monthly_data_is_named() -> None:
    stamps = dates("2022-01-01", 10, "MS")
    stamps[6] = "2022-07-02T00:00:00"
    error = refused(stamps)
    assert "timestamps[5] and timestamps[6]" in str(error)
    assert "MS" in str(error)


def test_auto_needs_three() -> None:
    error = refused(["2022-01-01", "2022-01-02"])
    assert error.field == "freq"
    assert "freq" in error.hint
    assert of(["2022-01-01", "2022-01-02"], freq="D").start() == "2022-01-03T00:00:00"
    assert of(["2022-01-01"], freq="MS").start() == "2022-02-01T00:00:00"


def test_off_grid_pair_is_named_by_its_place_in_the_input() -> None:
    error = refused(["2022-01-01T03:30", "2022-01-01T00:00", "2022-01-01T01:00", "2022-01-01T02:00"], freq="h")
    assert "timestamps[3] and timestamps[0]" in str(error)
    assert error.index == 0


@pytest.mark.parametrize(
    ("data", "freq", "fits"),
    [
        ("W-MON", "W-SUN", "W-MON"),
        ("MS", "ME", "MS"),
        ("ME", "MS", "ME"),
        ("BME", "ME", "BME"),
        ("QS-FEB", "QS", "QS-FEB"),
        ("QS", "QE", "QS-JAN"),
        ("YE-JUN", "YE", "YE-JUN"),
        ("MS", "QS", "MS"),
        ("h", "D", "h"),
        ("D", "B", "D"),
    ],
)
def test_an_alias_that_disagrees_says_which_fits(data: str, freq: str, fits: str) -> None:
    error = refused(dates("2021-01-01", 8, data), freq=freq)
    assert repr(fits) in error.hint
    assert error.index is not None


@pytest.mark.parametrize(
    ("data", "freq", "alias"),
    [
        ("W-WED", "W", "W-WED"),
        ("2W-WED", "2W", "2W-WED"),
        ("MS", "M", "MS"),
        ("ME", "M", "ME"),
        ("QS-FEB", "Q", "QS-FEB"),
        ("QE", "Q", "QE-DEC"),
        ("YS-APR", "A", "YS-APR"),
        ("YE", "Y", "YE-DEC"),
        ("YE", "A", "YE-DEC"),
    ],
)
def test_bare_aliases_take_the_anchor_of_the_data(data: str, freq: str, alias: str) -> None:
    assert of(dates("2021-01-01", 8, data), freq=freq).freq == alias


def test_a_bare_alias_needs_an_end_of_a_month() -> None:
    assert refused(["2022-01-15", "2022-02-15"], freq="M").field == "freq"


RENAMED = {
    **{"H": "h", "T": "min", "S": "s", "L": "ms", "U": "us", "N": "ns", "15T": "15min", "d": "D", "1D": "D"},
    **{"Q-DEC": "QE-DEC", "A-JUN": "YE-JUN", "Y-DEC": "YE-DEC", "AS": "YS-JAN", "AS-APR": "YS-APR", "BM": "BME"},
    **{"BQ": "BQE-DEC", "BA": "BYE-DEC", "BAS": "BYS-JAN", "QS-JUL": "QS-JUL", "2ME": "2ME"},
}


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_old_and_new_aliases(old: str, new: str) -> None:
    assert of(dates("2022-01-01", 4, new), freq=old).freq == new


@pytest.mark.parametrize(
    "freq", ["", "m", "x", "0D", "-1D", "1.5h", "D-MON", "W-XXX", "ME-JAN", "Q-FOO", "1h30min", "C", "AUTO", "H" * 99]
)
def test_an_unknown_alias(freq: str) -> None:
    error = refused(dates("2022-01-01", 4, "D"), freq=freq)
    assert error.field == "freq"
    assert "W-MON" in error.hint


def test_start_and_freq() -> None:
    found = of(length=12, start="2022-01-01", freq="MS")
    assert (found.freq, found.length, found.start()) == ("MS", 12, "2023-01-01T00:00:00")
    values = np.arange(12.0)
    assert found.place(values) is values
    assert of(length=3, start="2022-01-05", freq="W").freq == "W-WED"
    assert of(length=3, start="2022-01-31T00:00Z", freq="M").start() == "2022-04-30T00:00:00Z"


def test_start_is_named_when_it_is_at_fault() -> None:
    assert refused(length=3, start="2022-01-01").field == "freq"
    error = refused(length=3, start="tomorrow", freq="D")
    assert error.field == "start"
    assert "start is not an ISO 8601" in str(error)
    error = refused(length=3, start="2022-01-05", freq="W-SUN")
    assert "start is not on one W-SUN grid" in str(error)
    assert "'W-WED'" in error.hint


def test_exactly_one_time_axis() -> None:
    assert "exactly one" in str(refused(length=3))
    assert "exactly one" in str(refused(["2022-01-01"], start="2022-01-01", freq="D"))
    assert "2 timestamps for 3" in str(refused(["2022-01-01", "2022-01-02"], length=3))
    assert refused([], length=3).field == "timestamps"


def test_a_forecast_beyond_the_last_year() -> None:
    found = of(["9995", "9996", "9997"])
    assert found.start() == "9998-01-01T00:00:00"
    with pytest.raises(InvalidSeries, match="9998") as caught:
        found.future(2)
    assert caught.value.series_id == "a"
    with pytest.raises(InvalidSeries):
        of(length=100_000, start="2022-01-01", freq="999999999YS").start()


def test_a_grid_that_would_not_fit_the_memory() -> None:
    error = refused(["2022-01-01", "2022-01-02", "2022-01-03"], freq="ns")
    assert "172,800,000,000,001 steps for 3" in str(error)


def test_a_panel_on_one_axis_shares_it_but_not_its_names() -> None:
    stamps = ["2022-01-02", "2022-01-01", "2022-01-03"]
    for name in ("x", "y"):
        found = grid(SeriesInput(id=name, target=[1.0, 2.0, 3.0], timestamps=list(stamps)))
        assert repr(name) in found.warnings[0]


def test_a_long_id_is_cut() -> None:
    with pytest.raises(InvalidSeries) as caught:
        grid(SeriesInput(id="z" * 200, target=[1.0]))
    assert len(str(caught.value)) < 300


SEASONS = {
    **{"h": 24, "H": 24, "2h": 12, "5h": 1, "24h": 7, "min": 1440, "15min": 96, "30min": 48, "60s": 1440},
    **{"s": 60, "15s": 4, "ms": 1, "ns": 1, "D": 7, "2D": 1, "7D": 1, "B": 5, "2B": 1, "W-MON": 52, "2W-SUN": 26},
    **{"MS": 12, "ME": 12, "M": 12, "BMS": 12, "2MS": 6, "5MS": 1, "QS-OCT": 4, "QE-DEC": 4, "2QE-DEC": 2},
    **{"YS-JAN": 1, "YE-DEC": 1, "2YE-DEC": 1},
}


@pytest.mark.parametrize(("freq", "season"), SEASONS.items())
def test_season_length(freq: str, season: int) -> None:
    assert season_length(freq) == season
