"""The requests that are sent."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

LENGTH = 200
HORIZON = 24


def days(count: int = LENGTH, first: int = 0) -> list[str]:
    """Daily timestamps, the first one ``first`` days after 2020-01-01."""
    start = datetime(2020, 1, 1) + timedelta(days=first)
    return [(start + timedelta(days=day)).isoformat() for day in range(count)]


def values(count: int = LENGTH, seed: int = 0) -> list[float]:
    """A trend with a weekly season, the same for the same ``seed``."""
    return [round(100 + 0.1 * step + 10 * ((step + seed) % 7) + (step * 7919 + seed) % 13, 2) for step in range(count)]


def forecast(model: str = "mock", series: int = 1, length: int = LENGTH, **changes: Any) -> bytes:
    """A forecast request: ``series`` daily series of ``length`` points with timestamps, horizon 24."""
    stamps = days(length)
    panel = [{"id": f"s{at}", "target": values(length, seed=at), "timestamps": stamps} for at in range(series)]
    return json.dumps({"model": model, "horizon": HORIZON, "series": panel, **changes}).encode()
