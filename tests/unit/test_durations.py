"""Durations: what Ollama's users write is read as they mean it."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollama.durations import seconds, text
from tollama.errors import InvalidRequest


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (300, 300.0),
        (1.5, 1.5),
        (0, 0.0),
        ("0", 0.0),
        ("0s", 0.0),
        ("-0s", 0.0),
        ("300", 300.0),
        ("300ms", 0.3),
        ("90s", 90.0),
        ("10m30s", 630.0),
        ("2h", 7200.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("1d", 86400.0),
        ("1d12h", 129600.0),
        ("+5m", 300.0),
        (" 5m ", 300.0),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        ("1ns", 1e-9),
        (-1, math.inf),
        (-0.5, math.inf),
        ("-1", math.inf),
        ("-5m", math.inf),
        (math.inf, math.inf),
    ],
)
def test_seconds(written: float | str, meant: float) -> None:
    assert seconds(written) == pytest.approx(meant, rel=1e-12, abs=0)


@pytest.mark.parametrize(
    "written", ["", "-", "m", "5 m", "5min", "5M", "1h-5m", "five", "1e3", "nan", "inf", "٣s", "5m\n5"]
)
def test_a_malformed_duration_is_a_bad_request_with_advice(written: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        seconds(written)
    assert "10m30s" in caught.value.hint
    assert not written or written not in str(caught.value)


@pytest.mark.parametrize("written", [True, False, math.nan])
def test_what_is_no_number_of_seconds_is_refused(written: float) -> None:
    with pytest.raises(InvalidRequest):
        seconds(written)


@pytest.mark.parametrize(
    ("amount", "said"),
    [
        (0, "0s"),
        (300, "5m"),
        (5400, "1h30m"),
        (86400, "24h"),
        (630, "10m30s"),
        (90.25, "1m30.25s"),
        (3600.5, "1h0.5s"),
        (0.3, "300ms"),
        (0.0015, "1.5ms"),
        (2.5e-7, "250ns"),
        (math.inf, "-1"),
        (-1, "-1"),
    ],
)
def test_text(amount: float, said: str) -> None:
    assert text(amount) == said


@given(st.integers(0, 10**15))
def test_text_reads_back_to_the_nanosecond(nanoseconds: int) -> None:
    assert round(seconds(text(nanoseconds / 1e9)) * 1e9) == pytest.approx(nanoseconds, abs=1)


@given(st.text(max_size=12))
def test_any_text_is_a_duration_or_a_bad_request(written: str) -> None:
    with contextlib.suppress(InvalidRequest):
        assert seconds(written) >= 0
