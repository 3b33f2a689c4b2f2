"""Pulls that are disturbed: a disk that fills up, a removal meanwhile, hubs that reset, hang or are busy."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants

from tests.unit import test_pull
from tests.unit.test_pull import FILES, GATED, TINY, WANTED, WEIGHTS, World
from tollama import agreement, pull, store
from tollama import hub as module
from tollama.errors import DiskFull, HubUnavailable, LicenseNotAccepted
from tollama.pull_child import pull_in_child
from tollama.store import Manifest, in_use

world = test_pull.world

KEEPS = {".locks", ".in-use", "listings"}
"""What a pull may leave behind whatever becomes of it."""


def contents(world: World) -> dict[str, bytes | None]:
    """Every file and folder of the models and the cache, with what is in it."""
    found: dict[str, bytes | None] = {}
    for top in (world.home.models, world.home.cache / "staging", world.home.cache / "blobs"):
        for path in top.rglob("*"):
            if not KEEPS & set(path.parts) and path.suffix != ".lock":
                found[str(path.relative_to(world.home.root))] = path.read_bytes() if path.is_file() else None
    return found


def no_room(*_: Any, **__: Any) -> Any:
    raise OSError(28, "No space left on device")


def fill(patch: pytest.MonkeyPatch, at: str) -> None:
    """Let the disk be full ``at`` one of the things that a pull writes."""

    def some(source: Path, copy: Path) -> None:
        copy.write_bytes(b"some")
        no_room()

    write = module._Counted.write
    if at == "listing":
        patch.setattr(module, "atomic_write", no_room)
    elif at == "blob":
        patch.setattr(
            module._Counted, "write", lambda self, data: no_room() if self.tell() > 1e6 else write(self, data)
        )
    elif at == "copy":
        patch.setattr(os, "link", no_room)
        patch.setattr(shutil, "copyfile", some)
    else:
        patch.setattr(store, "atomic_write", no_room)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("at", ["listing", "blob", "copy", "manifest"])
def test_wherever_the_disk_fills_up_nothing_is_left_behind(
    world: World, monkeypatch: pytest.MonkeyPatch, at: str, before: bool
) -> None:
    if before:
        world.pull()
        world.hub.add("org/tiny", FILES | {"config.json": b"[2]", "model.safetensors": WEIGHTS[::-1]})
    was = contents(world)
    with monkeypatch.context() as patch:
        fill(patch, at)
        with pytest.raises(DiskFull):
            world.pull()
    assert contents(world) == was
    assert world.pull().resolved.commit_sha == world.hub.refs["org/tiny", "main"]


def test_what_another_pull_may_share_stays_on_a_full_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, in_use(world.home.cache):
        fill(patch, "manifest")
        with pytest.raises(DiskFull):
            world.pull()
    assert [path.stat().st_size for path in (world.home.cache / "blobs").glob("[!.]*") if path.suffix != ".lock"]
    assert world.store.all() == []


def test_a_model_that_is_removed_while_it_is_pulled_again_is_whole_afterwards(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.pull()
    sound = pull._sound

    def then_removed(here: Manifest, progress: Any) -> bool:
        found = sound(here, progress)
        world.store.remove("tiny")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(pull, "_sound", then_removed)
        there = world.pull()
    assert world.store.all() == [there]
    assert (there.snapshot / "model.safetensors").read_bytes() == WEIGHTS


def test_two_processes_that_pull_one_model_share_one_download(world: World) -> None:
    world.hub.pause_after = 1_000_000
    said: list[dict[str, Any]] = []
    waits = asyncio.Event()

    async def run(told: list[dict[str, Any]]) -> dict[str, Any]:
        async for line in pull_in_child(TINY, WANTED, world.settings):
            told.append(line)
            if line.get("status", "").startswith("waiting for another pull"):
                waits.set()
        return told[-1]

    async def both() -> list[dict[str, Any]]:
        one = asyncio.create_task(run([]))
        assert await asyncio.to_thread(world.hub.paused.wait, 60)
        two = asyncio.create_task(run(said))
        await asyncio.wait_for(waits.wait(), 60)
        world.hub.resume.set()
        return [await one, await two]

    assert asyncio.run(both()) == [{"status": "success"}] * 2
    assert world.hub.asked("GET", "model.safetensors") == 1


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every pause that is made, none of which takes time."""
    made: list[float] = []
    monkeypatch.setattr("time.sleep", made.append)
    return made


def test_connections_that_are_reset_are_resumed_while_bytes_come(world: World, pauses: list[float]) -> None:
    world.hub.cut_after, world.hub.cuts, world.hub.resets = 700_000, 2, True
    assert (world.pull().snapshot / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [headers.get("range") for _, path, headers in world.hub.requests if "safetensors" in path]
    assert len(ranges) == 3
    assert ranges[0] is None
    assert all(ranges[1:])


def test_a_hub_that_does_nothing_but_reset_is_given_up(world: World, pauses: list[float]) -> None:
    world.hub.cut_after, world.hub.cuts, world.hub.resets = 0, 1000, True
    with pytest.raises(HubUnavailable):
        world.pull(request=WANTED.model_copy(update={"no_runtime": True}))
    assert world.hub.asked("GET", "/resolve/") == module.RESETS


def test_a_busy_hub_is_waited_for_and_that_is_told(world: World, pauses: list[float]) -> None:
    hub, wait = module.Hub(world.home.cache, world.hub.url), "waiting 7 s for the hub, which is busy"
    listing = hub.listing("org/tiny", "main", ("config.json",))
    world.hub.retry_after = "7"
    world.hub.statuses.extend([429, 429])
    said: list[str] = []
    hub.download(listing, listing.files[0], lambda _: None, said.append)
    assert said == [wait, "waiting 14 s for the hub, which is busy"]
    assert pauses == [7, 14]


@pytest.mark.parametrize(("after", "longest"), [("3600", 0), (None, module.PATIENCE_S), ("soon", module.PATIENCE_S)])
def test_a_hub_that_stays_busy_is_not_waited_for_without_end(
    world: World, pauses: list[float], after: str | None, longest: float
) -> None:
    hub = module.Hub(world.home.cache, world.hub.url)
    listing = hub.listing("org/tiny", "main", ("config.json",))
    world.hub.status, world.hub.retry_after = 429, after
    with pytest.raises(HubUnavailable) as caught:
        hub.download(listing, listing.files[0], lambda _: None)
    assert caught.value.detail == "HTTP 429"
    assert ("in 3600 s" in caught.value.hint) is (after == "3600")
    assert sum(pauses) <= longest


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"retry-after": "7"}, 7), ({"ratelimit": '"api";r=0;t=55'}, 55), ({"retry-after": "Wed, 21 Oct"}, 0), ({}, 0)],
)
def test_how_long_a_busy_hub_is_so(headers: dict[str, str], seconds: float) -> None:
    with pytest.raises(HubUnavailable) as caught:
        module._refuse_429(SimpleNamespace(status_code=429, headers=headers))
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize("part", ["api/models", "model.safetensors"])
def test_a_hub_that_takes_and_never_answers_is_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch, pauses: list[float], part: str
) -> None:
    monkeypatch.setattr(module, "LIST_TIMEOUT_S", 0.2)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    world.hub.hangs = part
    with pytest.raises(HubUnavailable):
        world.pull()
    assert world.store.all() == []


@pytest.mark.parametrize("part", ["api/models", "LICENSE"])
def test_a_licence_is_asked_for_in_time_though_the_hub_is_silent(
    world: World, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(agreement, "OFFERED_S", 0.2)
    world.hub.hangs = part
    with pytest.raises(LicenseNotAccepted) as caught:
        world.pull(GATED)
    assert caught.value.detail["text"] == GATED.license.notice
    world.hub.hangs = None
    world.hub.resume.set()
    for thread in threading.enumerate():
        if thread.name == "licence":
            thread.join(30)
