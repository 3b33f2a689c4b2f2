"""A forecast as a picture: a chart in the terminal (plotext), a fan chart in a file (matplotlib)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tollama.errors import InvalidRequest

if TYPE_CHECKING:
    from tollama.contract import SeriesForecast

HISTORY_PER_STEP = 4
"""History shown, as a multiple of the horizon: enough to judge the forecast by, not so much that it is squeezed."""

LEAST_HISTORY = 48


@dataclass(frozen=True, slots=True)
class Fan:
    """One series to draw: history (T points, NaN is missing), forecast (H points) and its quantiles, each H long."""

    title: str
    past: Sequence[datetime]
    history: Sequence[float]
    future: Sequence[datetime]
    mean: Sequence[float]
    quantiles: Mapping[float, Sequence[float]] = field(default_factory=dict)
    point: str = "mean"

    @classmethod
    def of(cls, series: Mapping[str, Any], forecast: SeriesForecast, model: str) -> Self:
        """The chart of a request's ``series`` and of its ``forecast`` by ``model``."""
        from tollama import frames

        past, history = frames.points(series, forecast)
        levels = {float(level): values for level, values in forecast.quantiles.items()}
        title = f"{forecast.id} ({model})"
        return cls(title, past, history, frames.clocks(forecast), forecast.mean, levels, forecast.point)

    def recent(self) -> Fan:
        """The same with the last part of the history only."""
        keep = max(LEAST_HISTORY, HISTORY_PER_STEP * len(self.mean))
        return Fan(
            self.title, self.past[-keep:], self.history[-keep:], self.future, self.mean, self.quantiles, self.point
        )

    def bands(self) -> list[tuple[str, Sequence[float], Sequence[float]]]:
        """Label, lower and upper edge of each central band, widest first: the pairs of levels q and 1 - q."""
        found = []
        for low in sorted(level for level in self.quantiles if level < 0.5):
            high = next((level for level in self.quantiles if abs(level + low - 1) < 1e-9), None)
            if high is not None:
                found.append((f"{100 * (high - low):.3g} %", self.quantiles[low], self.quantiles[high]))
        return found

    def middle(self) -> tuple[str, Sequence[float]]:
        """The line to draw through the fan: the median when it was asked for, else the point forecast."""
        return ("median", self.quantiles[0.5]) if 0.5 in self.quantiles else (self.point, self.mean)


def terminal(fan: Fan, width: int = 80, height: int = 18, *, color: bool = True) -> str:
    """The last part of the history and the forecast as lines of text, its widest band shaded."""
    import plotext  # type: ignore[import-untyped]

    fan = fan.recent()
    past = len(fan.history)
    ahead = np.arange(past, past + len(fan.mean), dtype=float)
    figure: Any = plotext.figure
    figure.clear()
    figure.theme("simple")
    figure.plot_size(width, height)
    line, middle = fan.middle()
    bands = fan.bands()
    heights = [
        value for part in (fan.history, middle, *(edge for band in bands[:1] for edge in band[1:])) for value in part
    ]
    now = figure.signal([past - 0.5] * 2, [np.nanmin(heights), np.nanmax(heights)], marker=plotext.marker("┊", "gray"))
    figure.draw(now.lines())
    shade = f", ░ {bands[0][0]}" if bands else ""
    figure.title(f"{fan.title}: history ┊ {line}{shade}")  # plotext's own legend would hide the history behind it
    if bands:
        _, low, high = bands[0]
        steps = np.linspace(ahead[0], ahead[-1], 2 * width)  # a point per half column: no gaps between them
        lower, upper = (
            figure.signal(steps.tolist(), np.interp(steps, ahead, edge).tolist(), marker=plotext.marker("░", "cyan"))
            for edge in (low, high)
        )
        lower.fill(upper)
        lower.density("full")
        figure.draw(lower)
    known = [(step, value) for step, value in enumerate(fan.history) if value == value]
    for xs, ys, paint in (
        ([step for step, _ in known], [value for _, value in known], "green"),
        (ahead.tolist(), list(middle), "magenta"),
    ):
        figure.draw(figure.signal(xs, ys, marker=plotext.marker("braille", paint)).lines())
    times = [*fan.past, *fan.future]
    ticks = np.linspace(0, len(times) - 1, 5).round().astype(int).tolist()
    figure.ruler("x").ticks(ticks, [_tick(times, step) for step in ticks])
    return str(figure.build().string(colorless=not color)).rstrip()


def _tick(times: Sequence[datetime], step: int) -> str:
    whole_days = all(time.hour == time.minute == time.second == 0 for time in times)
    return times[step].strftime("%Y-%m-%d" if whole_days else "%m-%d %H:%M")


def fan_chart(fans: Sequence[Fan], path: Path) -> None:
    """Write a fan chart of each series, one above the other, to ``path``; its suffix (png, svg, pdf) is the format."""
    from matplotlib import dates as mdates
    from matplotlib.figure import Figure

    dates: Any = mdates  # matplotlib's dates are not typed
    figure = Figure(figsize=(10, 4.2 * len(fans)), dpi=120, layout="constrained")
    for axes, whole in zip(figure.subplots(len(fans), squeeze=False)[:, 0], fans, strict=True):
        fan = whole.recent()
        axes.plot(fan.past, fan.history, color="#333333", linewidth=1.3, label="history")
        bands = fan.bands()
        for depth, (label, low, high) in enumerate(bands, 1):
            shade = 0.14 + 0.3 * depth / len(bands)
            axes.fill_between(fan.future, low, high, color="#1f77b4", alpha=shade, linewidth=0, label=label)
        label, middle = fan.middle()
        axes.plot(fan.future, middle, color="#0b3c6f", linewidth=1.8, label=label)
        axes.axvline(fan.past[-1] + (fan.future[0] - fan.past[-1]) / 2, color="#999999", linewidth=0.9, linestyle="--")
        locator = dates.AutoDateLocator()
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
        axes.set_title(fan.title, loc="left", fontsize=12)
        axes.grid(color="#e5e5e5", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False, ncols=2 + len(bands), fontsize=9)
    try:
        figure.savefig(path)
    except ValueError:
        raise InvalidRequest(f"A chart cannot be written as '{path.suffix}'.", hint="Use .png, .svg or .pdf.") from None
