"""Builds that requests wait for: shared, followed, failed, left alone for a while; and the child that does one."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import psutil
import pytest

from deployments.ingress.desk import Desk
from deployments.ingress.families import FamilyClient
from deployments.ingress.installing import RETRY_S, Build, Installing
from deployments.ingress.outcomes import Gone
from deployments.ingress.turns import Gpus, Turns
from tollama import runtime_child
from tollama.errors import DeadlineExceeded, QueueFull, RunnerUnavailable, TollamaError
from tollama.families import FamilySpec, families
from tollama.runtime_child import install_in_child
from tollama.runtimes import Runtimes, RuntimeState
from tollama.settings import Settings

SPEC = FamilySpec("tiny", {})
ABSENT = RuntimeState(False, False, "It is not installed.", "tollama runtime install tiny")
BROKEN = RuntimeState(True, False, "It has no Python.", "tollama runtime repair tiny")
READY = RuntimeState(True, True)
HOPELESS = RuntimeState(False, False, "Its lock is gone.", "Reinstall tollama")


class World:
    """A runtime whose state is said, a builder that goes on when it is told to, and a clock."""

    def __init__(self, max_waiting: int = 10) -> None:
        self.now = 0.0
        self.current = ABSENT
        self.outcome: Exception | None = None
        self.started = 0
        self.ended = 0
        self.first = asyncio.Event()
        self.go_on = asyncio.Event()
        self.installing = Installing(self, self.build, max_waiting, lambda: self.now)  # type: ignore[arg-type]

    def state(self, spec: FamilySpec) -> RuntimeState:
        return self.current

    async def build(self, spec: FamilySpec) -> AsyncGenerator[str]:
        assert spec.name == "tiny"
        self.started += 1
        try:
            yield "creating"
            self.first.set()
            await self.go_on.wait()
            yield "installing"
            if self.outcome is not None:
                raise self.outcome
            self.current = READY
        finally:
            self.ended += 1

    def needed(self) -> Build:
        build = self.installing.needed(SPEC)
        assert build is not None
        return build


def run(check: Callable[[World], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            await check(World(**options))

    asyncio.run(main())


def later(seconds: float = 60.0) -> float:
    return time.time() + seconds


async def heard(build: Build) -> list[str]:
    return [line async for line in build.follow(later())]


@pytest.mark.parametrize("state", [ABSENT, BROKEN])
def test_all_who_ask_share_one_build(state: RuntimeState) -> None:
    async def check(world: World) -> None:
        world.current = state
        waiting = [asyncio.ensure_future(heard(world.needed())) for _ in range(3)]
        plain = asyncio.ensure_future(world.needed().done(later()))
        await world.first.wait()
        late = asyncio.ensure_future(heard(world.needed()))
        world.go_on.set()
        assert await asyncio.gather(*waiting, late) == [["creating", "installing"]] * 4
        await plain
        assert world.started == 1
        assert world.installing.needed(SPEC) is None

    run(check)


def test_nothing_is_built_for_what_is_ready_or_beyond_repair() -> None:
    async def check(world: World) -> None:
        for state in (READY, HOPELESS):
            world.current = state
            assert world.installing.needed(SPEC) is None
        assert world.started == 0

    run(check)


def test_what_is_missing_again_is_built_again() -> None:
    async def check(world: World) -> None:
        world.go_on.set()
        await world.needed().done(later())
        world.current = ABSENT
        await world.needed().done(later())
        assert world.started == 2

    run(check)


def test_a_failure_is_told_to_all_and_not_tried_again_for_a_minute() -> None:
    async def check(world: World) -> None:
        world.outcome = RunnerUnavailable("It could not be installed: why.", hint="tollama runtime repair tiny")
        world.go_on.set()
        build = world.needed()
        ends = await asyncio.gather(*(build.done(later()) for _ in range(3)), return_exceptions=True)
        assert [str(end) for end in ends] == ["It could not be installed: why."] * 3
        world.now = RETRY_S - 10
        with pytest.raises(RunnerUnavailable, match="why") as told:
            world.needed()
        assert told.value.hint == "tollama runtime repair tiny"
        assert told.value.headers() == {"Retry-After": "10"}
        assert world.started == 1
        world.outcome, world.now = None, RETRY_S
        await world.needed().done(later())
        assert world.started == 2

    run(check)


def test_who_mends_it_by_hand_need_not_wait() -> None:
    async def check(world: World) -> None:
        world.outcome = RunnerUnavailable("It could not be installed: why.", hint="")
        world.go_on.set()
        with pytest.raises(RunnerUnavailable):
            await world.needed().done(later())
        world.current = READY
        assert world.installing.needed(SPEC) is None
        world.current, world.outcome = ABSENT, None  # something new has happened to it
        await world.needed().done(later())
        assert world.started == 2

    run(check)


def test_a_fault_of_the_builder_is_an_answer_too() -> None:
    async def check(world: World) -> None:
        world.outcome = ZeroDivisionError("secret")
        world.go_on.set()
        with pytest.raises(RunnerUnavailable) as told:
            await world.needed().done(later())
        assert "tollama runtime install tiny" in told.value.hint
        assert "secret" not in str(told.value)

    run(check)


def test_a_request_waits_until_its_deadline_and_the_build_goes_on() -> None:
    async def check(world: World) -> None:
        with pytest.raises(DeadlineExceeded) as told:
            await world.needed().done(later(0.05))
        assert "goes on" in told.value.hint
        build = world.needed()
        assert (world.started, world.ended) == (1, 0)
        world.go_on.set()
        await build.done(later())
        assert world.ended == 1

    run(check)


def test_who_leaves_ends_its_own_waiting_only() -> None:
    async def check(world: World) -> None:
        async def gone() -> bool:
            return True

        with pytest.raises(Gone):
            await world.needed().done(later(), gone)
        cancelled = asyncio.ensure_future(world.needed().done(later()))
        await world.first.wait()
        cancelled.cancel()
        await asyncio.wait({cancelled})
        async with aclosing(world.needed().follow(later())) as lines:
            assert await anext(lines) == "creating"
        assert (world.started, world.ended) == (1, 0)
        world.go_on.set()
        await world.needed().done(later())

    run(check, max_waiting=1)  # each has given its place back


def test_there_is_a_limit_to_who_waits() -> None:
    async def check(world: World) -> None:
        waiting = [asyncio.ensure_future(world.needed().done(later())) for _ in range(2)]
        await world.first.wait()
        with pytest.raises(QueueFull):
            await world.needed().done(later())
        world.go_on.set()
        await asyncio.gather(*waiting)

    run(check, max_waiting=2)


def test_closing_ends_the_build_and_tells_who_waits() -> None:
    async def check(world: World) -> None:
        waiting = asyncio.ensure_future(world.needed().done(later()))
        await world.first.wait()
        await world.installing.close()
        with pytest.raises(RunnerUnavailable, match="the server stops"):
            await waiting
        assert world.ended == 1

    run(check)


@pytest.mark.parametrize("on", [False, True])
def test_the_desk_has_a_runtime_built_only_where_the_setting_says_so(on: bool, tmp_path: Path) -> None:
    async def check(world: World) -> None:
        spec = replace(SPEC, adapters={"known": "module:Class"})
        unused = MagicMock()
        turns = Turns(Gpus(), tmp_path)
        client = FamilyClient(spec, unused, world, unused, 1, turns, unused, unused, unused)  # type: ignore[arg-type]
        desk = Desk(
            Settings(), unused, world, {"tiny": client}, unused, unused, unused, unused,  # type: ignore[arg-type]
            installing=world.installing if on else None,
        )  # fmt: skip
        with pytest.raises(RunnerUnavailable, match="cannot run"):
            desk.check("tiny", "unknown", {})
        if on:
            assert desk.check("tiny", "known", {}) is desk.check("tiny", "known", {}) is not None
            await world.installing.close()
        else:
            with pytest.raises(RunnerUnavailable, match="It is not installed") as told:
                desk.check("tiny", "known", {})
            assert told.value.hint == "tollama runtime install tiny"
        world.current = READY
        assert desk.check("tiny", "known", {}) is None

    run(check)


def in_child(runtimes: Runtimes, family: str = "baseline") -> AsyncGenerator[str]:
    return install_in_child(families()[family], runtimes)


def children() -> list[psutil.Process]:
    """The builds that this process has started and that still run."""
    alive = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if "tollama.runtime_child" in child.cmdline()]


def failed(runtimes: Runtimes, family: str = "baseline") -> TollamaError:
    async def ask() -> None:
        async for _ in in_child(runtimes, family):
            pass

    with pytest.raises(RunnerUnavailable) as told:
        asyncio.run(ask())
    return told.value


@pytest.fixture
def runtimes(tmp_path: Path) -> Runtimes:
    return Runtimes(tmp_path / "runtimes")


def test_the_childs_failure_comes_with_the_reason_and_the_command(
    runtimes: Runtimes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in {
        "UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple",
        "UV_HTTP_RETRIES": "0",
        "UV_NO_CACHE": "1",
        "UV_FIND_LINKS": str(runtimes.root),
    }.items():
        monkeypatch.setenv(name, value)
    runtimes.root.mkdir()
    error = failed(runtimes)
    assert "could not be installed: uv ended" in str(error)
    assert "cannot be reached" in error.hint
    assert "tollama runtime install baseline" in error.hint
    assert str(runtimes.root) not in str(error) + error.hint
    assert "uv pip" in caplog.text
    assert not runtimes.folder(families()["baseline"]).exists()


def test_a_folder_that_cannot_be_used_names_the_command_too(runtimes: Runtimes) -> None:
    (runtimes.root / "baseline.lock").mkdir(parents=True)
    error = failed(runtimes)
    assert "Is a directory" in str(error)
    assert error.hint.endswith("tollama runtime repair baseline")


def test_closing_the_iterator_ends_the_child(runtimes: Runtimes) -> None:
    async def leave() -> None:
        async with aclosing(in_child(runtimes)) as lines:
            assert await anext(lines) == "creating the environment of baseline"
            assert len(children()) == 1

    asyncio.run(leave())
    assert children() == []


def test_a_killed_child_is_a_failure(runtimes: Runtimes) -> None:
    async def kill() -> None:
        async for _ in in_child(runtimes):
            for child in children():
                child.kill()

    with pytest.raises(RunnerUnavailable, match="broke off") as told:
        asyncio.run(kill())
    assert "tollama runtime repair baseline" in told.value.hint


def test_the_child_inherits_no_secrets_but_the_servers_mark(
    runtimes: Runtimes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "TOLLAMA_HF_TOKEN", "TOLLAMA_API_KEYS", "PYTHONPATH", "TOLLAMA_SERVER"):
        monkeypatch.setenv(name, "it")

    async def look() -> dict[str, str]:
        async with aclosing(in_child(runtimes)) as lines:
            await anext(lines)
            return children()[0].environ()

    found = asyncio.run(look())
    assert {name for name, value in found.items() if value == "it"} == {"TOLLAMA_SERVER"}
    assert found["PATH"] == os.environ["PATH"]


def test_a_child_whose_server_is_gone_goes_on(runtimes: Runtimes) -> None:
    """Its lines go nowhere; what it finds wrong is its own business."""
    (runtimes.root / "baseline.lock").mkdir(parents=True)
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "tollama.runtime_child", "baseline", str(runtimes.root), "1"]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, timeout=60)
    os.close(theirs)
    assert done.returncode == 1
    assert b"BrokenPipe" not in done.stderr


def test_what_is_installed_but_broken_is_repaired(
    runtimes: Runtimes, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []
    for state, verb in ((BROKEN, "repair"), (ABSENT, "install"), (READY, "install")):
        monkeypatch.setattr(Runtimes, "state", lambda self, spec, state=state: state)
        for name in ("repair", "install"):

            def work(self: Runtimes, spec: FamilySpec, say: Callable[[str], None], name: str = name) -> None:
                asked.append(name)
                say(f"doing {name}")

            monkeypatch.setattr(Runtimes, name, work)
        saved = os.dup(1)
        try:
            assert runtime_child.main("baseline", str(runtimes.root), "1") == 0
        finally:
            os.dup2(saved, 1)
            os.close(saved)
        assert json.loads(capfd.readouterr().out) == {"status": f"doing {verb}"}
        assert asked.pop() == verb
