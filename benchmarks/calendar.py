"""How long a request's checks take, in this process: the time axis of a series, and the whole of ``prepare``.

Processor time, which other people's work changes little: one thread does it all.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import bodies, report
from tollama import calendar, forecasting
from tollama.catalog import Catalog
from tollama.contract import SeriesInput
from tollama.settings import load
from tollama.store import Home

PANEL = 10_000
AXES = 50
"""Different axes in turn: more than the calendar keeps, so each is really made."""
REPEATS = 5

KINDS: dict[str, dict[str, Any]] = {
    "D": {},
    "h": {},
    "MS": {},
    "B": {},
    "W-MON": {},
    "D with an offset": {"suffix": "+02:00"},
    "D with a timezone": {"timezone": "Europe/Paris", "suffix": "+02:00"},
    "h with a timezone": {"timezone": "Europe/Paris"},
}


def main() -> int:
    """Run; the exit status."""
    options = report.arguments("calendar", "Time of the checks of a request.", url=False).parse_args()
    out = report.Report("calendar", options)
    for kind, extra in KINDS.items():
        made = [_series(kind.split()[0], number, **extra) for number in range(AXES)]
        out.row(f"one axis of 200, {kind}", _median(_axes(made)) / AXES, "ms", most=1)
    same = [_series("D", 0) for _ in range(PANEL)]
    distinct = [_series("D", number) for number in range(PANEL)]
    out.row("10,000 equal axes of 200", _median(_axes(same), 3) / 1e3, "s", most=2)
    out.row("10,000 distinct axes of 200", _median(_axes(distinct), 3) / 1e3, "s", most=2)
    with tempfile.TemporaryDirectory() as folder:
        settings = load({}, home=Path(folder))
        catalog = Catalog(Home(settings.home))

        def prepare(body: bytes) -> Callable[[], Any]:
            return lambda: forecasting.prepare(body, catalog, settings)

        small, equal, different = _body(same[:1]), _body(same), _body(distinct)
        out.row("prepare, 1 series, its axis known", _median(prepare(small), 200), "ms")
        for name, large in (("equal", equal), ("distinct", different)):
            out.row(f"prepare, {len(large) / 1e6:.0f} MB, {name} axes", _median(prepare(large), 3) / 1e3, "s")
        out.row("for comparison: json.loads of that", _median(lambda: json.loads(different), 3) / 1e3, "s")
    return out.end()


def _series(freq: str, first: int, suffix: str = "", timezone: str | None = None) -> SeriesInput:
    """200 timestamps of a frequency, from ``first`` steps after the beginning of May 2020."""
    stamps = pd.date_range(datetime(2020, 5, 4), periods=first % 2000 + bodies.LENGTH, freq=freq)[first % 2000 :]
    texts = [f"{stamp.isoformat()}{suffix}" for stamp in stamps]
    if first >= 2000:  # another time of day is another axis too
        texts = [text.replace("T00:00:00", f"T00:{first // 2000:02}:00") for text in texts]
    return SeriesInput(id=f"s{first}", target=[*bodies.values(seed=first)], timestamps=texts, timezone=timezone)


def _axes(panel: list[SeriesInput]) -> Callable[[], None]:
    def work() -> None:
        for series in panel:
            calendar.grid(series).future(bodies.HORIZON)

    return work


def _body(panel: list[SeriesInput]) -> bytes:
    rows = [
        {"id": f"s{number}", "target": one.target, "timestamps": one.timestamps} for number, one in enumerate(panel)
    ]
    return json.dumps({"model": "mock", "horizon": bodies.HORIZON, "series": rows}).encode()


def _median(work: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Median milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times) * 1e3


if __name__ == "__main__":
    raise SystemExit(main())
