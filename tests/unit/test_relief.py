"""Which families give memory back when another one lacks it, and when there is nothing to hope for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from deployments.ingress.relief import Relief
from deployments.memory import DEVICE, HOST


def lacking(megabytes: float, **changes: Any) -> dict[str, Any]:
    """The numbers of a refusal, of a family that holds some itself."""
    needed = {"needed_mb": megabytes + 1050, "available_mb": 50.0, "limit_mb": 10_000.0}
    return {"kind": HOST, "lacking_mb": megabytes, **needed, **changes}


def model(size: float, last_used: float, **changes: Any) -> dict[str, Any]:
    return {"memory_mb": size, "vram_mb": 0.0, "last_used": last_used, "in_use": 0, "state": "loaded", **changes}


class Family:
    """Replicas that hold models; ``spared`` is what each was asked to give back."""

    def __init__(self, *models: dict[str, Any], beside: list[dict[str, Any]] | None = None) -> None:
        self.replicas = {"one": list(models)} | ({"two": beside} if beside is not None else {})
        self.spared: list[dict[str, float]] = []

    async def ask(self, method: str, *args: Any) -> list[Any]:
        if method == "spare":
            self.spared += args
            return []
        return [
            {"replica": name, "models": models, "rss_mb": 100.0 + sum(one["memory_mb"] for one in models)}
            for name, models in self.replicas.items()
        ]


def make_room(detail: Any, **families: Family) -> bool:
    return asyncio.run(Relief(families).make_room("wants", detail))


def test_the_least_recently_used_idle_models_of_all_families_go() -> None:
    wants, a, b = Family(), Family(model(300, 5), model(200, 1)), Family(model(400, 3), model(900, 0, in_use=1))
    assert make_room(lacking(500), wants=wants, a=a, b=b)
    assert (a.spared, b.spared, wants.spared) == ([{"one": 200}], [{"one": 400}], [])


def test_a_process_that_holds_nothing_is_asked_to_leave() -> None:
    wants, empty, b = Family(), Family(), Family(model(400, 3))
    assert make_room(lacking(300), wants=wants, empty=empty, b=b)
    assert (empty.spared, b.spared) == ([{"one": 0.0}], [{"one": 400}])


def test_those_in_use_are_waited_for() -> None:
    busy = Family(model(900, 0, in_use=1), model(900, 1, state="loading"))
    assert make_room(lacking(500), wants=Family(), busy=busy)
    assert busy.spared == []


@pytest.mark.parametrize(
    "detail",
    [None, "text", lacking(5000), lacking(500, kind=DEVICE), lacking(500, limit_mb=400.0)],
    ids=["none", "text", "more than all have", "another memory", "more than may be used"],
)
def test_there_may_be_nothing_to_hope_for(detail: Any) -> None:
    idle = Family(model(900, 0))
    assert not make_room(detail, wants=Family(), idle=idle)
    assert idle.spared == []


def test_who_could_give_nothing_is_not_asked_again() -> None:
    """A process that holds a little, and one whose models are in a GPU's memory, can be large."""
    small, gpu = Family(model(1, 0)), Family(model(900, 0, vram_mb=900.0))
    assert not make_room(lacking(150), wants=Family(), small=small, gpu=gpu)
    assert (small.spared, gpu.spared) == ([], [])


def test_each_replica_is_asked_for_its_own_part() -> None:
    two = Family(model(500, 1), beside=[model(500, 2)])
    assert make_room(lacking(400), wants=Family(), two=two)
    assert two.spared == [{"one": 500}], "the other one keeps what it holds"


@pytest.mark.parametrize("changes", [{"memory_mb": 0.0}, {"vram_mb": 900.0}])
def test_who_is_in_use_and_could_give_nothing_is_not_waited_for(changes: dict[str, Any]) -> None:
    large = Family(model(900, 0, in_use=1, **changes), beside=[model(900, 0, in_use=1, **changes)])
    assert not make_room(lacking(150), wants=Family(), large=large)
