"""Pulls from a hub on loopback, in this process and in one of their own."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub import EMBEDDED, LoopbackHub, entry
from tollama import licenses
from tollama.contract import parse
from tollama.errors import (
    DigestMismatch,
    DiskFull,
    HubUnauthorized,
    HubUnavailable,
    LicenseNotAccepted,
    Offline,
    RevisionNotFound,
    RunnerUnavailable,
)
from tollama.families import FamilySpec
from tollama.pull import pull
from tollama.registry import Entry
from tollama.runtimes import RuntimeState
from tollama.settings import Settings
from tollama.store import Home, Manifest, Store
from tollama.wanted import PullRequest

WEIGHTS = os.urandom(2_000_000)
FILES: dict[str, bytes | Path] = {"config.json": b"{}", "model.safetensors": WEIGHTS, "LICENSE": b"terms"}
TINY = entry()
GATED = entry(gated=True)
WANTED = PullRequest(model="tiny")


class NoRuntimes:
    """Every runtime is missing; installing one is noted, or fails."""

    def __init__(self, fails: bool = False) -> None:
        self.installed: list[str] = []
        self.fails = fails

    def state(self, spec: FamilySpec) -> RuntimeState:
        return RuntimeState(False, spec.name in self.installed)

    def install(self, spec: FamilySpec, progress: Any = None) -> Path:
        if self.fails:
            raise RunnerUnavailable("The runtime could not be built.")
        progress("Resolved 3 packages")
        self.installed.append(spec.name)
        return Path(sys.executable)


class World:
    """A home, a hub and what a pull said."""

    def __init__(self, root: Path, hub: LoopbackHub) -> None:
        self.hub = hub
        self.home = Home(root / "home")
        self.store = Store(self.home)
        self.settings = Settings(home=self.home.root, hf_endpoint=hub.url, runtimes_dir=root / "runtimes")
        self.runtimes = NoRuntimes()
        self.lines: list[dict[str, Any]] = []

    def pull(self, entry: Entry = TINY, request: PullRequest = WANTED, **settings: Any) -> Manifest:
        self.lines = []
        changed = self.settings.model_copy(update=settings)
        return pull(entry, request, self.home, self.runtimes, changed, self.lines.append)  # type: ignore[arg-type]

    @property
    def said(self) -> list[str]:
        """The statuses, each once."""
        return list(dict.fromkeys(line["status"] for line in self.lines))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with LoopbackHub(tmp_path) as hub:
        hub.add("org/tiny", FILES)
        yield World(tmp_path, hub)


def assert_nothing_installed(world: World) -> None:
    assert world.store.all() == []
    assert not world.home.models.exists() or os.listdir(world.home.models) in ([], [".locks"])


def test_a_pull_installs_and_tells_it_in_ollamas_lines(world: World) -> None:
    there = world.pull()
    weights = next(file for file in there.files if file.path == "model.safetensors")
    pulling = f"pulling {weights.sha256[:12]}"
    assert world.said[:3] == [
        "pulling manifest",
        "installing runtime mock",
        "installing runtime mock: Resolved 3 packages",
    ]
    assert world.said[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
    parts = [line for line in world.lines if line["status"] == pulling]
    assert len(parts) > 3
    assert {(line["digest"], line["total"]) for line in parts} == {(f"sha256:{weights.sha256}", len(WEIGHTS))}
    assert (parts[0]["completed"], parts[-1]["completed"]) == (0, len(WEIGHTS))
    assert world.store.get("tiny") == there
    assert (there.snapshot / "model.safetensors").read_bytes() == WEIGHTS
    assert there.resolved.commit_sha == world.hub.refs["org/tiny", "main"]
    assert there.size_bytes == len(WEIGHTS) + 7
    assert there.license.accepted
    assert there.license.receipt is None


def test_the_snapshot_holds_real_files(world: World) -> None:
    there = world.pull()
    assert not any(path.is_symlink() for path in there.snapshot.rglob("*"))
    shutil.rmtree(world.home.cache)
    assert (there.snapshot / "model.safetensors").read_bytes() == WEIGHTS


def test_without_hard_links_it_copies(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    assert (world.pull().snapshot / "model.safetensors").read_bytes() == WEIGHTS


def test_the_same_commit_is_verified_and_not_fetched_again(world: World) -> None:
    first = world.pull()
    before = world.hub.asked("GET", "/resolve/")
    again = world.pull()
    assert again == first
    assert world.said == ["pulling manifest", "verifying sha256 digest", "writing manifest", "success"]
    assert world.hub.asked("GET", "/resolve/") == before


def test_a_pinned_commit_that_is_here_needs_no_hub(world: World) -> None:
    commit = world.pull().resolved.commit_sha
    world.hub.status = 500
    request = PullRequest(model="tiny", revision=commit)
    assert world.pull(request=request).resolved.commit_sha == commit


def test_a_damaged_model_is_repaired(world: World) -> None:
    there = world.pull()
    (there.snapshot / "model.safetensors").write_bytes(b"x" * len(WEIGHTS))
    assert (world.pull().snapshot / "model.safetensors").read_bytes() == WEIGHTS


def test_another_revision_replaces_the_first(world: World) -> None:
    first = world.pull()
    world.hub.add("org/tiny", FILES | {"config.json": b'{"v": 2}'})
    second = world.pull()
    assert second.resolved.commit_sha != first.resolved.commit_sha
    assert (second.snapshot / "config.json").read_bytes() == b'{"v": 2}'
    back = world.pull(request=PullRequest(name="tiny", revision=first.resolved.commit_sha))
    assert back.digest == first.digest
    assert back.source.revision == first.resolved.commit_sha


def test_a_pull_again_takes_over_what_the_registry_says_now(world: World) -> None:
    world.pull()
    changed = TINY.model_copy(update={"description": "Better."})
    assert world.pull(changed).description == "Better."


def test_a_licence_is_asked_for_before_any_byte(world: World) -> None:
    with pytest.raises(LicenseNotAccepted):
        world.pull(GATED)
    assert world.hub.asked("GET", "model.safetensors") == 0
    assert world.runtimes.installed == []
    assert world.lines == []
    there = world.pull(GATED, PullRequest(model="tiny", accept_license=True))
    assert there.license.accepted
    assert there.license.receipt == "licenses/tiny.json"
    receipt = licenses.receipt(world.home, "tiny")
    assert receipt is not None
    assert receipt.revision == there.resolved.commit_sha
    world.store.remove("tiny")
    world.pull(GATED)  # the receipt outlives the model


def test_a_changed_licence_text_wants_another_acceptance(world: World) -> None:
    world.pull(GATED, PullRequest(model="tiny", accept_license=True))
    world.hub.add("org/tiny", FILES | {"LICENSE": b"other terms"})
    with pytest.raises(LicenseNotAccepted, match="not the one"):
        world.pull(GATED)
    world.pull(GATED, PullRequest(model="tiny", accept_license=True))


def test_an_embedded_model_is_there_at_once(world: World) -> None:
    embedded = entry("tiny", source=EMBEDDED, files=())
    manifest = world.pull(embedded)
    assert manifest.files == ()
    assert world.said[-1] == "success"
    assert world.runtimes.installed == ["mock"]
    assert world.hub.requests == []
    assert_nothing_installed(world)


def test_the_runtime_is_left_alone_when_asked(world: World) -> None:
    world.pull(request=PullRequest(model="tiny", no_runtime=True))
    assert world.runtimes.installed == []


def test_a_runtime_that_cannot_be_built_fails_the_pull(world: World) -> None:
    world.runtimes = NoRuntimes(fails=True)
    with pytest.raises(RunnerUnavailable):
        world.pull()
    assert_nothing_installed(world)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"status": 503}, HubUnavailable),
        ({"gated": {"org/tiny"}}, HubUnauthorized),
        ({"corrupt": {"model.safetensors"}}, DigestMismatch),
        ({"refs": {}}, RevisionNotFound),
    ],
)
def test_a_failed_pull_installs_nothing(world: World, fault: dict[str, Any], error: type[Exception]) -> None:
    for name, value in fault.items():
        setattr(world.hub, name, value)
    with pytest.raises(error):
        world.pull()
    assert_nothing_installed(world)


def test_a_failed_pull_leaves_the_installed_revision(world: World) -> None:
    there = world.pull()
    world.hub.add("org/tiny", FILES | {"model.safetensors": b"new"})
    world.hub.corrupt = {"model.safetensors"}
    with pytest.raises(DigestMismatch):
        world.pull()
    assert world.store.get("tiny") == there
    assert (there.snapshot / "model.safetensors").read_bytes() == WEIGHTS


def test_no_room_is_said_before_the_download(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1_000_000, 1_000_000))
    with pytest.raises(DiskFull):
        world.pull()
    assert world.hub.asked("GET", "/resolve/") == 0


def test_a_disk_that_fills_up_is_told_as_such(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tollama.store._fsync", full)
    with pytest.raises(DiskFull):
        world.pull()


def test_a_disk_that_fills_up_in_the_middle_leaves_nothing_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tollama import hub

    def full(self: Any, data: bytes) -> int:
        if self.tell() > 1_000_000:
            raise OSError(28, "No space left on device")
        return write(self, data)

    write = hub._Counted.write
    with monkeypatch.context() as patch:
        patch.setattr(hub._Counted, "write", full)
        with pytest.raises(DiskFull):
            world.pull()
    assert_nothing_installed(world)
    assert not list(world.home.cache.rglob("*.part"))
    assert not list((world.home.cache / "staging").glob("*"))
    assert (world.pull().snapshot / "model.safetensors").read_bytes() == WEIGHTS


def test_a_slow_hub_is_waited_for_and_told_of(world: World) -> None:
    world.hub.pace = 0.01
    world.pull()
    steps = [line["completed"] for line in world.lines if line.get("total") == len(WEIGHTS)]
    assert steps == sorted(steps)
    assert len(steps) > 5


def test_connections_that_are_cut_again_and_again_are_resumed(world: World) -> None:
    world.hub.cut_after, world.hub.cuts = 700_000, 2
    assert (world.pull().snapshot / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [headers.get("range") for _, path, headers in world.hub.requests if "safetensors" in path]
    assert len(ranges) == 3
    assert ranges[0] is None
    assert all(ranges[1:])


def test_as_many_snapshots_are_kept_as_the_settings_say(world: World) -> None:
    for number in range(3):
        world.hub.add("org/tiny", FILES | {"config.json": str(number).encode()})
        world.pull(keep_snapshots=1)
        assert len(list((world.home.models / "tiny").glob("snapshot*"))) == 1
    world.hub.add("org/tiny", FILES)
    world.pull(keep_snapshots=2)
    assert len(list((world.home.models / "tiny").glob("snapshot*"))) == 2


def test_a_pull_looks_after_the_cache(world: World) -> None:
    world.pull()
    world.store.remove("tiny")
    assert list((world.home.cache / "blobs").iterdir())
    world.pull(entry("other", files=("config.json",)), cache_max_gb=0)
    left = [path for path in (world.home.cache / "blobs").iterdir() if path.suffix != ".lock"]
    assert {path.read_bytes() for path in left} == {b"{}", b"terms"}, "what the installed one shares"


def test_offline_takes_what_is_in_the_cache(world: World) -> None:
    with pytest.raises(Offline):
        world.pull(offline=True)
    there = world.pull()
    world.store.remove("tiny")
    before = len(world.hub.requests)
    assert world.pull(request=PullRequest(model="tiny", offline=True)).files == there.files
    shutil.rmtree(world.home.cache)
    world.pull(offline=True)  # installed already: nothing is needed
    with pytest.raises(Offline):
        world.pull(request=PullRequest(model="tiny", revision="v2"), offline=True)
    assert len(world.hub.requests) == before


def test_a_request_may_ask_the_hub_though_the_server_is_offline(world: World) -> None:
    world.pull(request=PullRequest(model="tiny", offline=False), offline=True)
    assert world.hub.requests


def test_the_configured_token_goes_to_the_configured_hub_only(world: World, tmp_path: Path) -> None:
    with LoopbackHub(tmp_path / "other") as other:
        other.add("org/tiny", FILES)
        world.pull(request=PullRequest(model="tiny", endpoint=other.url), hf_token="hf_secret")
        assert other.requests
        assert all("authorization" not in headers for _, _, headers in other.requests)
        assert world.hub.requests == []
        world.store.remove("tiny")
        shutil.rmtree(world.home.cache)
        request = parse(PullRequest, json.dumps({"model": "tiny", "endpoint": other.url, "token": "hf_own"}).encode())
        world.pull(request=request, hf_token="hf_secret")
        assert other.requests[-1][2]["authorization"] == "Bearer hf_own"
    world.store.remove("tiny")
    world.pull(hf_token="hf_secret")
    assert world.hub.requests[-1][2]["authorization"] == "Bearer hf_secret"


def test_two_pulls_of_one_model_share_one_download(world: World) -> None:
    world.hub.pause_after = 1_000_000
    said: list[dict[str, Any]] = []
    waits = threading.Event()

    def second(line: dict[str, Any]) -> None:
        said.append(line)
        if line["status"].startswith("waiting"):
            waits.set()

    def run(progress: Any) -> None:
        request = PullRequest(model="tiny", no_runtime=True)
        pull(TINY, request, world.home, world.runtimes, world.settings, progress)  # type: ignore[arg-type]

    one = threading.Thread(target=run, args=(lambda _: None,))
    one.start()
    assert world.hub.paused.wait(10)
    two = threading.Thread(target=run, args=(second,))
    two.start()
    assert waits.wait(10)
    world.hub.resume.set()
    one.join(10)
    two.join(10)
    assert said[-1] == {"status": "success"}
    assert world.hub.asked("GET", "model.safetensors") == 1


def test_pulls_of_two_models_run_side_by_side(world: World) -> None:
    world.hub.pause_after = 1_000_000
    request = PullRequest(model="tiny", no_runtime=True)
    slow = threading.Thread(
        target=pull, args=(TINY, request, world.home, world.runtimes, world.settings, lambda _: None)
    )
    slow.start()
    assert world.hub.paused.wait(10)
    small = entry("small", files=("config.json",))
    world.pull(small)
    assert world.store.get("small") is not None
    assert world.store.get("tiny") is None
    world.hub.resume.set()
    slow.join(10)
    assert world.store.get("tiny") is not None
