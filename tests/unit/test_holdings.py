"""Who asks what replicas hold never waits for one that does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from deployments.ingress import holdings
from deployments.ingress.holdings import Holdings

MOCK = {"replica": "mock-1", "models": []}
TORCH = {"replica": "torch-2", "models": []}


class Family:
    """Answers as told: a list, or what an event is awaited for."""

    def __init__(self, answer: list[Any] | Exception) -> None:
        self.answer = answer
        self.slow: asyncio.Event | None = None
        self.times = 0
        self.silent = 0

    async def asked(self, method: str, *args: Any) -> tuple[list[Any], int]:
        self.times += 1
        assert method == "report"
        if self.slow is not None:
            await self.slow.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer, self.silent


Test = Callable[[Holdings, Family, Family], Awaitable[None]]


def run(test: Test) -> None:
    async def inside() -> None:
        mock, torch = Family([MOCK]), Family([TORCH])
        await test(Holdings({"mock": mock, "torch": torch}), mock, torch)

    asyncio.run(inside())


def test_each_family_tells() -> None:
    async def test(all_: Holdings, mock: Family, torch: Family) -> None:
        assert await all_.now() == {"mock": [MOCK], "torch": [TORCH]}
        torch.answer = []
        assert await all_.now() == {"mock": [MOCK], "torch": []}

    run(test)


def test_one_that_hangs_has_its_last_word_and_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdings, "WAIT_S", 0.01)

    async def test(all_: Holdings, mock: Family, torch: Family) -> None:
        await all_.now()
        torch.slow, torch.answer = asyncio.Event(), [{**TORCH, "replica": "torch-3"}]
        for _ in range(3):
            assert await all_.now() == {"mock": [MOCK], "torch": [TORCH]}
        assert (mock.times, torch.times) == (4, 2)
        torch.slow.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        torch.slow = None
        assert (await all_.now())["torch"] == torch.answer

    run(test)


def test_an_old_word_is_left_out_and_one_never_heard_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdings, "WAIT_S", 0.01)

    async def test(all_: Holdings, mock: Family, torch: Family) -> None:
        torch.slow = asyncio.Event()
        assert await all_.now() == {"mock": [MOCK]}
        mock.slow = asyncio.Event()
        monkeypatch.setattr(holdings, "KNOWN_S", 0.0)
        assert await all_.now() == {}

    run(test)


def test_a_fault_in_asking_is_nobodys_failure() -> None:
    async def test(all_: Holdings, mock: Family, torch: Family) -> None:
        torch.answer = RuntimeError("the router is away")
        assert await all_.now() == {"mock": [MOCK]}
        torch.answer = [TORCH]
        assert await all_.now() == {"mock": [MOCK], "torch": [TORCH]}

    run(test)


def test_one_replica_that_is_silent_does_not_hide_its_siblings() -> None:
    async def test(all_: Holdings, mock: Family, torch: Family) -> None:
        second = {"replica": "torch-9", "models": []}
        torch.answer = [TORCH, second]
        await all_.now()
        torch.answer, torch.silent = [{**TORCH, "models": ["new"]}], 1
        assert (await all_.now())["torch"] == [{**TORCH, "models": ["new"]}, second]
        torch.silent = 0
        assert (await all_.now())["torch"] == [{**TORCH, "models": ["new"]}], "it is gone"

    run(test)


def test_who_is_patient_waits_once_for_one_that_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdings, "WAIT_S", 0.01)

    async def test(all_: Holdings, mock: Family, torch: Family) -> None:
        await all_.now()
        torch.slow, torch.answer = asyncio.Event(), [{**TORCH, "models": ["new"]}]
        asyncio.get_running_loop().call_later(0.05, torch.slow.set)
        assert (await all_.now(30))["torch"] == torch.answer, "waited for"
        torch.slow = asyncio.Event()
        await all_.now()
        assert await asyncio.wait_for(all_.now(30), 10) == {"mock": [MOCK], "torch": torch.answer}, "known to be slow"

    run(test)
