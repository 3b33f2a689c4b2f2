"""Charts are looked at by people; here: that they hold what they should and survive odd series."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tollama.charts import Fan, fan_chart, terminal
from tollama.errors import InvalidRequest

START = datetime(2024, 1, 1)


def fan(history: int = 100, horizon: int = 12, levels: tuple[float, ...] = (0.1, 0.5, 0.9)) -> Fan:
    times = [START + timedelta(days=day) for day in range(history + horizon)]
    mean = [float(step % 7) for step in range(horizon)]
    quantiles = {level: [value + level for value in mean] for level in levels}
    values = [float(day % 7) for day in range(history)]
    return Fan("sales (naive)", times[:history], values, times[history:], mean, quantiles)


def test_bands_are_nested_widest_first_and_unpaired_levels_have_none() -> None:
    labels = [label for label, _, _ in fan(levels=(0.05, 0.1, 0.2, 0.5, 0.9, 0.95)).bands()]
    assert labels == ["90 %", "80 %"]


def test_the_line_is_the_median_when_there_is_one() -> None:
    assert fan().middle() == ("median", fan().quantiles[0.5])
    assert fan(levels=()).middle() == ("mean", fan().mean)


def test_recent_history_only() -> None:
    assert len(fan(history=1000, horizon=24).recent().history) == 96
    assert len(fan(history=1000, horizon=1).recent().history) == 48


def test_terminal_chart() -> None:
    shown = terminal(fan(), width=70, height=16, color=False)
    lines = shown.splitlines()
    assert len(lines) == 16
    assert max(map(len, lines)) <= 70
    for fact in ("sales (naive)", "80 %", "history", "median", "░", "2024-04-21"):
        assert fact in shown
    assert "\x1b" not in shown
    assert "\x1b[48" not in terminal(fan(), 70, 16), "a background would not suit every terminal"
    assert re.sub(r"\x1b\[[0-9;]*m", "", terminal(fan(), 70, 16)).split() == shown.split()


def test_hours_are_shown_for_series_within_days() -> None:
    one = fan(history=3, horizon=1)
    hourly = Fan(one.title, [START + timedelta(hours=h) for h in range(3)], one.history, [START], one.mean)
    assert "01-01 02:00" in terminal(hourly, color=False)


@pytest.mark.parametrize(
    "odd",
    [
        fan(history=1, horizon=1),
        fan(levels=()),
        Fan("gap", [START, START + timedelta(1)], [float("nan")] * 2, [START + timedelta(2)], [1.0]),
        Fan("flat", [START, START + timedelta(1)], [3.0, 3.0], [START + timedelta(2)], [3.0], {0.1: [3.0], 0.9: [3.0]}),
        Fan("huge", [START, START + timedelta(1)], [1e300, -1e300], [START + timedelta(2)], [1e300]),
    ],
    ids=["one point", "no quantiles", "all missing", "flat", "huge"],
)
@pytest.mark.filterwarnings("error")
def test_odd_series(odd: Fan, tmp_path: Path) -> None:
    assert odd.title in terminal(odd, color=False)
    fan_chart([odd], tmp_path / "odd.png")
    assert (tmp_path / "odd.png").stat().st_size > 5_000


def test_fan_chart_file(tmp_path: Path) -> None:
    fan_chart([fan(), fan(levels=())], tmp_path / "two.png")
    data = (tmp_path / "two.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    width, height = (int.from_bytes(data[start : start + 4], "big") for start in (16, 20))
    assert (width, height) == (1200, 1008)
    fan_chart([fan()], tmp_path / "one.svg")
    assert "<svg" in (tmp_path / "one.svg").read_text()[:1000]
    with pytest.raises(InvalidRequest, match="cannot be written as"):
        fan_chart([fan()], tmp_path / "one.xyz")
