"""Every model kind on the session's server, from small checkpoints that the hub on loopback has under their names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Inside
from tests.families.kinds import KINDS, PULLED, Kind
from tests.families.test_adapters import SUBJECTS
from tests.hub import LoopbackHub
from tests.serving import Server
from tollama.capabilities import Capabilities
from tollama.families import families
from tollama.registry import find
from tollama.seam import Item, ItemForecast, ModelRef, Task

TASK = Task(6, (0.1, 0.25, 0.5, 0.9), {})
TARGET = [20 + 5 * float(np.sin(i / 2)) + i / 20 for i in range(96)]


@dataclass(frozen=True)
class Alone:
    """A small checkpoint of one model, and what its adapter makes of ``TARGET`` for ``TASK`` without a server."""

    snapshot: Path
    forecast: ItemForecast


@pytest.fixture(scope="package")
def alone(inside: Inside, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Alone]:
    """By the name of the model; those of one family are made in one process."""
    found: dict[str, Alone] = {}
    item = Item("a", np.array(TARGET), "MS", 12)
    for family in sorted({find(name).family for name in PULLED}):
        names = [name for name in PULLED if find(name).family == family]
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
            task = Task(TASK.horizon, TASK.quantiles, options)
            threads = os.cpu_count()  # as the server's: another number of threads adds in another order
            check = {"target": target, "ref": ref, "item": item, "task": task, "threads": threads}
            calls.append(("checks:one", check))
        results, _ = inside(family, *calls)
        for name, forecast in zip(names, results[1::2], strict=True):
            assert isinstance(forecast, ItemForecast), (name, forecast)
            found[name] = Alone(folders[name], forecast)
    return found


@pytest.fixture(scope="package")
def pulled(server: Server, hub: LoopbackHub, alone: dict[str, Alone]) -> Iterator[None]:
    """The small checkpoints, pulled by the names of their models; removed at the end."""
    for name in PULLED:
        source = find(name).source
        files = {path.name: path for path in alone[name].snapshot.iterdir()}
        hub.add(str(source.repo_id), files, branch=str(source.revision))
        given = server.post("/v1/models/pull", {"name": name, "accept_license": True})
        assert given.json() == {"status": "success"}, given.text
    yield
    for name in PULLED:
        assert server.http.delete(f"{server.door}/v1/models/{name}", timeout=60).status_code == 200


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, server: Server, pulled: None) -> Kind:
    """Each model kind; all of a module is asked of one before the next."""
    about = server.get(f"/v1/models/{request.param}/capabilities")
    assert about.status_code == 200, about.text
    return Kind(request.param, server, Capabilities.model_validate(about.json()))
