"""The scaling policy as a pure function of what Serve tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.scaling import AGAIN_S, RECOVERY_S, Policy

START = 1000.0


@dataclass
class Context:
    """What Serve's context has of what the policy reads."""

    calls: float = 0.0
    polls: float = 0.0
    """Those of diagnostics, which Serve counts, too."""
    more: int = 0
    """Further replicas that hold models."""
    current_num_replicas: int = 0
    target_num_replicas: int = 0
    hold: float = 0.0
    last_used: float = 0.0
    wanted: float = 0.0
    """Whether somebody wants its memory."""
    deployment_name: str = "mock"
    capacity_adjusted_max_replicas: int = 4
    policy_state: dict[str, Any] = field(default_factory=dict)
    share: float = 0.0
    gpus: int = 0
    setting: dict[str, float] = field(default_factory=dict)
    """The linger that an operator set, as the builder passes it on."""

    @property
    def aggregated_metrics(self) -> dict[str, dict[str, float]]:
        if not self.current_num_replicas:
            return {}
        hold = {"r": self.hold} | {f"r{number}": 1.0 for number in range(self.more)}
        told = {"hold": hold, "last_used": {"r": self.last_used}, "calls": {"r": self.calls}}
        return told | {"wanted": {"r": self.wanted}}

    @property
    def total_num_requests(self) -> float:
        return self.calls + (self.polls if self.current_num_replicas else 0.0)

    @property
    def total_queued_requests(self) -> float:
        return 0.0 if self.current_num_replicas else self.calls

    @property
    def config(self) -> Any:
        told = {"share": self.share, "gpus": self.gpus, **self.setting}
        return SimpleNamespace(policy=SimpleNamespace(policy_kwargs=told))


class World:
    """Families as Serve would run them: targets follow the policy, replicas follow their targets a step later. A family
    holds a model from its first request on."""

    def __init__(self, gpus: int = 0, shares: Mapping[str, float] | None = None, most: int = 4, **policy: Any) -> None:
        self.now = START - RECOVERY_S
        self.policy = Policy(clock=lambda: self.now, **policy)
        self.now = START
        self.contexts = {
            name: Context(deployment_name=name, share=share, gpus=gpus, capacity_adjusted_max_replicas=most)
            for name, share in (shares or {"mock": 0.0}).items()
        }
        self.pending: set[str] = set()
        """Families whose replicas Ray has no place for."""

    def __getitem__(self, name: str) -> Context:
        return self.contexts[name]

    def tell(self, **requests: float) -> None:
        """How many requests these families have now."""
        for name, number in requests.items():
            self[name].calls = number

    def step(self, seconds: float = 0.1) -> dict[str, int]:
        """One tick of Serve's controller; the targets after it."""
        self.now += seconds
        for name, context in self.contexts.items():
            context.current_num_replicas = 0 if name in self.pending else context.target_num_replicas
            if context.current_num_replicas and context.calls:
                context.hold, context.last_used = 1.0, self.now
            if not context.current_num_replicas:
                context.hold = 0.0
        wanted, state = self.policy(self.contexts)
        for name, context in self.contexts.items():
            context.policy_state = state[name]
            if name in wanted:
                if wanted[name] == 0 and context.current_num_replicas == 0 and context.calls:
                    raise AssertionError("Serve starts a family that is waited for when it is told 0")
                context.target_num_replicas = wanted[name]
        return self.targets

    @property
    def targets(self) -> dict[str, int]:
        return {name: context.target_num_replicas for name, context in self.contexts.items()}

    def run(self, seconds: float) -> dict[str, int]:
        """Many ticks."""
        for _ in range(int(seconds / 0.5)):
            self.step(0.5)
        return self.targets

    def taken(self) -> list[float]:
        return [c.share for c in self.contexts.values() if c.share for _ in range(c.target_num_replicas)]


HALVES = {"a": 0.5, "b": 0.5, "c": 0.5}


def world(*running: str, gpus: int = 1, shares: Mapping[str, float] = HALVES, **policy: Any) -> World:
    """Families that share GPUs; ``running`` have had a request each, in this order, and hold a model for ever."""
    made = World(gpus, shares, **policy)
    for name in running:
        made.tell(**{name: 1})
        made.step()
        made.step()
        made.tell(**{name: 0})
        made.step()
    assert [name for name, target in made.targets.items() if target] == sorted(running)
    return made


# One family alone.


@pytest.mark.parametrize(
    ("context", "wanted"),
    [
        ({}, 0),
        ({"calls": 1}, 1),
        ({"calls": 3}, 2),
        ({"calls": 1e6}, 4),
        ({"current_num_replicas": 1, "target_num_replicas": 1, "hold": 1}, 1),
        ({"current_num_replicas": 1, "target_num_replicas": 0, "hold": 1}, 0),
        ({"current_num_replicas": 0, "target_num_replicas": 1}, 0),
    ],
    ids=["nobody", "one waits", "by load", "at most max", "holds a model", "on its way out", "given up by Serve"],
)
def test_replicas(context: dict[str, Any], wanted: int) -> None:
    world = World()
    assert world.policy({"x": Context(**context)})[0] == {"x": wanted}


def test_a_family_that_died_of_a_call_is_started_for_those_that_will_be_sent_again() -> None:
    world = World()
    world.tell(mock=2)
    world.run(1)
    world.pending = {"mock"}  # its process has ended
    world.tell(mock=0)
    assert world.run(AGAIN_S - 0.5) == {"mock": 1}
    world.tell(mock=1)
    assert world.run(20) == {"mock": 1}
    world.tell(mock=0)
    assert world.step() == {"mock": 0}, "it did not run again: Serve may have given it up"


def test_a_family_that_died_idle_is_not_started_again() -> None:
    world = World()
    world.tell(mock=1)
    world.run(1)
    world.tell(mock=0)
    assert world.run(AGAIN_S) == {"mock": 1}
    world.pending = {"mock"}
    assert world.step() == {"mock": 0}


def test_a_new_controller_finds_replicas_again_before_it_lets_any_go() -> None:
    found = Context(current_num_replicas=0, target_num_replicas=1)
    now = START
    policy = Policy(clock=lambda: now)
    assert policy({"x": found})[0] == {"x": 1}
    now += RECOVERY_S
    assert policy({"x": found})[0] == {"x": 0}


@pytest.mark.parametrize(
    ("linger", "setting", "share", "seconds"),
    [
        (None, None, 0.0, 60),
        (None, None, 0.5, 0.6),
        (7, None, 0.0, 7),
        (7, None, 0.5, 7),
        (0, None, 0.0, 0.6),
        (None, 7, 0.0, 7),
        (None, 7, 0.5, 7),
        (9, 7, 0.0, 7),
        (9, 0, 0.0, 0.6),
    ],
)
def test_an_empty_process_lingers(linger: float | None, setting: float | None, share: float, seconds: float) -> None:
    made = World(1, {"mock": share}, linger=linger)
    if setting is not None:
        made["mock"].setting = {"linger": setting}
    made.tell(mock=1)
    made.step()
    made.step()
    made.tell(mock=0)
    made["mock"].hold = 0.0
    made.step(0.1)
    made.step(seconds - 0.1)
    assert made.targets == {"mock": 1}
    assert made.step(0.2) == {"mock": 0}


def test_an_empty_process_whose_memory_is_wanted_does_not_linger() -> None:
    made = World(linger=60)
    made.tell(mock=1)
    made.step()
    made.step()
    made.tell(mock=0)
    made["mock"].wanted = 1.0
    assert made.run(5) == {"mock": 1}, "it holds a model"
    made["mock"].hold = 0.0
    assert made.run(2) == {"mock": 0}


def test_the_linger_begins_when_the_last_model_has_gone() -> None:
    made = World(linger=10)
    made.tell(mock=1)
    made.step()
    made.step()
    made.tell(mock=0)
    made.run(300)
    assert made.targets == {"mock": 1}
    made["mock"].hold = 0.0
    made.run(9)
    assert made.targets == {"mock": 1}
    assert made.run(3) == {"mock": 0}


def test_a_family_of_short_calls_is_not_empty() -> None:
    """Serve looks at the number of requests five times a second and misses short ones."""
    made = World(linger=0)
    made.tell(mock=1)
    made.step()
    made.step()
    made.tell(mock=0)
    for _ in range(20):
        made["mock"].hold, made["mock"].last_used = 0.0, made.now
        assert made.step(0.2) == {"mock": 1}


def test_more_replicas_by_load_and_fewer_when_the_load_has_been_lower_for_a_while() -> None:
    made = World(settle=30)
    made.tell(mock=6)
    made.step()
    assert made.step() == {"mock": 3}
    made.tell(mock=2)
    made.run(20)
    assert made.targets == {"mock": 3}
    made.tell(mock=6)
    made.step()
    made.tell(mock=0)
    made.run(25)
    assert made.targets == {"mock": 3}, "the lull began anew"
    assert made.run(10) == {"mock": 1}, "one holds the models"


def test_a_replica_that_holds_models_stays_however_low_the_load() -> None:
    made = World(settle=1)
    made.tell(mock=4)
    made.step()
    assert made.step() == {"mock": 2}
    made.tell(mock=0)
    made["mock"].more = 1
    assert made.run(60) == {"mock": 2}
    made["mock"].more = 0
    assert made.run(5) == {"mock": 1}


def test_who_only_looks_keeps_no_family() -> None:
    made = World(linger=5)
    made.tell(mock=1)
    made.step()
    made.step()
    made.tell(mock=0)
    made["mock"].polls, made["mock"].hold = 1, 0.0
    assert made.run(4) == {"mock": 1}
    assert made.run(2) == {"mock": 0}


def test_who_only_looks_does_not_make_an_idle_family_busy() -> None:
    made = world("a", "b")
    made.tell(c=1)
    made["a"].polls = made["b"].polls = 1
    made.run(5)
    assert made.targets == {"a": 0, "b": 1, "c": 1}


def test_a_call_on_its_way_is_no_poll() -> None:
    """Replicas tell their calls five times a second; what they have not told yet counts all the same."""
    made = world("a", "b")
    made.tell(b=1, c=1)
    made["a"].polls = 1
    made.step(0.5)
    made["a"].polls = 0
    made.tell(a=1)
    made.run(3)
    assert made.targets == {"a": 1, "b": 1, "c": 0}


def test_families_without_a_share_are_decided_one_by_one() -> None:
    made = World(1, {"mock": 0.0, "baseline": 0.0, "a": 1.0})
    made.tell(mock=1, baseline=1, a=1)
    made.step()
    assert made.step() == {"mock": 1, "baseline": 1, "a": 1}
