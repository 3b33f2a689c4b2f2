"""A pull in a process of its own, and the bodies that ask for one."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.unit import test_pull
from tests.unit.test_pull import GATED, TINY, WANTED, WEIGHTS, World, assert_nothing_installed
from tollama.contract import parse
from tollama.errors import (
    InvalidRequest,
)
from tollama.pull_child import pull_in_child
from tollama.registry import Entry
from tollama.wanted import PullRequest

world = test_pull.world


def collected(world: World, entry: Entry = TINY, request: PullRequest = WANTED) -> list[dict[str, Any]]:
    async def run() -> list[dict[str, Any]]:
        return [line async for line in pull_in_child(entry, request, world.settings)]

    return asyncio.run(run())


def test_the_child_pulls(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    decoy = tmp_path / "decoy"
    (decoy / "tollama").mkdir(parents=True)
    (decoy / "tollama" / "__init__.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(decoy)
    monkeypatch.setenv("PYTHONPATH", str(decoy))
    monkeypatch.setenv("HF_TOKEN", "hf_somebodys")
    world.settings = world.settings.model_copy(update={"hf_token": "hf_secret"})
    lines = collected(world)
    assert lines[0] == {"status": "pulling manifest"}
    assert lines[-1] == {"status": "success"}
    there = world.store.get("tiny")
    assert there is not None
    assert (there.snapshot / "model.safetensors").read_bytes() == WEIGHTS
    assert {headers["authorization"] for _, _, headers in world.hub.requests} == {"Bearer hf_secret"}


def test_the_child_tells_its_errors(world: World) -> None:
    world.hub.status = 403
    assert collected(world)[-1]["code"] == "HUB_UNAUTHORIZED"
    body = collected(world, GATED)[-1]
    assert set(body) == {"error", "code", "detail", "hint"}
    assert body["code"] == "LICENSE_NOT_ACCEPTED"


def test_the_child_carries_the_servers_mark(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLAMA_SERVER", "it")
    monkeypatch.setenv("TOLLAMA_API_KEYS", "it")

    async def look() -> dict[str, str]:
        async with aclosing(pull_in_child(TINY, WANTED, world.settings)) as lines:
            await anext(lines)
            return children()[0].environ()

    found = asyncio.run(look())
    assert {name for name, value in found.items() if value == "it"} == {"TOLLAMA_SERVER"}


def test_an_abandoned_pull_ends_and_the_next_goes_on(world: World) -> None:
    world.hub.pause_after = 1_000_000

    async def abandon() -> int:
        async with aclosing(pull_in_child(TINY, WANTED, world.settings)) as lines:
            async for line in lines:
                if line.get("completed", 0) > 500_000:
                    return len(children())
        return 0

    assert asyncio.run(abandon()) == 1
    assert children() == []
    assert_nothing_installed(world)
    world.hub.pause_after = None
    world.hub.resume.set()
    first = next(line for line in collected(world) if line.get("total") == len(WEIGHTS))
    assert first["completed"] > 500_000
    assert world.store.get("tiny") is not None


def children() -> list[psutil.Process]:
    """The pulls that this process has started and that still run."""
    alive = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if "tollama.pull_child" in child.cmdline()]


def test_a_killed_child_is_told_and_its_lock_is_free(world: World) -> None:
    world.hub.pause_after = 1_000_000

    async def kill() -> list[dict[str, Any]]:
        lines = []
        async for line in pull_in_child(TINY, WANTED, world.settings):
            lines.append(line)
            if line.get("completed", 0) > 500_000 and (running := children()):
                running[0].kill()
        return lines

    assert asyncio.run(kill())[-1]["code"] == "INTERNAL"
    assert_nothing_installed(world)
    world.hub.resume.set()
    world.pull()


def test_a_child_that_is_asked_nonsense_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tollama.pull_child"], input=b"{}", capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == "INTERNAL"
    assert b"Traceback" in done.stderr


def test_nobody_at_the_hub_is_told_by_the_child(world: World) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        lines = collected(world, request=PullRequest(model="tiny", endpoint=endpoint))
    assert lines[-1]["code"] == "HUB_UNAVAILABLE"
    assert endpoint not in json.dumps(lines)


@pytest.mark.parametrize(
    "body",
    [
        {"model": "tiny"},
        {"name": "tiny"},
        {"model": "tiny", "name": "tiny", "insecure": False, "stream": True},
        {"model": "tiny", "revision": "refs/pr/1", "token": "hf_x", "endpoint": "https://hub.example"},
    ],
)
def test_bodies_of_ours_and_of_ollamas_are_taken(body: dict[str, Any]) -> None:
    assert parse(PullRequest, json.dumps(body).encode()).name == "tiny"


@pytest.mark.parametrize(
    "body", [{}, {"model": ""}, {"model": 1}, {"model": "a", "x": 1}, {"model": "a", "revision": "../.."}]
)
def test_other_bodies_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        parse(PullRequest, json.dumps(body).encode())


def test_a_token_is_not_shown() -> None:
    assert "hf_own" not in repr(PullRequest.model_validate_json('{"model": "a", "token": "hf_own"}'))
