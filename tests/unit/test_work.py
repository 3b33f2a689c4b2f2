"""The series of one call in parts: who fails alone, who is served, and what it may cost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from deployments import memory
from deployments.failures import CUDA, OOM, Refused
from deployments.messages import Progress
from deployments.work import GIVE_UP, NOT_TRIED, Answer, Fault, Work, attempted
from tollama.capabilities import Capabilities
from tollama.errors import InvalidSeries, RunnerFailed
from tollama.seam import Item, ItemFailure, ItemForecast, ModelRef, Placement, Task

TASK = Task(2, (0.5,), {})


def items(*names: str) -> list[Item]:
    return [Item(name, np.arange(3.0), "D", 1) for name in names]


def forecast(item: Item) -> ItemForecast:
    return ItemForecast(np.full(2, float(len(item.id))), np.zeros((1, 2)))


class Model:
    """An adapter that raises for parts that ``refuses`` finds at fault, and remembers every part."""

    chunk = 8

    def __init__(self, refuses: Callable[[Sequence[str]], Exception | None] = lambda names: None) -> None:
        self.refuses = refuses
        self.parts: list[list[str]] = []

    def hello(self) -> dict[str, str]:
        return {}

    def ping(self) -> None: ...

    def capabilities(self, model: Any, declared: Capabilities) -> Capabilities:
        return declared

    def load(self, ref: ModelRef, placement: Placement) -> Any: ...

    def unload(self, model: Any) -> None: ...

    def forecast(self, model: Any, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
        names = [item.id for item in items]
        self.parts.append(names)
        error = self.refuses(names)
        if error is not None:
            raise error
        return [forecast(item) for item in items]

    def run(self, *requests: list[Item], **options: Any) -> tuple[Work, list[list[Answer]], list[Progress]]:
        """The work of these requests, its answers, and what was reported."""
        lines: list[Progress] = []
        work = Work(requests, self.chunk, **options)

        async def attempt(part: Sequence[Item]) -> tuple[float, list[Answer] | Fault]:
            await asyncio.sleep(0)
            return attempted(self, "m", None, part, TASK)

        return work, asyncio.run(work.run(attempt, lines.append)), lines


def named(word: str, error: Exception) -> Callable[[Sequence[str]], Exception | None]:
    return lambda names: error if any(word in name for name in names) else None


def larger(than: int) -> Callable[[Sequence[str]], Exception | None]:
    return lambda names: MemoryError() if len(names) > than else None


def failed(answers: Sequence[Answer], requests: Sequence[Item]) -> list[str]:
    return [item.id for item, answer in zip(requests, answers, strict=True) if isinstance(answer, ItemFailure)]


def test_without_a_fault_the_parts_are_the_chunks() -> None:
    model, panel = Model(), items(*(f"s{i}" for i in range(18)))
    work, (answers,), lines = model.run(panel)
    assert [len(part) for part in model.parts] == [8, 8, 2]
    assert [(line.completed, line.total) for line in lines] == [(0, 18), (8, 18), (16, 18), (18, 18)]
    assert (work.largest, work.cause) == (8, None)
    assert work.seconds > 0
    assert [float(answer.mean[0]) for answer in answers if isinstance(answer, ItemForecast)] == [2.0] * 10 + [3.0] * 8


@pytest.mark.parametrize("at", [0, 3, 7])
def test_one_series_fails_alone_and_its_neighbours_are_served(at: int) -> None:
    model, panel = Model(named("bad", ValueError("no such number"))), items(*"abcdefgh")
    panel[at] = items("bad")[0]
    _, (answers,), _ = model.run(panel)
    assert failed(answers, panel) == ["bad"]
    assert len(model.parts) == 7, "8, then twice its halves: 4, 2, 1"
    failure = answers[at]
    assert isinstance(failure, ItemFailure)
    assert failure.record.error == "The model 'm' failed: ValueError.", "what it said is for the log"


def test_what_our_own_exceptions_say_is_passed_on() -> None:
    error = InvalidSeries("The series is too short for this model.", hint="Send 3 values.")
    _, (answers,), _ = Model(named("bad", error)).run(items("a", "bad"))
    assert answers[1] == ItemFailure(error.record)


def test_a_request_whose_series_all_raise_is_given_up_and_the_others_are_not() -> None:
    model = Model(named("bad", ValueError()))
    bad, good = items(*(f"bad{i}" for i in range(100))), items(*"xyz")
    _, (first, second), lines = model.run(bad, good)
    assert failed(first, bad) == [item.id for item in bad]
    assert failed(second, good) == []
    assert first[GIVE_UP:] == [NOT_TRIED] * (100 - GIVE_UP)
    assert str(GIVE_UP) in NOT_TRIED.record.error
    assert len(model.parts) < 3 * GIVE_UP
    assert lines[-1] == Progress("running forecast", 103, 103)


def test_series_that_fail_here_and_there_give_nobody_up() -> None:
    model, panel = Model(named("bad", ValueError())), items(*(f"{'bad' if i % 2 else 'good'}{i}" for i in range(48)))
    _, (answers,), _ = model.run(panel)
    assert failed(answers, panel) == [item.id for item in panel if "bad" in item.id]
    assert NOT_TRIED not in answers


def test_failures_that_the_adapter_tells_by_itself_cost_nothing_and_give_nobody_up() -> None:
    class Telling(Model):
        def forecast(self, model: Any, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
            self.parts.append([item.id for item in items])
            return [ItemFailure(RunnerFailed("too odd").record) for _ in items]

    model, panel = Telling(), items(*(f"s{i}" for i in range(32)))
    _, (answers,), _ = model.run(panel)
    assert failed(answers, panel) == [item.id for item in panel]
    assert len(model.parts) == 4
    assert NOT_TRIED not in answers


def test_a_part_that_is_too_large_for_the_memory_is_halved_and_so_are_those_after_it() -> None:
    model, panel = Model(larger(2)), items(*(f"s{i}" for i in range(20)))
    work, (answers,), _ = model.run(panel)
    assert failed(answers, panel) == []
    assert [len(part) for part in model.parts] == [8, 4] + [2] * 10
    assert (work.largest, work.cause) == (2, None)


def test_a_series_that_is_too_large_by_itself_is_told_so() -> None:
    work, (answers,), _ = Model(named("huge", MemoryError())).run(items("a", "huge", "b"))
    assert work.cause == OOM
    assert [type(answer) for answer in answers] == [ItemForecast, ItemFailure, ItemForecast]
    failure = answers[1]
    assert isinstance(failure, ItemFailure)
    assert "out of memory" in failure.record.error
    assert "context_length" in failure.record.hint


def test_series_that_inform_each_other_are_not_parted() -> None:
    for error, cause in ((ValueError(), None), (MemoryError(), OOM)):
        model, panel = Model(named("bad", error)), items("a", "bad", "b")
        work, (answers,), _ = model.run(panel, joint=True)
        assert model.parts == [["a", "bad", "b"]]
        assert failed(answers, panel) == ["a", "bad", "b"]
        assert work.cause == cause


def test_as_many_series_inform_each_other_as_the_library_advises() -> None:
    model = Model()
    model.run(items(*(f"{number:03}" for number in range(130))), joint=True)
    assert [len(part) for part in model.parts] == [100, 30]


def test_a_bad_gpu_refuses_the_whole_call_at_once() -> None:
    model = Model(named("bad", RuntimeError("CUDA error: device-side assert triggered")))
    with pytest.raises(Refused) as raised:
        model.run(items("a", "bad", "b"))
    assert raised.value.cause == CUDA
    assert "assert" not in raised.value.error.record.error
    assert len(model.parts) == 1


def test_the_deadline_goes_through() -> None:
    async def late(part: Sequence[Item]) -> tuple[float, list[Answer] | Fault]:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        asyncio.run(Work([items("a")], 8).run(late, lambda line: None))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (ItemForecast(np.zeros(3), np.zeros((1, 2))), "wrong shape"),
        (ItemForecast(np.zeros(2), np.zeros((2, 2))), "wrong shape"),
        (ItemForecast(np.array([1.0, np.nan]), np.zeros((1, 2))), "not finite"),
        (ItemForecast(np.zeros(2), np.full((1, 2), np.inf)), "not finite"),
        (None, "failed: AttributeError"),
    ],
    ids=["horizon", "quantiles", "nan", "inf", "none"],
)
def test_a_malformed_forecast_is_that_series_failure(answer: Any, told: str) -> None:
    class Malformed(Model):
        def forecast(self, model: Any, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
            return [answer if item.id == "bad" else forecast(item) for item in items]

    _, (answers,), _ = Malformed().run(items("a", "bad", "b"))
    assert [type(one) for one in answers] == [ItemForecast, ItemFailure, ItemForecast]
    failure = answers[1]
    assert isinstance(failure, ItemFailure)
    assert told in failure.record.error


def test_too_few_answers_are_a_failure() -> None:
    class Short(Model):
        def forecast(self, model: Any, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
            return [forecast(item) for item in items if item.id != "lost"]

    panel = items("a", "lost", "b")
    _, (answers,), _ = Short().run(panel)
    assert failed(answers, panel) == ["lost"]


def test_nothing_of_a_failed_part_stays_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a frame of the failed call held must be gone before caches are emptied and the halves are tried."""
    import weakref

    class Block:
        pass

    blocks: list[weakref.ref[Block]] = []
    alive: list[int] = []
    monkeypatch.setattr(memory, "release", lambda: alive.append(sum(block() is not None for block in blocks)))

    class Greedy(Model):
        def forecast(self, model: Any, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
            block = Block()
            blocks.append(weakref.ref(block))
            if len(items) > 1:
                raise MemoryError
            return [forecast(item) for item in items]

    Greedy().run(items("a", "b"))
    assert alive == [0]


def test_the_log_has_one_traceback_of_a_call(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "ray.serve"):
        Model(named("bad", ValueError("for the log"))).run(items("a", "bad", "b", "c"))
    assert len(caplog.records) == 3
    assert caplog.text.count("Traceback") == 1
    assert "for the log" in caplog.text
