"""The status table, where the hub or the disk fails; nothing is half-installed after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.checks import lines, refused, shaped
from tests.hub import LoopbackHub
from tests.serving import Server, free_port
from tollama.registry import find

NAME = "chronos-bolt-mini"
REPO = str(find(NAME).source.repo_id)
FILES: dict[str, bytes | Path] = {"config.json": b"{}", "model.safetensors": b"weights" * 1000}


@pytest.fixture
def broken(hub: LoopbackHub, server: Server, api: httpx.Client) -> Iterator[LoopbackHub]:
    """The hub with the model's repository, to be broken; whole again afterwards, and the server without the model."""
    hub.add(REPO, FILES, str(find(NAME).source.revision))
    yield hub
    hub.status = None
    hub.gated.clear()
    hub.corrupt.clear()
    assert api.get(f"/v1/models/{NAME}").json()["state"] == "available"
    assert NAME not in {model["name"] for model in api.get("/api/tags").json()["models"]}
    assert not (server.home / "models" / NAME).exists()


def _status(code: int) -> Callable[[LoopbackHub], dict[str, Any]]:
    def set_status(hub: LoopbackHub) -> dict[str, Any]:
        hub.status = code
        return {}

    return set_status


def _gated(hub: LoopbackHub) -> dict[str, Any]:
    hub.gated.add(REPO)
    return {}


def _corrupt(hub: LoopbackHub) -> dict[str, Any]:
    hub.corrupt.add("model.safetensors")
    return {}


def _huge(hub: LoopbackHub) -> dict[str, Any]:
    commit = hub.add(REPO, FILES, "huge")
    for row in (hub.rows(REPO, commit) or ("", []))[1]:
        if isinstance(lfs := row.get("lfs"), dict):
            row["size"] = lfs["size"] = 10**18
    return {"revision": "huge"}


CASES: list[tuple[str, Callable[[LoopbackHub], dict[str, Any]], int, str]] = [
    ("no such revision", lambda hub: {"revision": "nope"}, 404, "REVISION_NOT_FOUND"),
    ("a fault of the hub", _status(500), 502, "HUB_ERROR"),
    ("gated", _gated, 502, "HUB_UNAUTHORIZED"),
    ("other bytes", _corrupt, 502, "DIGEST_MISMATCH"),
    ("overloaded", _status(503), 503, "HUB_UNAVAILABLE"),
    ("nobody there", lambda hub: {"endpoint": f"http://127.0.0.1:{free_port()}"}, 503, "HUB_UNAVAILABLE"),
    ("offline", lambda hub: {"offline": True, "revision": "never-listed"}, 503, "OFFLINE"),
    ("no room", _huge, 507, "DISK_FULL"),
]


@pytest.mark.parametrize(("breaks", "status", "code"), [row[1:] for row in CASES], ids=[row[0] for row in CASES])
def test_a_pull_that_fails(
    api: httpx.Client, broken: LoopbackHub, breaks: Callable[[LoopbackHub], dict[str, Any]], status: int, code: str
) -> None:
    body = {"name": NAME, "no_runtime": True, **breaks(broken)}
    assert refused(api.post("/v1/models/pull", json=body), status, code)["hint"]


def test_a_streamed_pull_that_fails_says_so_in_its_last_line(api: httpx.Client, broken: LoopbackHub) -> None:
    broken.corrupt.add("model.safetensors")
    with api.stream("POST", "/api/pull", json={"model": NAME, "no_runtime": True}) as answer:
        came = list(lines(answer))
    assert came[0] == {"status": "pulling manifest"}
    assert shaped(came[-1])["code"] == "DIGEST_MISMATCH"
    assert "success" not in {line.get("status") for line in came}


def test_the_token_of_a_request_opens_a_gated_repository(api: httpx.Client, broken: LoopbackHub) -> None:
    # Other weights for each way in: what is in the cache already needs no token.
    body = {"name": NAME, "no_runtime": True, "revision": "own"}
    broken.add(REPO, {**FILES, "model.safetensors": str(api.base_url).encode()}, "own")
    broken.gated.add(REPO)
    wrong = refused(api.post("/v1/models/pull", json={**body, "token": "hf_wrong"}), 502, "HUB_UNAUTHORIZED")
    assert "hf_wrong" not in str(wrong)
    assert api.post("/v1/models/pull", json={**body, "token": broken.token}).json() == {"status": "success"}
    assert api.delete(f"/v1/models/{NAME}").status_code == 200
