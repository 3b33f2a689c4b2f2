"""Every model kind the whole way: pulled by name, asked over HTTP, and equal to its adapter alone.

The adapters' own tests hold each adapter to its library, difference 0. Here the server is held to the adapter: same
files, same series, the same numbers, alone and beside others, and a first date that follows the last.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.families.conftest import TARGET, TASK, Alone
from tests.families.kinds import PULLED
from tests.serving import Server


@pytest.mark.parametrize("name", PULLED)
def test_the_server_gives_the_adapters_numbers(
    name: str, server: Server, alone: dict[str, Alone], pulled: None
) -> None:
    series = {"id": "a", "target": TARGET, "start": "2020-01-01", "freq": "MS"}
    levels = list(TASK.quantiles)
    body = {"model": name, "horizon": TASK.horizon, "quantiles": levels, "series": [series], "keep_alive": 0}
    answer = server.post("/v1/forecast", body)
    assert answer.status_code == 200, answer.text
    (forecast,) = answer.json()["forecasts"]
    expected = alone[name].forecast
    assert forecast["mean"] == expected.mean.tolist()
    assert [forecast["quantiles"][str(level)] for level in levels] == expected.quantiles.tolist()
    assert (forecast["freq"], forecast["start_timestamp"]) == ("MS", "2028-01-01T00:00:00")
    others = [{**series, "id": "b", "target": TARGET[:50]}, {**series, "id": "c", "target": [5.0] * 30}]
    panel = server.post("/v1/forecast", {**body, "series": [others[0], series, others[1]]})
    assert panel.status_code == 200, panel.text
    beside = panel.json()["forecasts"][1]
    np.testing.assert_allclose(beside["mean"], expected.mean, rtol=1e-5)
