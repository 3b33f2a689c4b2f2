"""A replica without Ray: memory that runs out, a GPU gone bad, and what it tells of itself meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deployments.failures import CUDA, HEALTH, MEMORY, OOM
from deployments.family import Family, FamilyConfig
from deployments.messages import Call, Refusal, Result, pack, unpack
from tollama.capabilities import Capabilities
from tollama.seam import Item, ItemFailure, ItemForecast, ModelRef, Placement, Task

BAD = RuntimeError("CUDA error: device-side assert triggered")
PLACE = Placement()


class Stranger:
    """Raises what ``load`` says for a model and ``forecast`` for a series; holds a block of memory for each model."""

    chunk = 8

    def __init__(self) -> None:
        self.on_load: dict[str, Callable[[], Exception | None]] = {}
        self.on_forecast: dict[str, Exception] = {}
        self.loads: list[str] = []
        self.types: list[str] = []
        self.loaded: set[str] = set()
        self.parts: list[list[str]] = []
        self.gate: threading.Event | None = None
        self.started = threading.Event()
        self.unloading: Callable[[], object] = bool

    def hello(self) -> dict[str, str]:
        return {}

    def ping(self) -> None: ...

    def capabilities(self, model: Any, declared: Capabilities) -> Capabilities:
        return declared.model_copy(update={"max_context": 77})

    def load(self, ref: ModelRef, placement: Placement) -> Any:
        self.loads.append(ref.name)
        self.types.append(placement.dtype)
        error = self.on_load.get(ref.name, lambda: None)()
        if error is not None:
            raise error
        self.loaded.add(ref.name)
        return ref.name, np.ones(2_500_000)

    def unload(self, model: Any) -> None:
        self.unloading()
        self.loaded.remove(model[0])

    def forecast(self, model: Any, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
        self.parts.append([item.id for item in items])
        if self.gate is not None:
            self.started.set()
            assert self.gate.wait(20)
        for item in items:
            if item.id in self.on_forecast:
                raise self.on_forecast[item.id]
        return [ItemForecast(np.zeros(task.horizon), np.zeros((0, task.horizon))) for _ in items]


def run(
    monkeypatch: pytest.MonkeyPatch,
    check: Callable[[Family, Stranger], Awaitable[None]],
    placement: Placement = PLACE,
    adapter: Stranger | None = None,
    **config: Any,
) -> None:
    """``check`` a fresh replica of a stranger's family."""
    adapter = adapter or Stranger()
    monkeypatch.setitem(sys.modules, "stranger", SimpleNamespace(Stranger=lambda: adapter))

    async def main() -> None:
        async with asyncio.timeout(30):
            await check(Family(FamilyConfig("f", {"a": "stranger:Stranger"}, placement, 3, **config)), adapter)

    asyncio.run(main())


async def ask(
    family: Family,
    *requests: Sequence[str],
    model: str = "m",
    snapshot: Path | None = None,
    keep_alive: float = 60.0,
    within: float = 20.0,
    id: str = "",
    **options: Any,
) -> Result | Refusal:
    given = Capabilities(max_context=10, max_horizon=10)
    ref = ModelRef(model, "f", "a", None if snapshot is None else str(snapshot), "1", given)
    parts = [[Item(name, np.arange(3.0), "D", 1) for name in names] for names in requests or [["s"]]]
    call = Call(
        model,
        "1",
        pack(ref),
        tuple(map(pack, parts)),
        1,
        Task(2, (), options),
        keep_alive,
        time.time() + within,
        "request",
        id,
    )
    answer: Result | Refusal = unpack(await family.forecast(pack(call)))
    return answer


async def held(family: Family) -> set[str]:
    return {one["name"] for one in await family.ps()}


async def true(condition: Callable[[], object], what: str) -> None:
    """Return when it has come true."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, f"{what} did not come true"
        await asyncio.sleep(0.01)


def ends_of(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The signals with which the process would have ended itself from now on."""
    signals: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: signals.append(number))
    return signals


def reason(folder: Path) -> str | None:
    """What the one black box in ``folder`` says of the end of its process."""
    told: str | None = record(folder)["reason"]
    return told


def record(folder: Path) -> dict[str, Any]:
    """The one black box in ``folder``."""
    (box,) = folder.iterdir()
    told: dict[str, Any] = json.loads(box.read_bytes().partition(b"\0")[0])
    return told


def test_a_replica_tells_of_itself_what_metrics_and_diagnostics_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(family: Family, adapter: Stranger) -> None:
        told = await family.report()
        assert (told["replica"], told["pid"], told["device"]) == (f"f-{os.getpid()}", os.getpid(), "cpu")
        assert told["models"] == []
        assert adapter.loads == []
        answer = await ask(family)
        assert isinstance(answer, Result)
        assert answer.started == told["started"] <= time.time()
        assert [one["name"] for one in (await family.report())["models"]] == ["m"]

    run(monkeypatch, check)


def test_a_replica_whose_memory_is_wanted_says_so_until_it_is_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(family: Family, adapter: Stranger) -> None:
        assert (await family.record_autoscaling_stats())["wanted"] == 0
        assert await family.spare({"f-1": 100.0}) == 0
        assert (await family.record_autoscaling_stats())["wanted"] == 0, "another replica is meant"
        assert await family.spare({f"f-{os.getpid()}": 100.0}) == 0
        assert (await family.record_autoscaling_stats())["wanted"] == 1
        await ask(family)
        assert (await family.record_autoscaling_stats())["wanted"] == 0

    run(monkeypatch, check)


def test_one_answer_of_all_that_waited_for_a_load_is_marked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(family: Family, adapter: Stranger) -> None:
        answers = await asyncio.gather(*(ask(family, [f"s{number}"]) for number in range(3)))
        assert all(isinstance(one, Result) and one.load_ms > 0 for one in answers)
        assert [one.load_first for one in answers if isinstance(one, Result)].count(True) == 1
        later = await ask(family)
        assert isinstance(later, Result)
        assert (later.load_ms, later.load_first) == (0.0, False)
        await family.drop("m")
        again = await ask(family)
        assert isinstance(again, Result)
        assert again.load_first

    run(monkeypatch, check)


def test_an_adapter_is_told_a_type_where_the_config_leaves_it_open(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(family: Family, adapter: Stranger) -> None:
        assert isinstance(await ask(family), Result)
        assert adapter.types == ["float32"]

    run(monkeypatch, check, Placement(dtype="auto"))


def test_a_series_that_fails_is_answered_alone_in_its_own_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(family: Family, adapter: Stranger) -> None:
        adapter.on_forecast["bad"] = ValueError("no")
        answer = await ask(family, ["a", "bad"], ["b"])
        assert isinstance(answer, Result)
        kinds = [[type(one) for one in unpack(part)] for part in answer.parts]
        assert kinds == [[ItemForecast, ItemFailure], [ItemForecast]]
        assert (answer.cause, answer.batch_series) == (None, 1)
        assert await held(family) == {"m"}

    run(monkeypatch, check)


def test_a_call_that_runs_out_of_memory_costs_the_model_and_not_the_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(family: Family, adapter: Stranger) -> None:
        await ask(family, model="sibling")
        adapter.on_forecast["huge"] = MemoryError()
        answer = await ask(family, ["a", "huge", "b"])
        assert isinstance(answer, Result)
        assert answer.cause == OOM
        assert [type(one) for one in unpack(answer.parts[0])] == [ItemForecast, ItemFailure, ItemForecast]
        assert await held(family) == {"sibling"}
        await true(lambda: adapter.loaded == {"sibling"}, "the end of the model")
        await family.check_health()
        assert isinstance(await ask(family, ["a"]), Result)
        assert adapter.loads == ["sibling", "m", "m"]

    run(monkeypatch, check)


def test_a_load_that_runs_out_of_memory_is_tried_again_without_idle_siblings(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(family: Family, adapter: Stranger) -> None:
        adapter.on_load["m"] = lambda: MemoryError() if adapter.loaded else None
        await ask(family, model="sibling")
        assert isinstance(await ask(family), Result)
        assert adapter.loads == ["sibling", "m", "m"]
        assert await held(family) == {"m"}

    run(monkeypatch, check)


def test_a_load_that_never_fits_says_so_with_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(bytes(3_000_000))

    async def check(family: Family, adapter: Stranger) -> None:
        adapter.on_load["m"] = MemoryError
        answer = await ask(family, snapshot=tmp_path)
        assert isinstance(answer, Refusal)
        assert (answer.cause, answer.alone, answer.record.code) == (OOM, False, "RUNNER_FAILED")
        assert "out of memory while it was loaded. Its weights take about 3 MB." in answer.record.error
        assert "MB of memory that may be used are free" in answer.record.error
        assert adapter.loads == ["m"]
        await family.check_health()

    run(monkeypatch, check)


def test_a_load_without_room_is_refused_before_it_is_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(bytes(12_000_000))

    async def check(family: Family, adapter: Stranger) -> None:
        answer = await ask(family, snapshot=tmp_path)
        assert isinstance(answer, Refusal)
        assert (answer.cause, answer.alone, answer.record.code) == (MEMORY, False, "RUNNER_UNAVAILABLE")
        assert answer.record.detail["needed_mb"] == 12.0
        assert answer.record.detail["limit_mb"] < 12.0
        assert adapter.loads == []

    run(monkeypatch, check, max_memory_fraction=1e-6)


@pytest.mark.parametrize("at", ["load", "forecast"])
def test_a_replica_whose_gpu_went_bad_computes_no_more_and_ends_itself_when_it_has_said_so(
    monkeypatch: pytest.MonkeyPatch, at: str, tmp_path: Path
) -> None:
    ends = ends_of(monkeypatch)

    async def check(family: Family, adapter: Stranger) -> None:
        await ask(family, model="sibling")
        await family.check_health()
        if at == "load":
            adapter.on_load["m"] = lambda: BAD
        else:
            adapter.on_forecast["s"] = BAD
        answer = await ask(family)
        assert isinstance(answer, Refusal)
        assert (answer.cause, answer.alone, answer.record.code) == (CUDA, False, "RUNNER_FAILED")
        assert ends == []
        parts = len(adapter.parts)
        later = await ask(family, ["t"], model="sibling")
        assert isinstance(later, Refusal)
        assert (later.cause, later.record.code) == (HEALTH, "RUNNER_FAILED")
        assert len(adapter.parts) == parts
        await true(lambda: ends, "its end")
        assert (set(ends), reason(tmp_path)) == ({signal.SIGKILL}, "cuda")
        ends.clear()
        await family.check_health()
        assert ends, "whoever asks first"

    run(monkeypatch, check, black_boxes=str(tmp_path))


def test_what_waited_behind_the_call_that_broke_the_gpu_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    ends_of(monkeypatch)

    async def check(family: Family, adapter: Stranger) -> None:
        await ask(family)
        adapter.on_forecast["breaks"] = BAD
        adapter.gate = threading.Event()
        both = [asyncio.ensure_future(ask(family, [name])) for name in ("breaks", "waits")]
        assert await asyncio.to_thread(adapter.started.wait, 20)
        adapter.gate.set()
        causes = [answer.cause for answer in await asyncio.gather(*both)]
        assert causes == [CUDA, HEALTH]
        assert adapter.parts[1:] == [["breaks"]]

    run(monkeypatch, check)


def test_ps_and_capabilities_tell_of_a_model_without_waiting_for_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(family: Family, adapter: Stranger) -> None:
        assert await family.capabilities("m") is None
        await ask(family)
        adapter.gate = threading.Event()
        running = asyncio.ensure_future(ask(family))
        assert await asyncio.to_thread(adapter.started.wait, 20)
        told = await family.capabilities("m")
        (row,) = await family.ps()
        assert not running.done()
        adapter.gate.set()
        await running
        assert told is not None
        assert Capabilities.model_validate(told).max_context == 77
        assert row["memory_mb"] > 15, "20 MB of float64"
        assert (row["vram_mb"], row["in_use"], row["device"]) == (0.0, 1, "cpu")

    run(monkeypatch, check)


@pytest.mark.parametrize(
    ("raised", "cause"), [(AssertionError("Torch not compiled with CUDA enabled"), None), (BAD, CUDA)]
)
def test_a_gpu_that_cannot_be_used_is_told_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, cause: str | None
) -> None:
    ends = ends_of(monkeypatch)

    def fail(*args: Any) -> None:
        raise raised

    card = SimpleNamespace(set_per_process_memory_fraction=fail)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=card))

    async def check(family: Family, adapter: Stranger) -> None:
        answer = await ask(family)
        assert isinstance(answer, Refusal)
        assert (answer.cause, answer.record.code) == (cause, "RUNNER_UNAVAILABLE")
        assert "device: cpu" in answer.record.hint
        assert adapter.loads == []
        await family.check_health()
        assert bool(ends) == (cause == CUDA)

    run(monkeypatch, check, Placement("cuda"), gpu_share=0.4)
