"""Room for models: idle ones give way, loads are admitted by what they need, what can never fit is refused."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from deployments.failures import MEMORY, OOM, Refused
from tests.unit.test_residency import World, ref, run, settle
from tollama.errors import DeadlineExceeded, RunnerUnavailable


def test_idle_models_give_way_to_memory_the_least_recently_used_first() -> None:
    async def check(world: World) -> None:
        for name in ("a", "b", "c"):
            await world.use(name, math.inf)
        await world.use("a", math.inf)
        await world.use("d")
        assert world.unloads == ["b", "c"], "as many as it takes, and no more"
        assert world.held == {"a", "d"}

    run(check, max_models=9, limit=100, a=30, b=30, c=30, d=60)


def test_a_model_in_use_is_waited_for_and_then_gives_way() -> None:
    async def check(world: World) -> None:
        async with world.residency.use(ref("a"), math.inf):
            waiting = asyncio.ensure_future(world.use("b"))
            await settle()
            assert not waiting.done()
            assert world.loads == ["a"]
            await world.use("small")
            assert world.held == {"a", "small"}, "what fits beside does not wait"
        await waiting
        assert world.held == {"b"}

    run(check, max_models=9, limit=100, a=60, b=95, small=10)


@pytest.mark.parametrize(("options", "told"), [({"a": 60, "b": 60}, "60 MB"), ({"max_models": 1}, "1 models")])
def test_who_waits_for_room_until_the_deadline_is_told_why(options: dict[str, Any], told: str) -> None:
    async def check(world: World) -> None:
        async with world.residency.use(ref("a"), math.inf):
            with pytest.raises(DeadlineExceeded, match=told) as raised:
                await world.use("b", deadline=world.now + 1.15)
            assert "in use" in str(raised.value)
        await world.use("b")

    run(check, limit=100, **options)


def test_a_model_that_can_never_fit_is_refused_with_the_numbers_and_costs_nobody_a_place() -> None:
    async def check(world: World) -> None:
        await world.use("a", math.inf)
        async with world.residency.use(ref("b"), math.inf):
            with pytest.raises(Refused) as raised:
                await world.use("big")
        assert raised.value.cause == MEMORY
        error = raised.value.error
        assert isinstance(error, RunnerUnavailable)
        numbers = {"kind": "memory", "needed_mb": 101.0, "available_mb": 60.0, "limit_mb": 100.0}
        assert error.detail == numbers | {"lacking_mb": 1.0}, "what is missing even if all that is here went"
        assert "TOLLAMA_MAX_MEMORY_FRACTION" in error.hint
        assert world.held == {"a", "b"}
        assert world.loads == ["a", "b"]

    run(check, limit=100, a=20, b=20, big=101)


@pytest.mark.parametrize("held", [True, False])
def test_memory_of_other_programs_is_not_waited_for(held: bool) -> None:
    async def check(world: World) -> None:
        if held:
            await world.use("a", math.inf)
        world.others = 60
        with pytest.raises(Refused, match="50 MB of memory, and") as raised:
            await world.use("b")
        assert raised.value.cause == MEMORY
        assert world.unloads == [], "its going would not have helped"
        world.others = 0
        await world.use("b")

    run(check, limit=100, a=10, b=50)


def test_two_loads_are_not_given_the_same_room() -> None:
    async def check(world: World) -> None:
        world.gate = asyncio.Event()
        both = [asyncio.ensure_future(world.use(name)) for name in "ab"]
        await settle()
        assert world.loads == ["a"]
        world.gate.set()
        await asyncio.gather(*both)
        assert world.unloads == ["a"]

    run(check, limit=100, a=60, b=60)


def test_a_load_half_done_is_no_reason_to_refuse_another() -> None:
    async def check(world: World) -> None:
        world.gate = asyncio.Event()
        first = asyncio.ensure_future(world.use("a"))
        await settle()
        world.others = 50  # what the load has taken so far
        second = asyncio.ensure_future(world.use("b"))
        await settle()
        assert not second.done()
        world.others = 0
        world.gate.set()
        await asyncio.gather(first, second)
        assert world.held == {"b"}

    run(check, limit=100, a=60, b=60)


def test_what_a_model_really_takes_makes_idle_ones_go_after_its_load() -> None:
    async def check(world: World) -> None:
        world.said = {}
        for name in ("a", "weightless", "b"):
            await world.use(name, math.inf)
        assert world.unloads == []
        async with world.residency.use(ref("c"), 60):
            assert world.unloads == ["a"]
        assert world.held == {"weightless", "b", "c"}

    run(check, max_models=9, limit=100, a=40, b=40, c=50)


def test_what_needs_next_to_nothing_fits_into_a_full_memory() -> None:
    async def check(world: World) -> None:
        world.others = 200
        await world.use("a", math.inf)
        await world.use("b", math.inf)
        assert world.held == {"a", "b"}

    run(check, limit=100, b=5)


def test_a_load_that_runs_out_of_memory_is_tried_once_more_without_the_idle_ones() -> None:
    async def check(world: World) -> None:
        world.said = {}
        for name in ("a", "b"):
            await world.use(name, math.inf)
        await world.use("c")
        assert world.loads == ["a", "b", "c", "c"]
        assert world.unloads == ["a", "b"]
        with pytest.raises(Refused) as raised:
            await world.use("huge")
        assert raised.value.cause == OOM
        assert world.loads[4:] == ["huge", "huge"]
        with pytest.raises(Refused):
            await world.use("huge")
        assert world.loads[6:] == ["huge"], "nothing could go: once is enough"
        await world.use("a")

    run(check, max_models=9, real=100, a=30, b=30, c=60, huge=101)


@pytest.mark.parametrize("keep_alive", [0.0, math.inf])
def test_memory_that_is_on_its_way_back_is_waited_for(keep_alive: float) -> None:
    async def check(world: World) -> None:
        await world.use("idle", math.inf)
        world.slow_unload = asyncio.Event()
        await world.use("a", keep_alive)
        if keep_alive:
            dropping = asyncio.ensure_future(world.residency.drop("a"))
            await settle()
            dropping.cancel()
        waiting = asyncio.ensure_future(world.use("b"))
        await settle()
        assert not waiting.done()
        with pytest.raises(Refused):
            await world.use("big")
        world.slow_unload.set()
        await waiting
        assert world.held == {"idle", "b"}, "nobody else had to go"

    run(check, max_models=9, limit=100, idle=10, a=60, b=60, big=101)


def test_what_is_on_its_way_out_counts_before_idle_models_go_after_a_load() -> None:
    async def check(world: World) -> None:
        world.said = {}
        await world.use("idle", math.inf)
        world.slow_unload = asyncio.Event()
        await world.use("a", 0)
        loading = asyncio.ensure_future(world.use("c"))
        await settle()
        assert world.unloads == ["a"]
        world.slow_unload.set()
        await loading
        assert world.held == {"idle", "c"}

    run(check, max_models=9, limit=100, idle=40, a=40, c=50)


def test_a_second_try_after_memory_ran_out_comes_when_the_idle_ones_are_gone() -> None:
    async def check(world: World) -> None:
        world.said = {}
        await world.use("a", math.inf)
        world.slow_unload = asyncio.Event()
        loading = asyncio.ensure_future(world.use("b"))
        await settle()
        assert (world.loads, world.unloads) == (["a", "b"], ["a"])
        world.slow_unload.set()
        await loading
        assert world.held == {"b"}

    run(check, max_models=9, real=100, a=60, b=60)


def test_idle_models_are_spared_for_others_the_least_recently_used_first() -> None:
    async def check(world: World) -> None:
        for name in ("a", "weightless", "b", "c"):
            await world.use(name, math.inf)
        async with world.residency.use(ref("a"), math.inf):
            assert await world.residency.spare(25) == 30
            assert world.held == {"a", "weightless", "c"}
            assert await world.residency.spare(1000) == 30
            assert world.held == {"a", "weightless"}
            assert await world.residency.spare(1) == 0
        world.slow_unload = asyncio.Event()
        await world.use("b", math.inf)
        await world.use("a", 0)
        sparing = asyncio.ensure_future(world.residency.spare(30))
        await settle()
        assert not sparing.done()
        world.slow_unload.set()
        assert await sparing == 30, "what was on its way out is enough"
        assert world.held == {"b", "weightless"}

    run(check, max_models=9, a=30, b=30, c=30)
