"""Who lets whom pass when GPUs are short, over one or several ingress replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path

import pytest

from deployments.app import FamilyArgs, shares
from deployments.ingress.turns import STALE_S, Gpus, Turns
from tollama.families import FamilySpec

GPUS = Gpus(1, {"a": 0.5, "b": 0.5, "c": 0.5})
BOTH = {"a": 1, "b": 1}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def turns(tmp_path: Path, clock: Clock) -> Turns:
    return Turns(GPUS, tmp_path / "turns", patience=5, clock=clock, own=1)


@pytest.fixture
def other(turns: Turns, tmp_path: Path, clock: Clock) -> Turns:
    """Another ingress replica's."""
    return Turns(GPUS, tmp_path / "turns", patience=5, clock=clock, own=2)


def passes(turn: Awaitable[None]) -> bool:
    """Whether it is this family's turn."""

    async def ask() -> bool:
        try:
            await asyncio.wait_for(turn, 0.01)
        except TimeoutError:
            return False
        return True

    return asyncio.run(ask())


def wait(turns: Turns, clock: Clock, seconds: float) -> None:
    """The family c is waited for, beside a and b."""
    for _ in range(int(seconds)):
        clock.now += 1
        turns.look("c", BOTH)


def test_who_has_waited_long_enough_is_let_pass(turns: Turns, clock: Clock) -> None:
    turns.look("c", BOTH)
    wait(turns, clock, 4)
    assert passes(turns.mine("a"))
    wait(turns, clock, 1)
    assert not passes(turns.mine("a"))
    assert not passes(turns.mine("b"))
    assert passes(turns.mine("c")), "what it sends is what tells the policy that it waits"
    assert passes(turns.mine("mock")), "it takes no GPU"


@pytest.mark.parametrize("replicas", [{"a": 1, "b": 0}, {"a": 1, "c": 1}], ids=["there is room", "it runs"])
def test_the_others_go_on_when_it_has_room(turns: Turns, clock: Clock, replicas: dict[str, int]) -> None:
    wait(turns, clock, 6)
    assert not passes(turns.mine("a"))
    turns.look("c", replicas)
    clock.now += 1
    assert passes(turns.mine("a"))
    assert turns.shortage("c") is None


def test_the_others_go_on_when_nobody_waits_any_more(turns: Turns, clock: Clock) -> None:
    wait(turns, clock, 6)

    async def scene() -> None:
        held = asyncio.ensure_future(turns.mine("a"))
        await asyncio.sleep(0)
        assert not held.done()
        turns.forget("c")
        clock.now += 1
        await asyncio.wait_for(held, 10)

    asyncio.run(scene())


def test_those_who_wait_themselves_are_not_held_back(turns: Turns, clock: Clock) -> None:
    wait(turns, clock, 6)
    turns.look("b", {"a": 2})
    assert passes(turns.mine("b"))
    assert not passes(turns.mine("a"))


def test_the_reason_in_words(turns: Turns) -> None:
    assert turns.shortage("c") is None
    turns.look("c", {"mock": 1, **BOTH})
    assert turns.shortage("c") == "it waited for its share of a GPU (0.5 of 1); in use: a, b"


def test_ingress_replicas_know_of_one_another(turns: Turns, other: Turns, clock: Clock) -> None:
    wait(turns, clock, 6)
    assert not passes(other.mine("a"))
    assert passes(other.mine("c"))
    assert other.shortage("c") is None, "there it is not waited for"
    other.look("c", BOTH)
    turns.forget("c")
    clock.now += 1
    assert passes(other.mine("a")), "there it has only just come"


def test_the_signs_of_a_dead_ingress_are_forgotten(turns: Turns, other: Turns, clock: Clock) -> None:
    wait(turns, clock, 6)
    assert not passes(other.mine("a"))
    clock.now += STALE_S
    assert passes(other.mine("a"))


def given(name: str = "x", default: float = 0.5, **args: object) -> dict[str, tuple[FamilySpec, FamilyArgs]]:
    return {name: (FamilySpec(name, {}, num_gpus=default), FamilyArgs.model_validate(args))}


@pytest.mark.parametrize(
    ("args", "number", "share"),
    [
        ({}, 1, 0.5),
        ({}, 0, None),
        ({"num_gpus": 0.2}, 1, 0.2),
        ({"num_gpus": 0}, 1, None),
        ({"num_gpus": 8}, 0, None),
        ({"device": "cpu"}, 1, None),
        ({"device": "cuda"}, 1, 0.5),
    ],
)
def test_shares_come_from_the_arguments_else_the_family(args: dict[str, object], number: int, share: float) -> None:
    assert shares(given(**args), number) == Gpus(number, {} if share is None else {"x": share}, {})


@pytest.mark.parametrize(
    ("args", "number", "told"),
    [
        ({"num_gpus": 2}, 1, "The family 'x' needs 2 GPUs, and the cluster has 1."),
        ({"device": "cuda"}, 0, "its num_gpus is 0.5, and the cluster has 0 GPUs"),
        ({"device": "cuda", "num_gpus": 0}, 2, "its num_gpus is 0, and the cluster has 2 GPUs"),
    ],
)
def test_what_can_never_fit_is_refused_with_the_numbers(args: dict[str, object], number: int, told: str) -> None:
    assert told in shares(given(**args), number).refused["x"]


@pytest.mark.parametrize("share", [0, 0.25, 1, 2])
def test_shares_that_ray_can_count(share: float) -> None:
    assert FamilyArgs(num_gpus=share).num_gpus == share


@pytest.mark.parametrize("share", [-1, 1.5])
def test_shares_that_ray_cannot_count(share: float) -> None:
    with pytest.raises(ValueError, match="num_gpus"):
        FamilyArgs(num_gpus=share)
