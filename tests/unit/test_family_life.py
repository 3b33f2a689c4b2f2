"""A replica without Ray: who waits for whom in its one worker thread, what is cancelled there, and what hangs."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from deployments import worker as worker_module
from deployments.family import Family
from deployments.memory import HOST
from deployments.messages import Progress, Refusal, Result, unpack
from deployments.residency import Residency
from deployments.slot import Slot
from tests.unit.test_family import Stranger, ask, ends_of, held, reason, record, run, true
from tollama.seam import Item, ItemFailure, ItemForecast, Placement, Task


def no_time(monkeypatch: pytest.MonkeyPatch, **limits: float) -> list[int]:
    """Work hangs from its limit on, and no load has more than its callers; the signals as of `ends_of`."""
    for name, value in ({"HANG_GRACE_S": 0.0, "LOAD_S": 0.0} | limits).items():
        monkeypatch.setattr(worker_module, name, value)
    return ends_of(monkeypatch)


def test_expiry_and_an_answer_wait_for_no_call_of_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(family: Family, adapter: Stranger) -> None:
        for model in ("a", "b", "c"):
            await ask(family, model=model)
        adapter.gate = threading.Event()
        ending = asyncio.ensure_future(ask(family, model="a", keep_alive=0.0))
        assert await asyncio.to_thread(adapter.started.wait, 20)
        running = asyncio.ensure_future(ask(family, model="b"))
        adapter.started.clear()
        gate, adapter.gate = adapter.gate, threading.Event()
        gate.set()
        assert isinstance(await ending, Result), "and not when the other call is done"
        assert await asyncio.to_thread(adapter.started.wait, 20)
        await ask(family, [], model="c", keep_alive=0.0)
        assert await held(family) == {"b"}
        assert not running.done()
        dropping = asyncio.ensure_future(family.drop("c"))
        adapter.gate.set()
        await running
        await dropping
        assert adapter.loaded == {"b"}

    run(monkeypatch, check)


def test_a_call_that_is_cancelled_is_in_use_until_its_computation_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(family: Family, adapter: Stranger) -> None:
        await ask(family)
        adapter.gate = threading.Event()
        computed, waiting = (asyncio.ensure_future(ask(family, [name])) for name in ("computed", "waits"))
        assert await asyncio.to_thread(adapter.started.wait, 20)
        waiting.cancel()
        await asyncio.wait({waiting})
        computed.cancel()
        await asyncio.wait({computed}, timeout=0.1)
        assert (await family.ps())[0]["in_use"] == 1
        assert (await family.record_autoscaling_stats())["calls"] == 1
        adapter.gate.set()
        await asyncio.wait({computed})
        assert computed.cancelled()
        assert (await family.ps())[0]["in_use"] == 0
        assert (await family.record_autoscaling_stats())["calls"] == 0
        await ask(family, ["last"])
        assert adapter.parts[1:] == [["computed"], ["last"]], "what had not begun never does"

    run(monkeypatch, check)


def test_a_call_that_is_cancelled_while_it_waits_for_the_slot_is_not_computed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = str(tmp_path / "slot")

    async def check(family: Family, adapter: Stranger) -> None:
        await ask(family)
        with Slot(path):
            waiting = asyncio.ensure_future(ask(family, ["waits"]))
            await true(lambda: any(thread.name == "compute slot" for thread in threading.enumerate()), "the wait")
            waiting.cancel()
            await asyncio.wait({waiting}, timeout=0.1)
        await asyncio.wait({waiting})
        await ask(family, ["last"])
        assert adapter.parts[1:] == [["last"]]

    run(monkeypatch, check, slot=path)


def test_who_asks_for_a_model_whose_load_hangs_does_not_put_off_its_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ends, gate = no_time(monkeypatch), threading.Event()

    async def check(family: Family, adapter: Stranger) -> None:
        adapter.on_load["m"] = lambda: gate.wait(20) and None
        first = asyncio.ensure_future(ask(family, within=0.3))
        await true(lambda: adapter.loads, "the load")
        others = [asyncio.ensure_future(ask(family, within=0.3))]
        await family.check_health()
        assert ends == []

        async def unhealthy() -> None:
            while not ends:
                others.append(asyncio.ensure_future(ask(family, within=0.3)))
                await asyncio.sleep(0.05)
                await family.check_health()

        await asyncio.wait_for(unhealthy(), 10)
        assert (set(ends), reason(tmp_path)) == ({signal.SIGKILL}, "hang")
        gate.set()
        await asyncio.gather(first, *others)

    run(monkeypatch, check, black_boxes=str(tmp_path))


def test_a_slow_load_is_not_ended_under_who_has_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ends, gate = no_time(monkeypatch), threading.Event()

    async def check(family: Family, adapter: Stranger) -> None:
        adapter.on_load["m"] = lambda: gate.wait(20) and None
        impatient = asyncio.ensure_future(ask(family, within=0.2))
        await true(lambda: adapter.loads, "the load")
        patient = asyncio.ensure_future(ask(family, within=20))
        await asyncio.sleep(0.5)
        await family.check_health()
        assert ends == []
        gate.set()
        assert isinstance(await patient, Result)
        await impatient

    run(monkeypatch, check)


class Pair(Stranger):
    """Lets two threads compute at once, and notes with how many threads of the library each does."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: dict[int, list[int]] = {}
        """What each thread was told."""
        self.used: list[int] = []
        self.most = self.now = 0
        self._lock = threading.Lock()

    def use_threads(self, threads: int) -> None:
        self.threads.setdefault(threading.get_ident(), []).append(threads)

    def forecast(self, model: Any, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.used.append(self.threads[threading.get_ident()][-1])
        try:
            return super().forecast(model, items, task)
        finally:
            with self._lock:
                self.now -= 1


FOUR = Placement(threads=4)


def test_two_calls_of_a_model_share_the_threads_where_its_adapter_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(family: Family, adapter: Pair) -> None:
        await ask(family)
        adapter.gate = threading.Event()
        calls = [asyncio.ensure_future(ask(family, [name])) for name in ("one", "two", "three")]
        other = asyncio.ensure_future(ask(family, model="another"))
        await true(lambda: adapter.now == 2, "the second call beside the first")
        await asyncio.sleep(0.1)
        assert adapter.parts[1:] == [["one"], ["two"]]
        assert adapter.loads == ["m"], "a load is beside no call"
        adapter.gate.set()
        for answer in await asyncio.gather(*calls, other):
            assert isinstance(answer, Result)
        assert adapter.most == 2
        assert adapter.used[:3] == [4, 4, 2]
        for told in adapter.threads.values():
            assert set(told[1::2]) == {4}, "what comes next and does not say takes all"
            assert len(told) % 2 == 0
        assert adapter.loads == ["m", "another"]

    run(monkeypatch, check, FOUR, adapter=Pair())


@pytest.mark.parametrize(
    ("adapter", "placement"), [(Stranger(), FOUR), (Pair(), Placement()), (Pair(), Placement("cuda", threads=4))]
)
def test_else_one_is_computed_after_the_other(
    monkeypatch: pytest.MonkeyPatch, adapter: Stranger, placement: Placement
) -> None:
    async def check(family: Family, adapter: Stranger) -> None:
        await ask(family)
        adapter.gate = threading.Event()
        calls = [asyncio.ensure_future(ask(family, [name])) for name in ("one", "two")]
        assert await asyncio.to_thread(adapter.started.wait, 20)
        await asyncio.sleep(0.1)
        assert adapter.parts[1:] == [["one"]]
        adapter.gate.set()
        await asyncio.gather(*calls)
        assert adapter.parts[1:] == [["one"], ["two"]]

    run(monkeypatch, check, placement, adapter=adapter)


def test_a_call_that_hangs_is_the_only_one_to_blame(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ends = no_time(monkeypatch)

    async def check(family: Family, adapter: Pair) -> None:
        await ask(family)
        adapter.gate = threading.Event()
        hung = asyncio.ensure_future(ask(family, ["hangs"], within=0.5, id="hangs"))
        await true(lambda: adapter.now == 1, "the call that hangs")
        beside = asyncio.ensure_future(ask(family, ["works"], id="works"))
        await true(lambda: adapter.now == 2, "the call beside it")
        await asyncio.sleep(0.6)
        await family.check_health()
        assert ends == [signal.SIGKILL]
        assert record(tmp_path) == {"reason": "hang", "model": "m", "calls": ["hangs"]}
        adapter.gate.set()
        await asyncio.gather(hung, beside)

    run(monkeypatch, check, FOUR, adapter=Pair(), black_boxes=str(tmp_path))


def test_an_unload_that_hangs_ends_the_replica(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ends = no_time(monkeypatch, CHORE_S=0.1)
    gate, hung = threading.Event(), threading.Event()

    async def check(family: Family, adapter: Stranger) -> None:
        adapter.unloading = lambda: hung.set() or gate.wait(20)
        await ask(family, keep_alive=0.0)
        assert await asyncio.to_thread(hung.wait, 20)

        async def unhealthy() -> None:
            while not ends:
                await asyncio.sleep(0.05)
                await family.check_health()

        await asyncio.wait_for(unhealthy(), 10)
        assert reason(tmp_path) == "hang"
        gate.set()
        await family.drop("m")

    run(monkeypatch, check, black_boxes=str(tmp_path))


def test_a_stream_that_cannot_be_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(family: Family, adapter: Stranger) -> None:
        async with asyncio.timeout(5):
            lines = [unpack(line) async for line in family.forecast_stream(b"no pickle")]
        assert [type(line) for line in lines] == [Progress, Refusal]
        assert lines[-1].record.code == "RUNNER_FAILED"
        assert isinstance(unpack(await family.forecast(b"no pickle")), Refusal)

    run(monkeypatch, check)


def test_expiry_survives_its_own_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    fails = iter([True, False])

    async def check(family: Family, adapter: Stranger) -> None:
        await ask(family, keep_alive=0.01)
        expire = Residency.expire

        def fail(residency: Residency) -> int:
            if next(fails, False):
                raise RuntimeError("once")
            return expire(residency)

        monkeypatch.setattr(Residency, "expire", fail)
        await true(lambda: not adapter.loaded, "the expiry")
        assert next(fails, None) is None

    run(monkeypatch, check)


def test_a_model_that_ran_out_of_memory_goes_though_there_is_always_somebody_to_use_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def check(family: Family, adapter: Stranger) -> None:
        adapter.on_forecast["huge"] = MemoryError()
        adapter.gate = threading.Event()
        first = asyncio.ensure_future(ask(family, ["huge"]))
        assert await asyncio.to_thread(adapter.started.wait, 20)
        second = asyncio.ensure_future(ask(family, ["a"]))
        await true(lambda: family._calls == 2, "the second call")
        gate, adapter.gate = adapter.gate, threading.Event()
        gate.set()
        assert isinstance(await first, Result)
        third = asyncio.ensure_future(ask(family, ["b"]))
        await true(lambda: family._calls == 2, "the third call")
        adapter.gate.set()
        for answer in await asyncio.gather(second, third):
            assert isinstance(answer, Result)
        assert adapter.loads == ["m", "m"]

    run(monkeypatch, check)


def test_a_replica_spares_the_memory_of_idle_models(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(family: Family, adapter: Stranger) -> None:
        for model in ("a", "b"):
            await ask(family, model=model)
        times = {one["name"]: one["last_used"] for one in await family.ps()}
        assert times["a"] < times["b"] <= time.time()
        for resident in family._residency.residents.values():
            resident.took = {HOST: 20.0}  # what was measured depends on what this process had freed before
        assert await family.spare({"f-1": 10.0}) == 0.0
        assert await family.spare({f"f-{os.getpid()}": 10.0}) == 20.0
        assert (await held(family), adapter.loaded) == ({"b"}, {"b"})

    run(monkeypatch, check)
