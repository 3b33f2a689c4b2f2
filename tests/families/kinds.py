"""The model kinds on the session's server: what each says that it can do, and questions to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from tests.contract.checks import refused
from tests.families.test_adapters import SUBJECTS
from tests.serving import Server
from tollama.capabilities import Capabilities

KINDS = tuple(name for name in SUBJECTS if name != "timesfm-2.5-200m")
"""Its library fixes the shape of TimesFM 2.5 in code: a server takes the real size only, 925 MB."""
PULLED = tuple(name for name in KINDS if SUBJECTS[name].checkpoint)

Body = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """One model on the server; ``can`` is what the server says of it."""

    name: str
    server: Server
    can: Capabilities

    def ask(self, *series: Body, path: str = "/v1/forecast", **changes: Any) -> httpx.Response:
        """The answer to a request, of two samples where the model samples."""
        few = {"num_samples": 2} if "num_samples" in self.can.options else {}
        options = few | changes.pop("options", {})
        body = {"model": self.name, "horizon": 4, "series": list(series), "options": options, **changes}
        return self.server.post(path, body)

    def answer(self, *series: Body, **changes: Any) -> Body:
        """The same, which has to be 200."""
        given = self.ask(*series, **changes)
        assert given.status_code == 200, given.text[:500]
        body: Body = given.json()
        return body

    def refuse(self, *series: Body, code: str = "UNSUPPORTED_BY_MODEL", **changes: Any) -> Body:
        """The same, which has to be 400 with this code."""
        return refused(self.ask(*series, **changes), 400, code)


def waves(steps: int, season: int = 12) -> list[float]:
    """A level of 50 with a trend, a season and noise."""
    at = np.arange(steps)
    noise = np.random.default_rng(7).normal(size=steps)
    values: list[float] = (50 + at / 20 + 8 * np.sin(2 * np.pi * at / season) + noise).round(6).tolist()
    return values


def numbers(forecast: Body) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The point and the quantiles of a forecast, (1 + Q, H), if they are finite and do not cross."""
    assert "error" not in forecast, forecast
    values = np.array([forecast["mean"], *forecast["quantiles"].values()])
    assert np.isfinite(values).all(), forecast
    assert (np.diff(values[1:], axis=0) >= 0).all(), forecast
    return values
