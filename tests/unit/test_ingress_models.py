"""What the routes about models do, with everything that they ask replaced."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from deployments.ingress.desk import Desk
from deployments.ingress.models import removed
from tollama.errors import ModelNotFound


class Family:
    """Notes what it is asked, and holds nothing."""

    def __init__(self, said: list[str]) -> None:
        self.said = said

    async def ask(self, verb: str, name: str) -> list[int]:
        self.said.append(f"{verb} {name}")
        return []


def test_who_asked_for_a_model_while_it_was_removed_does_not_keep_it() -> None:
    said: list[str] = []
    here = {"mine": SimpleNamespace(family="mock", embedded=False, installed=True)}

    def find(name: str) -> Any:
        if name not in here:
            raise ModelNotFound("No such model.")
        return here[name]

    def remove(name: str) -> None:
        said.append(f"remove {name}")
        del here[name]

    catalog = SimpleNamespace(broken=dict, find=find, store=SimpleNamespace(remove=remove))
    desk = SimpleNamespace(catalog=catalog, families={"mock": Family(said)})
    assert asyncio.run(removed(cast(Desk, desk), "Mine")) == "mine"
    assert said == ["drop mine", "remove mine", "drop mine"]
