"""Every model kind the whole way: pulled by name, asked over HTTP, and equal to its adapter alone.

The adapters' own tests hold each adapter to its library, difference 0. Here the server is held to the adapter: same
files, same series, the same numbers, alone and beside others, and a first date that follows the last.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Inside
from tests.families.test_adapters import SUBJECTS
from tests.hub import LoopbackHub
from tests.serving import Server
from tollama.families import families
from tollama.registry import find
from tollama.seam import Item, ItemForecast, ModelRef, Task

HORIZON = 6
LEVELS = (0.1, 0.25, 0.5, 0.9)
TARGET = [20 + 5 * float(np.sin(i / 2)) + i / 20 for i in range(96)]
NAMES = [subject.name for subject in SUBJECTS.values() if subject.checkpoint and subject.name != "timesfm-2.5-200m"]
"""Its library fixes the shape of TimesFM 2.5 in code: a server takes the real size only, 925 MB."""


@dataclass(frozen=True)
class Alone:
    """A small checkpoint of one model, and what its adapter makes of the series without a server."""

    snapshot: Path
    forecast: ItemForecast


@pytest.fixture(scope="module")
def alone(inside: Inside, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Alone]:
    found: dict[str, Alone] = {}
    item = Item("a", np.array(TARGET), "MS", 12)
    for family in sorted({find(name).family for name in NAMES}):
        names = [name for name in NAMES if find(name).family == family]
        calls: list[tuple[str, dict[str, Any]]] = []
        folders = {}
        for name in names:
            entry = find(name)
            module, _, checkpoint = str(SUBJECTS[name].checkpoint).partition(":")
            folders[name] = tmp_path_factory.mktemp(name) / "snapshot"
            options = {key: option.default for key, option in entry.capabilities.options.items()}
            if "context_length" in options:
                options["context_length"] = entry.capabilities.max_context
            snapshot = str(folders[name])
            ref = ModelRef(name, family, entry.adapter, snapshot, "0" * 64, entry.capabilities)
            target = families()[family].adapters[entry.adapter]
            calls.append((f"{module}:build", {"name": checkpoint, "folder": snapshot}))
            task = Task(HORIZON, LEVELS, options)
            threads = os.cpu_count()  # as the server's: another number of threads adds in another order
            check = {"target": target, "ref": ref, "item": item, "task": task, "threads": threads}
            calls.append(("checks:one", check))
        results, _ = inside(family, *calls)
        for name, forecast in zip(names, results[1::2], strict=True):
            assert isinstance(forecast, ItemForecast), (name, forecast)
            found[name] = Alone(folders[name], forecast)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_server_gives_the_adapters_numbers(
    name: str, server: Server, hub: LoopbackHub, alone: dict[str, Alone]
) -> None:
    source = find(name).source
    files = {path.name: path for path in alone[name].snapshot.iterdir()}
    hub.add(str(source.repo_id), files, branch=str(source.revision))
    pulled = server.post("/v1/models/pull", {"name": name, "accept_license": True})
    assert pulled.json() == {"status": "success"}, pulled.text
    series = {"id": "a", "target": TARGET, "start": "2020-01-01", "freq": "MS"}
    body = {"model": name, "horizon": HORIZON, "quantiles": list(LEVELS), "series": [series], "keep_alive": 0}
    try:
        answer = server.post("/v1/forecast", body)
        assert answer.status_code == 200, answer.text
        (forecast,) = answer.json()["forecasts"]
        expected = alone[name].forecast
        assert forecast["mean"] == expected.mean.tolist()
        assert [forecast["quantiles"][str(level)] for level in LEVELS] == expected.quantiles.tolist()
        assert (forecast["freq"], forecast["start_timestamp"]) == ("MS", "2028-01-01T00:00:00")
        others = [{**series, "id": "b", "target": TARGET[:50]}, {**series, "id": "c", "target": [5.0] * 30}]
        panel = server.post("/v1/forecast", {**body, "series": [others[0], series, others[1]]})
        assert panel.status_code == 200, panel.text
        beside = panel.json()["forecasts"][1]
        np.testing.assert_allclose(beside["mean"], expected.mean, rtol=1e-5)
    finally:
        assert server.http.delete(f"{server.door}/v1/models/{name}", timeout=60).status_code == 200
