"""Chronos-Bolt the whole way: pulled by the command line from a hub, loaded by its library, asked over HTTP."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Inside
from tests.hub import LoopbackHub
from tests.serving import TOLLAMA, Server, request, series, wait_for
from tollama.registry import find

NAME = "chronos-bolt-small"
TARGET = [10 + 3 * math.sin(i / 2) + i / 10 for i in range(60)]


def tollama(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(TOLLAMA), *arguments], env=server.environment, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def pulled(server: Server, checkpoint: Path) -> dict[str, Any]:
    """The model as the server shows it after ``tollama pull``."""
    missing = server.forecast(model=NAME)
    assert (missing.status_code, missing.json()["code"]) == (404, "MODEL_NOT_INSTALLED")
    assert f"tollama pull {NAME}" in missing.json()["hint"]
    done = tollama(server, "pull", NAME)
    assert done.returncode == 0, done.stderr
    shown: dict[str, Any] = server.get(f"/v1/models/{NAME}").json()
    return shown


def test_a_pulled_model_is_shown_with_its_manifest(server: Server, pulled: dict[str, Any]) -> None:
    assert (pulled["installed"], pulled["state"], pulled["family"]) == (True, "installed", "torch")
    assert pulled["manifest"]["resolved"]["commit_sha"] == find(NAME).source.revision
    assert {file["path"] for file in pulled["manifest"]["files"]} == {"config.json", "model.safetensors"}
    assert NAME in {model["name"] for model in server.get("/api/tags").json()["models"]}
    listed = tollama(server, "list")
    assert NAME in listed.stdout


def test_the_servers_numbers_are_the_librarys(
    server: Server, pulled: dict[str, Any], checkpoint: Path, inside: Inside
) -> None:
    levels = [0.1, 0.25, 0.5, 0.9]
    body = request(model=NAME, horizon=70, quantiles=levels, series=[{**series(), "target": TARGET}], keep_alive="5m")
    answer = server.post("/v1/forecast", body)
    assert answer.status_code == 200, answer.text
    (expected,), _ = inside(
        "torch",
        (
            "checks:chronos_bolt",
            {"snapshot": str(checkpoint), "series": TARGET, "horizon": 70, "levels": levels},
        ),
    )
    (forecast,) = answer.json()["forecasts"]
    assert [forecast["quantiles"][str(level)] for level in levels] == expected.astype(float).tolist()
    assert forecast["point"] == "median"
    assert forecast["mean"] == forecast["quantiles"]["0.5"]
    assert forecast["start_timestamp"] == "2026-01-01T00:00:00"
    assert any("rolled out" in warning for warning in answer.json()["warnings"])
    usage = answer.json()["usage"]
    assert (usage["runner"], usage["device"], usage["context_length"]) == ("torch", "cpu", 60)
    (held,) = [model for model in server.ps() if model["name"] == NAME]
    assert (held["family"], held["size_vram"]) == ("torch", 0)
    assert held["size"] > 0


def test_the_capabilities_of_a_loaded_model_are_its_own_word(
    server: Server, checkpoint: Path, hub: LoopbackHub
) -> None:
    name = "chronos-bolt-mini"
    config = json.loads((checkpoint / "config.json").read_text())
    config["chronos_config"]["context_length"] = 512
    files: dict[str, bytes | Path] = {path.name: path for path in checkpoint.iterdir()}
    source = find(name).source
    hub.add(str(source.repo_id), files | {"config.json": json.dumps(config).encode()}, str(source.revision))
    assert tollama(server, "pull", name).returncode == 0
    try:
        told = server.get(f"/v1/models/{name}/capabilities").json()
        assert told == find(name).capabilities.model_dump(mode="json")
        assert server.post(f"/v1/models/{name}/load", {"keep_alive": "5m"}).status_code == 200
        known = server.get(f"/v1/models/{name}/capabilities").json()
        assert known == told | {"max_context": 512}, "this one looks back less far than the registry says"
        assert server.get(f"/v1/models/{name}").json()["capabilities"] == known
    finally:
        tollama(server, "rm", name)
    assert server.get(f"/v1/models/{name}/capabilities").json() == told


def test_the_command_line_forecasts_with_it(server: Server, pulled: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_text(json.dumps(request(model=NAME, horizon=5)))
    done = tollama(server, "run", NAME, "--input", str(file), "--format", "json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["forecasts"][0]["mean"]) == 5


def test_a_repository_that_the_registry_does_not_know_forecasts_the_same(
    server: Server, pulled: dict[str, Any], checkpoint: Path, hub: LoopbackHub
) -> None:
    files: dict[str, bytes | Path] = {path.name: path for path in checkpoint.iterdir()}
    files["README.md"] = b"---\nlicense: apache-2.0\n---\n"
    hub.add("acme/Bolt", files)
    body = request(horizon=5, series=[{**series(), "target": TARGET}], keep_alive="5m")
    expected = server.post("/v1/forecast", body | {"model": NAME}).json()["forecasts"]
    done = tollama(server, "pull", "hf:acme/Bolt")
    assert done.returncode == 0, done.stderr
    assert "acme--bolt" in tollama(server, "list").stdout
    answer = server.post("/v1/forecast", body | {"model": "acme--bolt"})
    assert answer.json()["forecasts"] == expected, answer.text
    # Its branch moves: what is loaded goes on, and gives way to the new one at the next request.
    config = json.loads((checkpoint / "config.json").read_text())
    config["chronos_config"]["context_length"] = 32
    hub.add("acme/Bolt", files | {"config.json": json.dumps(config).encode()})
    (old,) = [model for model in server.ps() if model["name"] == "acme--bolt"]
    assert tollama(server, "pull", "acme--bolt").returncode == 0
    assert old["digest"] in {model["digest"] for model in server.ps()}
    answer = server.post("/v1/forecast", body | {"model": "acme--bolt"})
    assert answer.json()["usage"]["context_length"] == 32, answer.text
    held = wait_for(lambda: [m for m in server.ps() if m["name"] == "acme--bolt" and m["digest"] != old["digest"]])
    assert held[0]["context_length"] == 32
    assert tollama(server, "rm", "acme--bolt").returncode == 0


def test_a_checkpoint_of_this_machine_forecasts_the_same(
    server: Server, pulled: dict[str, Any], checkpoint: Path
) -> None:
    body = request(horizon=5, series=[{**series(), "target": TARGET}])
    expected = server.post("/v1/forecast", body | {"model": NAME}).json()["forecasts"]
    done = tollama(server, "pull", "--from-dir", str(checkpoint), "mine", "--license", "mit")
    assert done.returncode == 0, done.stderr
    assert server.get("/v1/models/mine").json()["source"]["type"] == "local"
    answer = server.post("/v1/forecast", body | {"model": "mine"})
    assert answer.json()["forecasts"] == expected, answer.text
    assert tollama(server, "rm", "mine").returncode == 0


def test_removing_it_unloads_it_first(server: Server, pulled: dict[str, Any]) -> None:
    """Last in this module."""
    assert server.forecast(model=NAME, keep_alive=-1).status_code == 200
    done = tollama(server, "rm", NAME)
    assert done.returncode == 0, done.stderr
    assert NAME not in {model["name"] for model in server.ps()}
    assert not (server.home / "models" / NAME).exists()
    gone = server.forecast(model=NAME)
    assert (gone.status_code, gone.json()["code"]) == (404, "MODEL_NOT_INSTALLED")
    wait_for(lambda: not server.processes("ServeReplica:tollama:torch"), 20, "the end of the family's process")
