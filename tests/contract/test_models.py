"""Models over HTTP: list, show, pull, remove, and what Ollama's clients read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from tests.contract.checks import lines, refused
from tests.hub import LoopbackHub
from tests.serving import Server, request
from tollama.manifest import SCHEMA
from tollama.registry import find
from tollama.version import __version__

NAME = "chronos-bolt-tiny"
FILES: dict[str, bytes | Path] = {
    "config.json": b"{}",
    "model.safetensors": b"weights" * 50_000,
    "README.md": b"not wanted",
}


@pytest.fixture
def commit(hub: LoopbackHub, api: httpx.Client) -> Iterator[str]:
    """The model's repository on the hub, at the revision that the registry names; removed from the server after."""
    source = find(NAME).source
    yield hub.add(str(source.repo_id), FILES, str(source.revision))
    api.delete(f"/v1/models/{NAME}")


def test_root_and_version(api: httpx.Client) -> None:
    assert api.get("/").text == "tollama is running"
    assert api.head("/").status_code == 200
    assert api.get("/api/version").json() == {"version": __version__}
    assert api.head("/api/version").status_code == 200
    for path in ("/v1/health", "/health/live"):
        assert api.get(path).json() == {"status": "ok"}


def test_readiness_tells_each_check(api: httpx.Client) -> None:
    answer = api.get("/health/ready")
    assert answer.status_code == 200
    checks = answer.json()["checks"]
    assert [checks[name] for name in ("ingress", "store", "disk")] == ["ok", "ok", "ok"]
    assert checks["families"]["mock"] in ("ready", "idle", "starting")
    assert set(checks["families"]) >= {"mock", "baseline", "torch"}


def test_a_broken_manifest_harms_no_other(api: httpx.Client, server: Server) -> None:
    folder = server.home / "models" / "broken"
    folder.mkdir()
    try:
        (folder / "manifest.json").write_text("{")
        names = {model["name"] for model in api.get("/v1/models").json()["installed"]}
        assert {"mock", "narrow"} <= names
        assert "broken" not in names
        assert "narrow" in {model["name"] for model in api.get("/api/tags").json()["models"]}
        refused(api.post("/v1/forecast", json=request(model="broken")), 404, "MODEL_NOT_FOUND")
    finally:
        shutil.rmtree(folder)


def test_models(api: httpx.Client) -> None:
    found = api.get("/v1/models").json()
    assert set(found) == {"available", "installed"}
    for model in (*found["available"], *found["installed"]):
        assert set(model) == {
            "name",
            "family",
            "source",
            "license",
            "capabilities",
            "installed",
            "state",
            "runtime",
        }
        assert set(model["source"]) >= {"type", "repo_id", "revision"}
        assert set(model["runtime"]) == {"installed", "ready"}
    available = {model["name"]: model for model in found["available"]}
    installed = {model["name"]: model for model in found["installed"]}
    assert {"mock", "narrow", "ghost"} <= set(installed)
    assert all(model["installed"] for model in installed.values())
    assert NAME not in installed
    assert (available[NAME]["installed"], available[NAME]["state"]) == (False, "available")
    assert available["mock"]["runtime"] == {"installed": True, "ready": True}
    assert installed["ghost"]["runtime"] == {"installed": False, "ready": False}


def test_one_model(api: httpx.Client) -> None:
    found = api.get("/v1/models/Mock").json()
    assert found["name"] == "mock"
    assert found["state"] in ("installed", "loading", "loaded")
    assert "manifest" not in found
    shown = api.get("/v1/models/narrow").json()
    assert shown["manifest"]["name"] == "narrow"
    assert shown["manifest"]["schema_version"] == SCHEMA
    assert shown["capabilities"] == api.get("/v1/models/narrow/capabilities").json()


def test_capabilities(api: httpx.Client) -> None:
    found = api.get("/v1/models/narrow/capabilities").json()
    assert (found["max_context"], found["min_context"], found["max_horizon"]) == (16, 5, 8)
    assert found["quantiles"] == {"native": [0.2, 0.5, 0.8], "arbitrary": True, "method": "interpolated"}
    assert set(found["covariates"]) == {
        "past_numeric",
        "past_categorical",
        "future_numeric",
        "future_categorical",
        "static",
    }
    assert {"missing_values", "multivariate", "deterministic"} <= set(found)
    assert found["point"] == "median"
    assert found["options"]["context_length"]["maximum"] == 16
    for model in api.get("/v1/models").json()["available"]:
        assert {"seed", "extrapolate_quantiles"} <= set(model["capabilities"]["options"]), model["name"]


def test_pull_use_and_remove(api: httpx.Client, commit: str) -> None:
    answer = api.post("/v1/models/pull", json={"name": NAME, "no_runtime": True})
    assert answer.json() == {"status": "success"}
    shown = api.get(f"/v1/models/{NAME}").json()
    assert (shown["installed"], shown["state"]) == (True, "installed")
    manifest = shown["manifest"]
    assert manifest["resolved"]["commit_sha"] == commit
    assert {file["path"]: file["size"] for file in manifest["files"]} == {
        "config.json": 2,
        "model.safetensors": 350_000,
    }
    assert api.post("/api/validate", json=request(model=NAME)).json()["valid"] is True
    (tag,) = (model for model in api.get("/api/tags").json()["models"] if model["name"] == NAME)
    assert set(tag) == {"name", "model", "modified_at", "size", "digest", "details"}
    assert tag["size"] == 350_002
    assert len(bytes.fromhex(tag["digest"])) == 32
    assert datetime.fromisoformat(tag["modified_at"]).tzinfo is not None
    assert set(tag["details"]) == {
        "parent_model",
        "format",
        "family",
        "families",
        "parameter_size",
        "quantization_level",
    }
    assert api.delete(f"/v1/models/{NAME}").json() == {"removed": True, "name": NAME}
    refused(api.delete(f"/v1/models/{NAME}"), 404, "MODEL_NOT_INSTALLED")
    assert api.get(f"/v1/models/{NAME}").json()["state"] == "available"
    assert NAME not in {model["name"] for model in api.get("/api/tags").json()["models"]}
    refused(api.post("/v1/forecast", json=request(model=NAME)), 404, "MODEL_NOT_INSTALLED")


def test_a_pull_tells_what_ollamas_clients_expect(api: httpx.Client, commit: str) -> None:
    body = {"model": NAME, "no_runtime": True, "insecure": False}
    with api.stream("POST", "/api/pull", json=body) as answer:
        came = list(lines(answer))
    statuses = list(dict.fromkeys(line["status"] for line in came))
    assert statuses[0] == "pulling manifest"
    assert statuses[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
    layers = [line for line in came if "digest" in line]
    assert {line["status"] for line in layers} == set(statuses[1:-3])
    assert all(line["status"] == f"pulling {line['digest'].partition(':')[2][:12]}" for line in layers)
    weights = [line["completed"] for line in layers if line["total"] == 350_000]
    assert weights == sorted(weights)
    assert (weights[0], weights[-1]) == (0, 350_000) if len(weights) > 1 else weights == [350_000]
    again = api.post("/api/pull", json={**body, "stream": False})
    assert again.json() == {"status": "success"}
    assert json.loads(api.get(f"/v1/models/{NAME}").text)["manifest"]["resolved"]["commit_sha"] == commit


def test_a_pull_accepts_a_licence_once(api: httpx.Client, hub: LoopbackHub, server: Server) -> None:
    name = "moirai-1.0-r-small"
    source = find(name).source
    hub.add(str(source.repo_id), FILES, str(source.revision))
    body = {"name": name, "no_runtime": True}
    try:
        refused(api.post("/v1/models/pull", json=body), 409, "LICENSE_NOT_ACCEPTED")
        assert api.get(f"/v1/models/{name}").json()["installed"] is False
        assert api.post("/v1/models/pull", json={**body, "accept_license": True}).json() == {"status": "success"}
        assert api.get(f"/v1/models/{name}").json()["manifest"]["license"]["accepted"] is True
        api.delete(f"/v1/models/{name}")
        # The receipt outlives the model: what is missed now are the files.
        refused(api.post("/v1/forecast", json=request(model=name)), 404, "MODEL_NOT_INSTALLED")
    finally:
        api.delete(f"/v1/models/{name}")
        (server.home / "licenses" / f"{name}.json").unlink(missing_ok=True)


@pytest.mark.parametrize("path", ["/v1/models/pull", "/api/pull"])
@pytest.mark.parametrize(
    "body",
    [{}, {"name": ""}, {"name": 5}, {"name": NAME, "colour": 1}, {"name": NAME, "accept_license": "yes"},
     {"name": NAME, "revision": "../x"}, {"name": NAME, "stream": 1}, {"name": NAME, "endpoint": "file:///etc"}],
)  # fmt: skip
def test_a_broken_pull(api: httpx.Client, path: str, body: dict[str, object]) -> None:
    found = refused(api.post(path, json=body), 400, "INVALID_REQUEST")
    assert all(set(fault) == {"loc", "msg", "type"} for fault in found["detail"])


def test_a_broken_manifest_is_reported_harms_nothing_and_can_be_removed(server: Server, api: httpx.Client) -> None:
    folder = server.home / "models/chronos-bolt-base"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{")
    (broken,) = api.get("/v1/models").json()["broken"]
    assert broken["name"] == "chronos-bolt-base"
    assert "malformed" in broken["reason"]
    assert api.post("/v1/forecast", json=request()).status_code == 200
    assert api.delete("/v1/models/chronos-bolt-base").status_code == 200
    assert not folder.exists()
    assert "broken" not in api.get("/v1/models").json()


def test_tags_take_head(api: httpx.Client) -> None:
    assert api.head("/api/tags").status_code == 200
