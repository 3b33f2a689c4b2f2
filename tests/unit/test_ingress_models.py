"""What the routes about models do, with everything that they ask replaced."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.types import Receive, Scope, Send

from deployments.ingress import docs, faults, models, ollama
from deployments.ingress.desk import Desk
from deployments.ingress.guard import Identified, Keys
from deployments.ingress.models import removed
from tests.contract.checks import refused
from tollama import keys
from tollama.catalog import Catalog
from tollama.errors import LicenseNotAccepted, ModelNotFound, UnsupportedRepository
from tollama.settings import Settings
from tollama.store import Home
from tollama.wanted import PullRequest

KEY, KEPT = keys.made("test")
ELSEWHERE = {"endpoint": "http://hub.example"}, {"proxy": "http://proxy.example:3128"}
PATHS = ["/v1/models/pull", "/api/pull"]
SUCCESS = {"status": "success"}


class Family:
    """Notes what it is asked, and holds nothing."""

    def __init__(self, said: list[str]) -> None:
        self.said = said

    async def ask(self, verb: str, name: str) -> list[int]:
        self.said.append(f"{verb} {name}")
        return []


def test_who_asked_for_a_model_while_it_was_removed_does_not_keep_it() -> None:
    said: list[str] = []
    here = {"mine": SimpleNamespace(family="mock", embedded=False, installed=True)}

    def find(name: str) -> Any:
        if name not in here:
            raise ModelNotFound("No such model.")
        return here[name]

    def remove(name: str) -> None:
        said.append(f"remove {name}")
        del here[name]

    catalog = SimpleNamespace(broken=dict, find=find, store=SimpleNamespace(remove=remove))
    desk = SimpleNamespace(catalog=catalog, families={"mock": Family(said)})
    assert asyncio.run(removed(cast(Desk, desk), "Mine")) == "mine"
    assert said == ["drop mine", "remove mine", "drop mine"]


class World:
    """The routes of a server whose pulls say the ``lines``; ``asked`` is what came of the requests, ``labels`` the
    model that the metrics are told of for each."""

    def __init__(self, home: Path, api_keys: tuple[keys.ApiKey, ...] = ()) -> None:
        self.lines: list[dict[str, Any]] = [SUCCESS]
        self.asked: list[PullRequest] = []
        self.labels: list[str] = []
        settings = Settings(home=home, api_keys=api_keys)
        metrics = SimpleNamespace(pulling=lambda statuses: statuses)
        desk = SimpleNamespace(
            settings=settings, catalog=Catalog(Home(home)), keys=Keys(settings), metrics=metrics, families={}
        )
        self.app = FastAPI()
        for resource in (models, ollama):
            self.app.include_router(resource.routes(cast(Desk, desk)))
        self.app.add_middleware(Identified)
        faults.install(self.app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)
        if scope["type"] == "http":
            self.labels.append(scope["state"].get("model", ""))

    async def pull(self, wanted: object, request: PullRequest, settings: Settings) -> AsyncGenerator[dict[str, Any]]:
        self.asked.append(request)
        for line in self.lines:
            yield line


Worlds = Callable[..., World]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worlds:
    for name in ("_models", "_operations"):  # of the process, in the order in which routes were first made
        monkeypatch.setattr(docs, name, {})

    def make(*api_keys: keys.ApiKey) -> World:
        world = World(tmp_path, api_keys)
        monkeypatch.setattr(models, "pull_in_child", world.pull)
        return world

    return make


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("way", ELSEWHERE)
@pytest.mark.parametrize(
    ("host", "has_key", "is_trusted"),
    [("127.0.0.1", False, True), ("::1", False, True), ("10.0.0.7", False, False), ("10.0.0.7", True, True)],
)
def test_who_may_name_another_endpoint_or_proxy(
    made: Worlds, path: str, way: dict[str, str], host: str, has_key: bool, is_trusted: bool
) -> None:
    world = made(KEPT)
    client = TestClient(world, client=(host, 1), headers={"Authorization": f"Bearer {KEY}"} if has_key else {})
    body = {"name": "hf:acme/bolt", "stream": False}
    assert client.post(path, json=body).json() == SUCCESS, "by the server's own way"
    answer = client.post(path, json={**body, **way})
    if is_trusted:
        assert answer.json() == SUCCESS
        assert world.asked[-1].model_dump(include=set(way)) == way
    else:
        assert "API key" in refused(answer, 400, "INVALID_REQUEST")["error"]
        assert len(world.asked) == 1


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("error", "status"), [(LicenseNotAccepted("Accept it."), 409), (UnsupportedRepository("No model."), 400)]
)
def test_a_pull_that_begins_with_an_error_is_one(
    made: Worlds, path: str, stream: bool, error: LicenseNotAccepted, status: int
) -> None:
    world = made()
    world.lines = [error.record.body()]
    answer = TestClient(world).post(path, json={"name": "hf:acme/bolt", "stream": stream})
    refused(answer, status, error.code)


@pytest.mark.parametrize("stream", [True, False])
def test_the_lines_of_a_pull_have_no_secrets(made: Worlds, stream: bool) -> None:
    world = made()
    world.lines = [
        {"status": "installing runtime torch: index http://user:planted@index.example/simple"},
        {"status": "pulling 0123", "digest": "sha256:0123", "total": 5, "completed": 2},
        {"error": "No: HF_TOKEN=planted.", "code": "HUB_ERROR", "detail": {"token": "planted"}, "hint": ""},
    ]
    answer = TestClient(world).post("/api/pull", json={"name": "hf:acme/bolt", "stream": stream})
    assert "planted" not in answer.text
    if stream:
        came = [json.loads(line) for line in answer.text.splitlines()]
        assert came[1] == world.lines[1]
        assert [came[-1][name] for name in ("code", "error")] == ["HUB_ERROR", "No: HF_TOKEN=[redacted]"]
    else:
        assert answer.status_code == 502


def test_only_a_model_that_there_is_becomes_a_label(made: Worlds) -> None:
    world = made()
    client = TestClient(world)
    refusal = [ModelNotFound("No such repository.").record.body()]
    for lines, labels in ((refusal, ["", "", ""]), ([{"status": "pulling manifest"}, SUCCESS], ["mine"] * 3)):
        world.lines = lines
        world.labels.clear()
        for body in ({"stream": True}, {"stream": False}, {}):
            client.post("/api/pull", json={"name": "hf:acme/bolt", "local_name": "Mine", **body})
        assert world.labels == labels
