"""GPU shares in the scaling policy: who gets one, who gives way, who waits."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.scaling import PATIENCE_S, STUCK_S, fits
from tests.unit.test_scaling import World, world

# Sharing.


@pytest.mark.parametrize(
    ("shares", "gpus", "fit"),
    [
        ([], 0, True),
        ([0.1], 0, False),
        ([0.4, 0.3, 0.3], 1, True),
        ([0.1] * 10, 1, True),
        ([0.1] * 11, 1, False),
        ([0.6, 0.6], 2, True),
        ([0.6, 0.6, 0.6], 2, False),
        ([0.6, 0.6, 0.6], 3, True),
        ([0.4, 0.6, 0.4, 0.6], 2, True),
        ([1, 1], 2, True),
        ([2], 2, True),
        ([2], 1, False),
        ([2, 0.1], 2, False),
        ([1, 0.5, 0.5], 2, True),
    ],
)
def test_shares_are_packed_per_gpu(shares: list[float], gpus: int, fit: bool) -> None:
    assert fits(shares, gpus) is fit


def test_two_share_one_gpu_and_keep_what_they_hold() -> None:
    made = world("a", "b")
    assert made.run(3600) == {"a": 1, "b": 1, "c": 0}


def test_the_least_recently_used_idle_family_gives_way() -> None:
    made = world("a", "b")
    made.tell(c=1)
    assert made.step() == {"a": 0, "b": 1, "c": 1}
    made.tell(c=0, a=1)
    made.step()
    assert made.step() == {"a": 1, "b": 0, "c": 1}


def test_use_counts_not_start() -> None:
    made = world("a", "b")
    made.tell(a=1)
    made.step()
    made.tell(a=0, c=1)
    made.step()
    assert made.step() == {"a": 1, "b": 0, "c": 1}


def test_a_use_that_only_the_replica_saw_counts_too() -> None:
    made = world("a", "b")
    made["a"].last_used = made.now + 0.05
    made.tell(c=1)
    assert made.step() == {"a": 1, "b": 0, "c": 1}


def test_busy_families_are_waited_for() -> None:
    made = world("a", "b")
    made.tell(a=1, b=1, c=1)
    assert made.run(600) == {"a": 1, "b": 1, "c": 0}
    made.tell(b=0)
    assert made.step() == {"a": 1, "b": 0, "c": 1}


def test_no_more_give_way_than_must() -> None:
    """The oldest lies on the other card."""
    made = world("a", "b", "c", gpus=2, shares={"a": 0.3, "b": 0.7, "c": 0.6, "d": 0.7})
    made.tell(d=1)
    assert made.step() == {"a": 1, "b": 0, "c": 1, "d": 1}


def test_nobody_gives_way_in_vain() -> None:
    made = world("a", "b", shares={"a": 0.5, "b": 0.5, "c": 1.0})
    made.tell(b=1, c=1)
    assert made.run(60) == {"a": 1, "b": 1, "c": 0}
    made.tell(b=0)
    assert made.step() == {"a": 0, "b": 0, "c": 1}


def test_who_waits_longer_comes_first() -> None:
    made = world("a", "b", shares={"a": 0.5, "b": 0.5, "c": 0.5, "d": 0.5})
    made.tell(a=1, b=1, d=1)
    made.step()
    made.tell(c=1)
    made.run(1)
    made.tell(a=0)
    assert made.step() == {"a": 0, "b": 1, "c": 0, "d": 1}
    made.tell(b=0)
    assert made.step() == {"a": 0, "b": 0, "c": 1, "d": 1}


def test_who_needs_more_is_passed_for_a_while_only() -> None:
    shares = {"a": 0.5, "b": 0.5, "c": 1.0, "d": 0.5, "e": 0.5}
    made = world("a", "b", shares=shares)
    made.tell(a=1, b=1, c=1)
    made.run(PATIENCE_S / 2)
    made.tell(b=0, d=1)
    assert made.step() == {"a": 1, "b": 0, "c": 0, "d": 1, "e": 0}
    made.run(PATIENCE_S)
    made.tell(a=0, e=1)
    assert made.run(10) == {"a": 1, "b": 0, "c": 0, "d": 1, "e": 0}, "the door is closed"
    made.tell(d=0)
    assert made.step() == {"a": 0, "b": 0, "c": 1, "d": 0, "e": 0}


def test_what_can_never_fit_is_not_started_and_hinders_nobody() -> None:
    made = World(1, {"a": 2.0, "b": 0.5})
    made.tell(a=1)
    assert made.run(60) == {"a": 0, "b": 0}
    made.tell(b=1)
    assert made.step() == {"a": 0, "b": 1}


def test_one_that_does_not_start_though_it_fits_gets_the_room_of_an_idle_one() -> None:
    made = world("a", shares={"a": 0.4, "b": 0.5})
    made.pending = {"b"}
    made.tell(b=1)
    assert made.run(STUCK_S) == {"a": 1, "b": 1}
    assert made.run(2) == {"a": 0, "b": 1}


def test_more_replicas_only_where_there_is_room_and_nobody_waits() -> None:
    made = world("a")
    made.tell(a=100)
    made.step()
    assert made.step() == {"a": 2, "b": 0, "c": 0}
    made.tell(b=1)
    made.step()
    assert made.step() == {"a": 1, "b": 1, "c": 0}


def test_a_busy_family_does_not_grow_into_what_another_waits_for() -> None:
    made = world("a", shares={"a": 0.5, "b": 1.0})
    made.tell(a=100, b=1)
    assert made.run(10) == {"a": 1, "b": 0}


def test_a_family_whose_clients_left_gives_its_place_back() -> None:
    made = world("a", "b")
    made.pending = {"c"}
    made.tell(c=1)
    assert made.step() == {"a": 0, "b": 1, "c": 1}
    made.tell(c=0)
    assert made.step() == {"a": 0, "b": 1, "c": 0}


# Whatever happens.

SHARES = st.sampled_from([0.1, 0.3, 0.4, 0.5, 0.6, 1.0, 2.0])
NAMES = "abcde"
EVENTS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from([0, 0, 1, 3, 9]), st.sampled_from([0.1, 0.5, 2.0, 11.0])),
    max_size=40,
)


def waiting(made: World) -> Iterable[str]:
    return (name for name, c in made.contexts.items() if c.calls and not c.target_num_replicas)


@settings(deadline=None)
@given(gpus=st.integers(1, 4), shares=st.lists(SHARES, min_size=2, max_size=5), events=EVENTS)
def test_laws(gpus: int, shares: list[float], events: list[tuple[str, int, float]]) -> None:
    made = World(gpus, dict(zip(NAMES, shares, strict=False)))
    for name, requests, seconds in events:
        if name not in made.contexts:
            continue
        made.tell(**{name: requests})
        made.step(seconds)
        before = made.targets
        made.step(0.05)
        assert fits(made.taken(), gpus), "never more shares than cards"
        for other, context in made.contexts.items():
            if before[other] and context.calls:
                assert context.target_num_replicas, "a busy family is waited for"
        queue = sorted(waiting(made), key=lambda n: (made[n].policy_state["waiting"], n))
        queue = [n for n in queue if fits([made[n].share], gpus)]
        if queue:
            busy = [c.share for c in made.contexts.values() if c.target_num_replicas and c.calls]
            first = made[queue[0]].share
            assert not fits([*busy, first], gpus), "no idle family is kept from the first who waits"
    made.tell(**dict.fromkeys(made.contexts, 0))
    for context in made.contexts.values():
        context.hold = 0.0
    made.step(1)
    for context in made.contexts.values():
        context.hold = 0.0
    made.step(1)
    made.step(1)
    assert set(made.targets.values()) == {0}, "nobody waits and nothing is held"


@settings(deadline=None, max_examples=40)
@given(
    gpus=st.integers(1, 2),
    shares=st.lists(st.sampled_from([0.3, 0.5, 0.6, 1.0]), min_size=2, max_size=5),
    hold=st.integers(1, 8),
)
def test_nobody_starves(gpus: int, shares: list[float], hold: int) -> None:
    """Everybody asks all the time. The ingress lets none go on for ever while another waits (turns.py): here, ``hold``
    ticks. Each family gets its turn."""
    names = NAMES[: len(shares)]
    made = World(gpus, dict(zip(names, shares, strict=True)))
    made.tell(**dict.fromkeys(names, 1))
    served: dict[str, int] = dict.fromkeys(names, 0)
    turn: dict[str, int] = dict.fromkeys(names, 0)
    for _ in range(60 * len(names)):
        made.step(1.0)
        for name, context in made.contexts.items():
            turn[name] = turn[name] + 1 if context.current_num_replicas else 0
            served[name] += turn[name] > 0
            context.calls = 0 if turn[name] >= hold and any(waiting(made)) else 1
    assert min(served.values()) > hold, served
