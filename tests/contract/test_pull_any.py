"""Pulls of any repository of the hub over HTTP, and licences that have to be accepted first."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.checks import lines, refused
from tests.hub import LoopbackHub, safetensors
from tests.serving import Server, request
from tests.unit.test_architectures import BOLT

REPO = "acme/bolt"
NAME = "acme--bolt"
FILES: dict[str, bytes | Path] = {
    "config.json": json.dumps(BOLT).encode(),
    "model.safetensors": safetensors(50_000),
    "README.md": b"---\nlicense: mit\n---\n",
}


@pytest.fixture
def offered(hub: LoopbackHub, server: Server, api: httpx.Client) -> Iterator[LoopbackHub]:
    """The hub with the repository; the server is without the model, its receipt and what came with it afterwards."""
    hub.add(REPO, FILES)
    yield hub
    hub.gated.clear()
    api.delete(f"/v1/models/{NAME}")
    (server.home / "licenses" / f"{NAME}.json").unlink(missing_ok=True)
    shutil.rmtree(server.home / "cache", ignore_errors=True)


def pull(api: httpx.Client, path: str = "/v1/models/pull", **body: Any) -> httpx.Response:
    return api.post(path, json={"name": f"hf:{REPO}", "no_runtime": True, **body})


@pytest.mark.parametrize("path", ["/v1/models/pull", "/api/pull"])
def test_a_repository_is_listed_shown_and_removed_as_any_model(
    api: httpx.Client, offered: LoopbackHub, path: str
) -> None:
    with api.stream("POST", path, json={"model": f"hf:{REPO}", "no_runtime": True, "stream": True}) as answer:
        came = list(lines(answer))
    assert came[0] == {"status": "pulling manifest"}
    assert came[-1] == {"status": "success"}
    shown = api.get(f"/v1/models/{NAME}").json()
    assert (shown["state"], shown["family"], shown["capabilities"]["max_context"]) == ("installed", "torch", 2048)
    assert shown["source"] == {"type": "huggingface", "repo_id": REPO, "revision": "main"}
    assert (shown["license"]["id"], shown["license"]["accepted"]) == ("MIT", True)
    assert NAME in {model["name"] for model in api.get("/v1/models").json()["installed"]}
    assert NAME not in {model["name"] for model in api.get("/v1/models").json()["available"]}
    (tag,) = [model for model in api.get("/api/tags").json()["models"] if model["name"] == NAME]
    assert (tag["details"]["parameter_size"], tag["details"]["format"]) == ("50K", "safetensors")
    valid = api.post("/api/validate", json=request(model="Acme--Bolt"))
    assert valid.json()["valid"] is True, valid.text
    assert api.delete(f"/v1/models/{NAME}").json() == {"removed": True, "name": NAME}
    refused(api.post("/v1/forecast", json=request(model=NAME)), 404, "MODEL_NOT_FOUND")


def test_a_name_of_ones_own(api: httpx.Client, offered: LoopbackHub) -> None:
    offered.add(REPO, FILES, "v2")
    assert pull(api, name=f"hf:{REPO}@v2", local_name="Mine").json() == {"status": "success"}
    assert api.get("/v1/models/mine").json()["source"]["revision"] == "v2"
    assert api.delete("/v1/models/mine").status_code == 200


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"name": "hf:nonsense"}, "INVALID_REQUEST"),
        ({"local_name": "../x"}, "INVALID_REQUEST"),
        ({"local_name": "mock"}, "INVALID_REQUEST"),
        ({"name": "mock", "local_name": "mine"}, "INVALID_REQUEST"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_what_cannot_be_pulled(
    api: httpx.Client, offered: LoopbackHub, body: dict[str, Any], code: str, stream: bool
) -> None:
    refused(pull(api, **body, stream=stream), 400, code)


@pytest.mark.parametrize("stream", [True, False])
def test_another_architecture_is_named_with_those_served(api: httpx.Client, offered: LoopbackHub, stream: bool) -> None:
    offered.add(REPO, FILES | {"config.json": b'{"architectures": ["LlamaForCausalLM"]}'})
    found = refused(pull(api, stream=stream), 400, "UNSUPPORTED_REPOSITORY")
    assert "LlamaForCausalLM" in found["error"]
    assert found["detail"]["architecture"] == "LlamaForCausalLM"
    assert {"Chronos-Bolt", "FlowState", "Moirai"} <= set(found["detail"]["served"])


def test_a_licence_is_shown_accepted_and_asked_for_at_every_run(
    api: httpx.Client, offered: LoopbackHub, server: Server
) -> None:
    offered.add(REPO, FILES | {"README.md": b"---\nlicense: cc-by-nc-4.0\n---\n", "LICENSE": b"No trade."})
    refused(pull(api, stream=True), 409, "LICENSE_NOT_ACCEPTED")
    found = refused(pull(api), 409, "LICENSE_NOT_ACCEPTED")
    assert found["detail"]["text"] == "No trade."
    assert found["detail"]["license"] == "CC-BY-NC-4.0"
    assert found["hint"] == f"tollama pull hf:{REPO} --accept-license"
    assert pull(api, accept_license=True).json() == {"status": "success"}
    assert api.post("/api/validate", json=request(model=NAME)).status_code == 200
    (server.home / "licenses" / f"{NAME}.json").unlink()
    assert api.get(f"/v1/models/{NAME}").json()["license"]["accepted"] is False
    for path in ("/v1/forecast", "/api/validate"):
        found = refused(api.post(path, json=request(model=NAME)), 409, "LICENSE_NOT_ACCEPTED")
        assert found["detail"]["text"] == "No trade."
        assert found["hint"] == f"tollama pull {NAME} --accept-license"
    before = len(offered.requests)
    assert pull(api, name=NAME, accept_license=True).json() == {"status": "success"}
    assert len(offered.requests) == before, "accepting needs no download"
    assert api.post("/api/validate", json=request(model=NAME)).status_code == 200


def test_a_gated_repository_says_where_to_ask(api: httpx.Client, offered: LoopbackHub) -> None:
    offered.gated.add(REPO)
    found = refused(pull(api), 502, "HUB_UNAUTHORIZED")
    assert f"{offered.url}/{REPO}" in found["hint"]
    assert "HF_TOKEN" in found["hint"]
    assert pull(api, token=offered.token).json() == {"status": "success"}


def test_a_model_whose_manifest_is_broken_can_be_removed(
    api: httpx.Client, offered: LoopbackHub, server: Server
) -> None:
    assert pull(api).status_code == 200
    (server.home / "models" / NAME / "manifest.json").write_text("{")
    assert api.get("/v1/models").json()["broken"][0]["name"] == NAME
    assert api.delete(f"/v1/models/{NAME}").json()["removed"] is True
    assert not (server.home / "models" / NAME).exists()


def test_a_proxy_of_ones_own(api: httpx.Client, offered: LoopbackHub) -> None:
    body = {"endpoint": "http://hub.invalid", "proxy": offered.url}
    assert pull(api, **body).json() == {"status": "success"}
    assert any("hub.invalid" in path for _, path, _ in offered.requests)
