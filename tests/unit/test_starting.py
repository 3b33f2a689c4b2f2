"""How often Serve's controller is asked, and for how long a family that failed to start is left alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from deployments.ingress import starting
from deployments.ingress.starting import Controller, Starting

FAILED = SimpleNamespace(
    status=SimpleNamespace(value="UNHEALTHY"), status_trigger="REPLICA_STARTUP_FAILED", replica_states={}
)
IDLE = SimpleNamespace(status=SimpleNamespace(value="HEALTHY"), status_trigger="", replica_states={})


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(starting, "time", SimpleNamespace(monotonic=lambda: self.now))


def family(found: dict[str, Any], clock: Clock, late: float = 0.0, backoff: float = 1.0) -> Starting:
    """One whose controller says ``found``, and knows it since ``late`` seconds."""

    class Slow:
        async def look(self) -> Mapping[str, Any]:
            return found

        @property
        def seen_at(self) -> float:
            return clock.now - late

    controller: Any = Slow()
    return Starting("f", MagicMock(), controller, backoff)


def test_a_family_that_fails_to_start_is_left_alone_twice_as_long_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, found = Clock(monkeypatch), {"f": IDLE}
    one = family(found, clock)

    async def main() -> None:
        for pause in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0):
            assert await one.look() is None
            found["f"] = FAILED
            assert "failed to start" in str(await one.look())
            assert one.pause == pause
            clock.now += 0.5
            await one.look()
            assert one.pause == pause - 0.5, "the same failure seen again is no other one"
            clock.now += pause
            assert one.pause == 0
            found["f"] = IDLE
        found["f"] = FAILED
        for pause in (60.0, 60.0):
            clock.now += 61
            await one.look()
            assert one.pause == pause, "it stays so while Serve says so"
        one.answered()
        assert one.pause == 0
        clock.now += starting.RUNS_S
        found["f"] = FAILED
        await one.look()
        assert one.pause == 1.0, "it ran in between"

    asyncio.run(main())


def test_an_old_failure_is_not_taken_for_one_of_the_next_try(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, found = Clock(monkeypatch), {"f": FAILED}
    one = family(found, clock, late=0.6)

    async def main() -> None:
        assert await one.look() is not None
        clock.now += 0.9
        assert await one.look() is not None, "who waited since before the pause is told, too"
        clock.now += 0.2
        assert await one.look() is None, "it was seen before the pause was over"
        found.clear()
        clock.now += 9
        assert await one.look() is None, "the controller says nothing"
        assert one.failure is not None, "what was last known of it is told"
        found["f"] = FAILED
        assert await one.look() is not None
        assert one.pause == 2.0

    asyncio.run(main())


def test_one_look_serves_all_who_wait_and_none_waits_for_a_controller_that_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    away, looks = threading.Event(), []

    def status() -> Mapping[str, Any]:
        looks.append(threading.current_thread().name)
        if len(looks) == 2:
            away.wait(10)
        if len(looks) == 3:
            raise ConnectionError
        return {"f": len(looks)}

    monkeypatch.setattr(starting, "_deployments", status)
    monkeypatch.setattr(starting, "ANSWER_S", 0.05)
    clock = Clock(monkeypatch)

    async def main() -> None:
        controller = Controller()
        assert await asyncio.gather(*(controller.look() for _ in range(5))) == [{"f": 1}] * 5
        assert len(looks) == 1
        clock.now += starting.LOOK_S
        assert await asyncio.gather(*(controller.look() for _ in range(5))) == [{"f": 1}] * 5, "what was last seen"
        clock.now += starting.LOOK_S
        await controller.look()
        assert len(looks) == 2, "never two under way"
        away.set()
        while (await controller.look()) != {"f": 2}:
            pass
        clock.now += starting.LOOK_S
        assert await controller.look() == {"f": 2}, "it failed"
        clock.now += starting.LOOK_S
        assert await controller.look() == {"f": 4}
        assert {name.partition("_")[0] for name in looks} == {"status"}
        controller.close()

    asyncio.run(main())
