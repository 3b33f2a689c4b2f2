"""Who is held back after how many deaths, for how long, and who is not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from deployments.blackbox import LOADING, Death
from deployments.ingress import supervision
from deployments.ingress.supervision import FORGET_S, MOST_BACKOFF_S, Supervision
from tollama.errors import RunnerUnavailable


class World:
    """Deaths on record, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, restart_max: int = 3) -> None:
        self.now = 1000.0
        self.deaths: list[Death] = []
        self.fresh: list[Death] = []
        monkeypatch.setattr(supervision, "collect", lambda folder: (list(self.deaths), self._fresh()))
        self.supervision = Supervision(Path("none"), restart_max, 1.0, lambda: self.now)

    def _fresh(self) -> list[Death]:
        fresh, self.fresh = self.fresh, []
        return fresh

    def die(self, model: str | None = "m", reason: str = "crash", calls: Sequence[str] = ()) -> None:
        death = Death(f"f-{len(self.deaths)}", "f", reason, model, frozenset(calls), time.time())
        self.deaths.append(death)
        self.fresh.append(death)
        self.supervision.look()

    def ask(self, model: str = "m", *, fails: bool = False) -> bool:
        """Whether a request to the model is let through."""
        try:
            with self.supervision.gate(model):
                if fails:
                    raise ConnectionError
        except RunnerUnavailable:
            return False
        except ConnectionError:
            pass
        return True


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_a_model_is_held_back_alone_after_so_many_deaths(world: World) -> None:
    for _ in range(3):
        assert world.ask()
        world.die()
    with pytest.raises(RunnerUnavailable, match="'m' has ended its process 3 times") as refused:
        world.supervision.gate("m").__enter__()
    assert refused.value.retry_after == 1.0
    assert world.ask("sibling")


def test_the_pause_doubles_up_to_a_minute(world: World) -> None:
    for _ in range(3):
        world.die()
    for wait in (1, 2, 4, 8, 16, 32, 60, 60):
        world.now += wait - 0.1
        assert not world.ask()
        world.now += 0.2
        assert world.ask(fails=True)
        world.die()
    assert MOST_BACKOFF_S == 60


def test_one_request_tries_it_and_a_good_answer_lets_all_in(world: World) -> None:
    for _ in range(3):
        world.die()
    world.now += 1.1
    with world.supervision.gate("m"):
        assert not world.ask(), "one at a time"
    assert world.ask()
    world.die()
    assert not world.ask(), "what it did before still counts"


def test_deaths_are_forgotten_after_five_minutes_without_any(world: World) -> None:
    for _ in range(3):
        world.die()
    world.now += FORGET_S + 1
    assert world.ask(fails=True)
    world.die()
    assert world.ask()
    for _ in range(2):
        world.now += FORGET_S + 1
        world.die()
    assert world.ask()


def test_deaths_are_counted_once_and_by_reason(world: World) -> None:
    world.die()
    world.die(None, "hang")
    world.supervision.look()
    assert world.supervision.restarts == {("f", "crash"): 1, ("f", "hang"): 1}
    assert world.supervision.last["f"].reason == "hang"


def test_an_inquest_tells_the_computed_call_from_one_that_waited(world: World) -> None:
    sent = time.time()

    async def main() -> None:
        world.die(calls=["computed"])
        found = await world.supervision.inquest("f", "m", "computed", sent)
        assert found is not None
        assert await world.supervision.inquest("f", "m", "waited", sent) is None
        with pytest.raises(LookupError):
            await world.supervision.inquest("other", "m", "computed", sent)
        world.die(model=None)
        with pytest.raises(LookupError):
            await world.supervision.inquest("f", "m", "waited", time.time() - 0.001)
        world.die(calls=[LOADING])
        assert await world.supervision.inquest("f", "m", "waited", sent) is not None
        assert await world.supervision.inquest("f", "sibling", "waited", sent) is None

    asyncio.run(main())
