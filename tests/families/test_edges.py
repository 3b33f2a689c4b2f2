"""Series at the edges, asked of every model kind on the server: finite numbers, and no harm to a neighbour."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.families.kinds import Body, Kind, numbers, waves
from tests.families.test_adapters import SUBJECTS

Values = list[Any]

PLAIN: Values = waves(120)
WAVES = np.array(waves(100))


def gaps(*missing: slice) -> Values:
    values = list(PLAIN)
    for where in missing:
        values[where] = [None] * len(values[where])
    return values


MISSING = {
    "gaps inside": gaps(slice(20, 21), slice(50, 57)),
    "leading": gaps(slice(0, 30)),
    "trailing": gaps(slice(115, 120)),
    "one value": gaps(slice(0, 70), slice(71, 120)),
}
EDGES: dict[str, Values] = {
    "plain": PLAIN,
    "constant": [5.0] * 60,
    "zeros": [0.0] * 60,
    **{f"length {length}": waves(length) for length in range(1, 6)},
    **MISSING,
    "times 1e30": (WAVES * 1e30).tolist(),
    "times -1e30": (WAVES * -1e30).tolist(),
    "of both signs": ((WAVES - 54) * 1e30).tolist(),
    "times 1e-30": (WAVES * 1e-30).tolist(),
    "plus 1e9": (1e9 + WAVES).tolist(),
    "times 1e300": (WAVES * 1e300).tolist(),
    "one spike": [*WAVES[:60].tolist(), 1e30, *WAVES[61:].tolist()],
    "whole numbers": [int(value) for value in WAVES],
}
NOTHING: Values = [None] * 40
END: Values = [1.7e308 * (-1) ** step for step in range(60)]
"""At the end of float64: what a model expects may well lie beyond it."""
LEVELS = {"constant": 5.0, "zeros": 0.0, "one value": PLAIN[70]}


def series(name: str, target: Values) -> Body:
    return {"id": name, "target": target, "start": "1700-01-01", "freq": "D"}


def test_no_edge_spoils_a_forecast_or_its_neighbours(kind: Kind) -> None:
    limit = kind.can.max_context
    cases = EDGES | {"all missing": NOTHING, "at the end": END, "over the limit": waves(limit + 7)}
    panel = [series(name, target) for name, target in cases.items()]
    found = kind.answer(*panel, response_options={"partial": True})
    forecasts = {forecast["id"]: forecast for forecast in found["forecasts"]}
    assert list(forecasts) == list(cases)

    refused = forecasts.pop("all missing")["error"]
    assert refused["code"] == "INVALID_SERIES"
    assert "'all missing' holds no value" in refused["error"]
    if "error" in forecasts["at the end"]:
        assert forecasts.pop("at the end")["error"]["code"] == "RUNNER_FAILED"

    assert kind.can.min_context == 1  # so even the shortest series is answered
    for name, forecast in forecasts.items():
        values, known = numbers(forecast), [abs(value) for value in cases[name] if value is not None]
        assert values.shape == (4, 4)
        assert np.abs(values[0] / (max(known) or 1.0)).max() < 100, name
    for name, level in LEVELS.items():
        near = SUBJECTS[kind.name].near
        np.testing.assert_allclose(forecasts[name]["mean"], level, rtol=near, atol=near, err_msg=name)
    np.testing.assert_allclose(forecasts["plus 1e9"]["mean"], 1e9, rtol=1e-4)

    assert found["usage"]["context_length"] == limit
    (cut,) = (warning for warning in found["warnings"] if "cut to its newest" in warning)
    assert f"'over the limit': the history was cut to its newest {limit} of {limit + 7} steps" in cut
    filled = {name for name in cases if any(f"'{name}'" in w and "were filled" in w for w in found["warnings"])}
    assert filled == (set() if kind.can.missing_values else set(MISSING))

    whole = [float(value) for value in EDGES["whole numbers"]]
    for alone in (series("plain", PLAIN), series("whole numbers", whole)):
        (forecast,) = kind.answer(alone)["forecasts"]
        np.testing.assert_allclose(numbers(forecasts[alone["id"]]), numbers(forecast), rtol=1e-5)


def test_a_series_without_values_is_refused_by_name(kind: Kind) -> None:
    refused = kind.refuse(series("plain", PLAIN), series("all missing", NOTHING), code="INVALID_SERIES")
    assert "'all missing'" in refused["error"]
    assert refused["detail"]["series"] == "all missing"


def test_gaps_of_the_time_axis_are_missing_values(kind: Kind) -> None:
    days = [day for day in range(1, 32) if day not in (9, 20, 21)]
    stamps = [f"2024-01-{day:02}" for day in days]
    explicit: Values = [None if day not in days else float(day % 7) for day in range(1, 32)]
    gappy = {"id": "a", "target": [value for value in explicit if value is not None], "timestamps": stamps}
    found = kind.answer(gappy)
    told = kind.answer({"id": "a", "target": explicit, "start": "2024-01-01", "freq": "D"})
    assert any("3 missing step(s)" in warning for warning in found["warnings"])
    assert found["forecasts"] == told["forecasts"]
