"""The replica's models, with a clock and a loader of the test's own."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from deployments.failures import OOM, Refused
from deployments.memory import HOST, Room, Space, Taken
from deployments.residency import Residency, Resident
from tollama.capabilities import Capabilities
from tollama.errors import DeadlineExceeded, RunnerFailed
from tollama.seam import ModelRef

CAPABILITIES = Capabilities(max_context=10, max_horizon=10)


def ref(name: str, digest: str = "1") -> ModelRef:
    return ModelRef(name, "f", "a", None, digest, CAPABILITIES)


class World:
    """Counts loads and unloads; time stands still until it is moved. ``sizes`` is what models take of ``limit`` MB of
    memory, 0 unless told, and ``said`` what their checkpoints make one expect; ``others`` is what other programs have.
    A load that does not find what it takes below ``real`` runs out of memory."""

    def __init__(self, max_models: int = 2, limit: float = 1000.0, real: float = math.inf, **sizes: float) -> None:
        self.now = 1000.0
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.gate: asyncio.Event | None = None
        self.fail = False
        self.slow_unload: asyncio.Event | None = None
        self.limit, self.real, self.sizes = limit, real, sizes
        self.said = dict(sizes)
        self.others = 0.0
        self.memory: list[str] = []
        self.residency = Residency(self.load, self.unload, lambda: self.now, max_models, self.need, self.room)

    def need(self, ref: ModelRef) -> Taken:
        return {HOST: self.said.get(ref.name, 0.0)}

    def used(self) -> float:
        return self.others + sum(self.sizes.get(name, 0.0) for name in self.memory)

    async def room(self) -> Room:
        return {HOST: Space(self.limit, self.limit - self.used())}

    async def load(self, resident: Resident) -> Any:
        self.loads.append(resident.ref.name)
        if self.gate is not None:
            await self.gate.wait()
        if self.fail:
            raise RuntimeError("no such file")
        size = self.sizes.get(resident.ref.name, 0.0)
        if self.used() + size > self.real:
            raise Refused(RunnerFailed("out of memory"), OOM)
        self.memory.append(resident.ref.name)
        resident.took = {HOST: size}
        return object()

    async def unload(self, resident: Resident) -> None:
        assert not resident.users, "a model in use was unloaded"
        self.unloads.append(resident.ref.name)
        if self.slow_unload is not None:
            await self.slow_unload.wait()
        self.memory.remove(resident.ref.name)

    async def use(self, name: str, keep_alive: float = 60.0, digest: str = "1", deadline: float = math.inf) -> Any:
        self.now += 1
        async with self.residency.use(ref(name, digest), keep_alive, deadline) as resident:
            return resident.model

    @property
    def held(self) -> set[str]:
        return {name for name, _ in self.residency.residents}


def run(test: Callable[[World], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(5):
            await test(World(**options))

    asyncio.run(main())


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_a_model_is_loaded_once_and_kept() -> None:
    async def check(world: World) -> None:
        assert await world.use("a") is await world.use("a")
        assert world.loads == ["a"]

    run(check)


def test_a_model_in_use_has_its_whole_time_before_it_unless_it_is_to_go() -> None:
    async def check(world: World) -> None:
        async with world.residency.use(ref("a"), 60.0) as resident:
            world.now += 100
            assert resident.until(world.now) == world.now + 60
            world.residency.retire(resident)
            assert resident.until(world.now) == -math.inf
        await world.use("b", keep_alive=30.0)
        (resident,) = world.residency.residents.values()
        assert resident.until(world.now + 10) == world.now + 30

    run(check)


def test_concurrent_requests_share_one_load() -> None:
    async def check(world: World) -> None:
        world.gate = asyncio.Event()
        both = [asyncio.ensure_future(world.use("a")) for _ in range(2)]
        await settle()
        world.gate.set()
        first, second = await asyncio.gather(*both)
        assert first is second
        assert world.loads == ["a"]

    run(check)


def test_each_request_restarts_its_own_models_timer_only() -> None:
    async def check(world: World) -> None:
        await world.use("a", 10)
        await world.use("b", 10)
        world.now += 9
        await world.use("a", 10)
        world.now += 9
        assert world.residency.expire() == 1
        assert world.held == {"a"}
        world.now += 1
        assert world.residency.expire() == 1
        assert world.held == set()

    run(check)


@pytest.mark.parametrize(("keep_alive", "held"), [(0.0, set()), (math.inf, {"a"})])
def test_zero_unloads_at_once_and_infinity_never(keep_alive: float, held: set[str]) -> None:
    async def check(world: World) -> None:
        await world.use("a", keep_alive)
        assert world.held == held
        world.now += 1e9
        world.residency.expire()
        assert world.held == held

    run(check)


def test_a_model_in_use_neither_expires_nor_gives_way() -> None:
    async def check(world: World) -> None:
        async with world.residency.use(ref("a"), 0):
            world.now += 100
            assert world.residency.expire() == 0
            waiting = asyncio.ensure_future(world.use("b"))
            await settle()
            assert not waiting.done(), "the only place is in use"
        await waiting
        assert world.held == {"b"}
        assert world.unloads == ["a"]

    run(check, max_models=1)


def test_the_least_recently_used_idle_model_gives_way() -> None:
    async def check(world: World) -> None:
        for name in ("a", "b"):
            await world.use(name, math.inf)
            world.now += 1
        await world.use("a", math.inf)
        world.now += 1
        await world.use("c")
        assert world.held == {"a", "c"}

    run(check)


def test_a_failed_load_is_told_to_all_who_wait_and_tried_anew() -> None:
    async def check(world: World) -> None:
        world.fail, world.gate = True, asyncio.Event()
        both = [asyncio.ensure_future(world.use("a")) for _ in range(2)]
        await settle()
        world.gate.set()
        assert [type(e) for e in await asyncio.gather(*both, return_exceptions=True)] == [RuntimeError] * 2
        assert world.held == set()
        world.fail = False
        await world.use("a")
        assert world.loads == ["a", "a"]

    run(check)


def test_one_who_gives_up_does_not_take_the_load_from_the_others() -> None:
    async def check(world: World) -> None:
        world.gate = asyncio.Event()
        first = asyncio.ensure_future(world.use("a"))
        second = asyncio.ensure_future(world.use("a"))
        await settle()
        first.cancel()
        await settle()
        world.gate.set()
        assert await second is not None
        assert world.loads == ["a"]
        assert world.residency.residents["a", "1"].users == 0

    run(check)


def test_a_new_snapshot_replaces_the_old_one_at_its_next_request() -> None:
    async def check(world: World) -> None:
        async with world.residency.use(ref("a", "1"), math.inf) as old:
            assert await world.use("a", math.inf, digest="2") is not old.model
            assert set(world.residency.residents) == {("a", "1"), ("a", "2")}
        assert set(world.residency.residents) == {("a", "2")}

    run(check)


def test_drop_waits_for_the_model_in_use() -> None:
    async def check(world: World) -> None:
        async with world.residency.use(ref("a"), math.inf):
            assert await world.residency.drop("a") == 1
            assert world.held == {"a"}
        assert world.held == set()
        assert await world.residency.drop("a") == 0

    run(check)


def test_models_that_are_due_go_at_once_however_long_an_unload_takes() -> None:
    async def check(world: World) -> None:
        for name in "ab":
            await world.use(name, 10)
        world.now += 20
        world.slow_unload = asyncio.Event()
        assert world.residency.expire() == 2
        assert world.held == set()
        await settle()
        assert world.unloads == ["a", "b"], "neither waits for the other"
        world.slow_unload.set()
        await settle()
        assert world.memory == []
        assert world.residency.going == {}

    run(check)


def test_an_answer_does_not_wait_for_the_unload_of_its_model() -> None:
    async def check(world: World) -> None:
        world.slow_unload = asyncio.Event()
        await world.use("a", 0)
        assert world.held == set()
        assert world.memory == ["a"]
        world.slow_unload.set()
        await settle()
        assert world.memory == []

    run(check)


@pytest.mark.parametrize("keep_alive", [60.0, 0.0])
def test_drop_answers_when_the_memory_of_an_idle_model_is_free(keep_alive: float) -> None:
    async def check(world: World) -> None:
        world.slow_unload = asyncio.Event()
        await world.use("other", 0)
        await world.use("a", keep_alive)
        dropping = asyncio.ensure_future(world.residency.drop("a"))
        await settle()
        assert world.held == set()
        assert not dropping.done()
        world.slow_unload.set()
        assert await dropping == (keep_alive > 0)
        assert "a" not in world.memory

    run(check, max_models=3)


def test_an_unload_that_fails_is_logged_and_its_model_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    async def check(world: World) -> None:
        async def fail(resident: Resident) -> None:
            raise RuntimeError("no way out")

        world.residency.unload = fail
        await world.use("a", 0)
        await world.residency.drop("a")
        assert world.held == set()
        assert world.residency.going == {}

    with caplog.at_level(logging.ERROR, "ray.serve"):
        run(check)
    assert "no way out" in caplog.text


def test_a_failed_load_leaves_its_successor_in_the_books() -> None:
    async def check(world: World) -> None:
        world.fail, world.gate = True, asyncio.Event()
        failing = asyncio.ensure_future(world.use("a"))
        await settle()
        world.gate.set()
        world.residency.load = world.load
        later = asyncio.ensure_future(world.use("a"))
        await settle()
        world.fail = False
        results = await asyncio.gather(failing, later, return_exceptions=True)
        assert isinstance(results[0], RuntimeError)
        model = await world.use("a")
        assert world.residency.residents["a", "1"].model is model

    run(check)


def test_who_gives_up_does_not_stop_an_unload() -> None:
    async def check(world: World) -> None:
        world.slow_unload = asyncio.Event()
        leaving = asyncio.ensure_future(world.use("a", 0))
        await settle()
        assert world.unloads == ["a"]
        leaving.cancel()
        await settle()
        world.slow_unload.set()
        await settle()
        assert world.held == set()

    run(check)


def test_a_load_may_take_as_long_as_the_most_patient_caller_waits() -> None:
    async def check(world: World) -> None:
        world.gate = asyncio.Event()

        async def wait(deadline: float) -> None:
            async with world.residency.use(ref("a"), 10, deadline):
                pass

        both = [asyncio.ensure_future(wait(deadline)) for deadline in (1300.0, 1100.0)]
        await settle()
        assert world.residency.residents["a", "1"].deadline == 1300.0
        world.gate.set()
        await asyncio.gather(*both)

    run(check)


def test_a_stopped_model_stays_for_who_asks_anew() -> None:
    async def check(world: World) -> None:
        async with world.residency.use(ref("a"), 60):
            await world.residency.drop("a")
            await world.use("a", 30)
        world.residency.expire()
        assert world.held == {"a"}

    run(check)


def test_a_retired_model_goes_when_its_last_user_leaves() -> None:
    async def check(world: World) -> None:
        async with world.residency.use(ref("a"), math.inf) as resident:
            async with world.residency.use(ref("a"), math.inf):
                world.residency.retire(resident)
            assert world.held == {"a"}
        assert world.held == set()

    run(check)


def test_a_retired_model_is_given_to_nobody_new_who_waits_for_a_fresh_one() -> None:
    async def check(world: World) -> None:
        async with world.residency.use(ref("a"), math.inf) as resident:
            world.residency.retire(resident)
            later = asyncio.ensure_future(world.use("a"))
            with pytest.raises(DeadlineExceeded, match="loaded anew"):
                await world.use("a", deadline=world.now + 1.15)
            await settle()
            assert not later.done()
        assert await later is not resident.model
        assert (world.loads, world.unloads) == (["a", "a"], ["a"])

    run(check)
