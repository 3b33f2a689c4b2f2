"""The registry against the real hub, and one real forecast: ``make test-hub``, on a connected machine."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from tests.serving import Server, series
from tollama.registry import Entry, registry

pytestmark = pytest.mark.hub
ENTRIES = [entry for entry in registry().values() if entry.source.type == "huggingface"]
SPELLED = {"research-use-only": "other", "timesfm-non-commercial-license-v1.0": "other"}
"""How the hub's cards call a licence that has no identifier of its own."""


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_an_entry_is_what_the_hub_has(entry: Entry) -> None:
    source, licence = entry.source, entry.license
    found = HfApi(token=os.environ.get("HF_TOKEN")).model_info(
        str(source.repo_id), revision=source.revision, files_metadata=True
    )
    if len(str(source.revision)) == 40:
        assert found.sha == source.revision
    files = {file.rfilename: file.size or 0 for file in found.siblings or []}
    wanted = [name for name in files if any(fnmatch.fnmatch(name, pattern) for pattern in entry.files)]
    assert any(name.endswith("config.json") for name in wanted), files
    assert any(name.endswith(".safetensors") for name in wanted), files
    if entry.size_bytes:
        assert 0.2 < sum(files[name] for name in wanted) / entry.size_bytes < 5
    told = {tag.removeprefix("license:") for tag in found.tags or [] if tag.startswith("license:")}
    if licence.verified:
        assert told & {licence.id.lower(), SPELLED.get(licence.id)}, told


@pytest.fixture(scope="module")
def connected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that pulls from the real hub."""
    home: Path = tmp_path_factory.mktemp("hub-home")
    proxies = {name: value for name, value in os.environ.items() if name.startswith("HF_")}
    with Server(home, **proxies) as running:
        yield running


def test_chronos_bolt_forecasts_a_season(connected: Server) -> None:
    name = "chronos-bolt-tiny"
    assert connected.post("/v1/models/pull", {"name": name}, timeout=570).json() == {"status": "success"}
    season = [10.0, 20.0, 30.0, 40.0] * 24
    answer = connected.forecast(model=name, horizon=8, series=[series(target=season)])
    assert answer.status_code == 200, answer.text
    (one,) = answer.json()["forecasts"]
    for step, expected in zip(one["mean"], season[:8], strict=True):
        assert abs(step - expected) < 5, one["mean"]
