"""What the ingress does with a call that was lost or not taken up: who is asked again, who is told, and how often."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from ray.exceptions import ActorUnavailableError

from deployments.blackbox import LOADING, Death
from deployments.failures import HEALTH, MEMORY
from deployments.ingress import families, supervision
from deployments.ingress.families import FamilyClient
from deployments.ingress.starting import Starting
from deployments.ingress.supervision import Supervision
from deployments.ingress.turns import Gpus, Turns
from deployments.memory import HOST
from deployments.messages import Call, Progress, Refusal, Result, pack, unpack
from tollama.errors import DeadlineExceeded, QueueFull, RunnerFailed, RunnerUnavailable
from tollama.families import FamilySpec
from tollama.seam import SEAM_VERSION, Task
from tollama.version import __version__

RESULT = Result((pack([]),), 0, 0, 1, 1, "cpu", 1)
SMALL = {"kind": HOST, "needed_mb": 100.0, "available_mb": 40.0, "limit_mb": 1000.0, "lacking_mb": 60.0}
NO_ROOM = Refusal(RunnerUnavailable("There is no room.", detail=SMALL).record, alone=False, cause=MEMORY)

Outcome = Callable[[Call], Result | Refusal]


class Response:
    """What a handle gives: to be awaited, or iterated over."""

    def __init__(self, outcome: Callable[[], Awaitable[Any]], said: list[Progress]) -> None:
        self.outcome = outcome
        self.said = said
        self.cancelled = False

    def __await__(self) -> Any:
        return self.outcome().__await__()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for line in (Progress("accepted"), *self.said):
            yield pack(line)
        yield await self.outcome()

    def cancel(self) -> None:
        self.cancelled = True


class World:
    """A family whose process does as ``does`` says, one outcome after the other; the last one stays."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *does: Outcome, restart_max: int = 3) -> None:
        monkeypatch.setattr(families, "AGAIN_S", 0.0)
        monkeypatch.setattr(supervision, "INQUEST_S", 0.0)
        monkeypatch.setattr(supervision, "collect", lambda folder: (list(self.deaths), []))
        self.does = list(does)
        self.deaths: list[Death] = []
        self.sent: list[Call] = []
        self.said: list[Progress] = []
        self.pause = 0.0
        self.relief = SimpleNamespace(make_room=self.make_room)
        self.room = True
        self.asked_for_room: list[Any] = []
        self.supervision = Supervision(Path("none"), restart_max, 60.0)
        starting = MagicMock(spec=Starting, failure="it failed to start")
        type(starting).pause = property(lambda _: self.pause)
        starting.look.side_effect = self.no_news
        call = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self.remote))
        handle: Any = SimpleNamespace(
            forecast=call, options=lambda **_: SimpleNamespace(forecast_stream=call), broadcast=self.broadcast
        )
        self.replicas: list[Any] = []
        turns: Any = MagicMock(spec=Turns, gpus=Gpus())
        turns.mine.side_effect = self.no_news
        turns.shortage.return_value = None
        unused: Any = MagicMock()
        relief: Any = self.relief
        self.client = FamilyClient(
            FamilySpec("f", {}), handle, unused, self.supervision, 5, turns, starting, relief, unused
        )

    async def no_news(self, *_: Any) -> None:
        return None

    async def make_room(self, family: str, detail: Any) -> bool:
        self.asked_for_room.append(detail)
        return self.room

    def remote(self, blob: bytes) -> Response:
        async def outcome() -> bytes:
            await asyncio.sleep(0)
            call = unpack(blob)
            self.sent.append(call)
            return pack((self.does.pop(0) if len(self.does) > 1 else self.does[0])(call))

        return Response(outcome, self.said)

    def broadcast(self, method: str) -> Any:
        async def fetch() -> list[Any]:
            return self.replicas

        return SimpleNamespace(_fetch_replica_results_async=fetch)

    def die(self, model: str, *calls: str) -> None:
        self.deaths.append(Death(f"f-{len(self.deaths)}", "f", "crash", model, frozenset(calls), time.time()))
        raise ActorUnavailableError("gone", None)

    def ask(self, *models: str, timeout: float = 30.0, streamed: bool = False) -> list[Any]:
        """A request to each model, all at once: results and errors."""

        async def present() -> bool:
            return False

        async def lines(call: Call) -> Any:
            return [message async for message in self.client.stream(call)][-1]

        async def main() -> list[Any]:
            calls = [self.call(model, timeout) for model in models]
            return await asyncio.gather(
                *(lines(call) if streamed else self.client.forecast(call, present) for call in calls),
                return_exceptions=True,
            )

        return asyncio.run(main())

    def call(self, model: str, timeout: float = 30.0) -> Call:
        return Call(model, "d", b"", (pack([]),), 1, Task(1, (), {}), 0, time.time() + timeout, "id")

    def lines(self, model: str) -> list[Any]:
        """All that a streamed request is told."""

        async def main() -> list[Any]:
            return [message async for message in self.client.stream(self.call(model))]

        return asyncio.run(main())


def answer(_: Call) -> Result:
    return RESULT


streamed = pytest.mark.parametrize("streamed", [False, True])


@streamed
def test_what_only_waited_is_sent_again_however_often(monkeypatch: pytest.MonkeyPatch, streamed: bool) -> None:
    def another(_: Call) -> Result:
        world.die("other", LOADING)
        raise AssertionError

    world = World(monkeypatch, another, another, another, answer)
    (got,) = world.ask("m", streamed=streamed)
    assert got.parts == RESULT.parts
    assert len({call.id for call in world.sent}) == 4, "each try is another call on the record"


@streamed
def test_what_was_computed_is_told_and_not_sent_again(monkeypatch: pytest.MonkeyPatch, streamed: bool) -> None:
    def mine(call: Call) -> Result:
        world.die("m", call.id)
        raise AssertionError

    world = World(monkeypatch, mine)
    (got,) = world.ask("m", streamed=streamed)
    assert isinstance(got, RunnerFailed)
    assert "died during the request" in str(got)
    assert len(world.sent) == 1


@streamed
def test_without_a_record_it_is_sent_once_more(monkeypatch: pytest.MonkeyPatch, streamed: bool) -> None:
    def lost(_: Call) -> Result:
        raise ActorUnavailableError("gone", None)

    world = World(monkeypatch, lost)
    (got,) = world.ask("m", streamed=streamed)
    assert isinstance(got, RunnerFailed)
    assert len(world.sent) == 2


def test_those_who_wait_behind_a_poisonous_model_do_not_try_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue of its requests ends no more processes than one after the other would."""

    def poison(call: Call) -> Result:
        if call.model == "sound":
            return RESULT
        world.die("m", LOADING)
        raise AssertionError

    world = World(monkeypatch, poison)
    world.client._max_queue = 200
    got = world.ask(*["m"] * 160, "sound")
    assert got[-1].parts == RESULT.parts
    assert len(world.deaths) <= 3 + 2, "two calls of a kind are under way at once"
    assert {type(one) for one in got[:-1]} == {RunnerFailed, RunnerUnavailable}
    assert "has ended its process" in str(next(one for one in got if isinstance(one, RunnerUnavailable)))


@streamed
def test_a_process_that_is_being_replaced_is_not_the_last_word(monkeypatch: pytest.MonkeyPatch, streamed: bool) -> None:
    sick = Refusal(RunnerFailed("It has lost its GPU.").record, alone=False, cause=HEALTH)
    world = World(monkeypatch, lambda _: sick, lambda _: sick, answer)
    assert world.ask("m", streamed=streamed)[0].parts == RESULT.parts


@streamed
def test_others_are_asked_for_room(monkeypatch: pytest.MonkeyPatch, streamed: bool) -> None:
    world = World(monkeypatch, lambda _: NO_ROOM, answer)
    assert world.ask("m", streamed=streamed)[0].parts == RESULT.parts
    assert world.asked_for_room == [SMALL]


def test_a_stream_says_no_more_than_once_that_it_is_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, lambda _: NO_ROOM, lambda _: NO_ROOM, answer)
    world.said = [Progress("loading model")]
    said = world.lines("m")
    assert [one.status for one in said if isinstance(one, Progress)] == ["loading model"]


@streamed
def test_where_nobody_can_make_room_the_numbers_are_told(monkeypatch: pytest.MonkeyPatch, streamed: bool) -> None:
    world = World(monkeypatch, lambda _: NO_ROOM)
    world.room = False
    (got,) = world.ask("m", streamed=streamed)
    assert isinstance(got, RunnerUnavailable)
    assert got.detail == SMALL


@streamed
def test_room_is_asked_for_less_and_less_often(monkeypatch: pytest.MonkeyPatch, streamed: bool) -> None:
    world = World(monkeypatch, lambda _: NO_ROOM)
    monkeypatch.setattr(families, "AGAIN_S", 0.05)
    assert isinstance(world.ask("m", timeout=0.7, streamed=streamed)[0], DeadlineExceeded)
    assert 2 <= len(world.asked_for_room) <= 5, "after 0.05, 0.1, 0.2 s; every 0.05 s it would be 14 times"


@streamed
def test_who_waits_for_room_until_the_deadline_is_told_why(monkeypatch: pytest.MonkeyPatch, streamed: bool) -> None:
    world = World(monkeypatch, lambda _: NO_ROOM)
    (got,) = world.ask("m", timeout=0.3, streamed=streamed)
    assert isinstance(got, DeadlineExceeded)
    assert "There is no room" in str(got)


def test_a_full_queue_and_a_family_that_failed_to_start_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, answer)
    world.client.waiting = 5
    with pytest.raises(QueueFull):
        world.client.admit("m")
    world.client.waiting = 0
    world.client.admit("m")
    world.pause = 7.0
    with pytest.raises(RunnerUnavailable, match="it failed to start") as told:
        world.client.admit("m")
    assert told.value.retry_after == 7.0
    assert world.ask("m")[0].hint == "tollama runtime repair f"
    assert world.sent == []


def test_a_replica_that_does_not_answer_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "ASK_TIMEOUT_S", 0.05)
    world = World(monkeypatch, answer)

    async def well() -> str:
        return "well"

    async def frozen() -> str:
        await asyncio.Event().wait()
        return "never"

    async def dead() -> str:
        raise ActorUnavailableError("gone", None)

    world.replicas = [SimpleNamespace(get_async=one) for one in (frozen, well, dead)]
    assert asyncio.run(world.client.asked("ps")) == (["well"], 1)
    assert asyncio.run(world.client.ask("ps")) == ["well"]


@streamed
@pytest.mark.parametrize("identity", [("0.0.1", SEAM_VERSION), (__version__, SEAM_VERSION + 1)])
def test_an_answer_of_another_version_is_no_forecast(
    monkeypatch: pytest.MonkeyPatch, identity: tuple[str, int], streamed: bool
) -> None:
    world = World(monkeypatch, lambda _: replace(RESULT, identity=identity))
    (got,) = world.ask("m", streamed=streamed)
    assert isinstance(got, RunnerUnavailable)
    assert got.hint == "Restart the server."
