"""Main memory that a load wants and other families hold: their idle models give way, the least recently used first.

A replica makes room among its own models (:mod:`deployments.residency`) and refuses what does not fit then. What the
other families hold, only the ingress can ask of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from deployments.memory import HOST, LEAST_MB


class _Asked(Protocol):
    async def ask(self, method: str, *args: Any) -> list[Any]: ...


class Relief:
    """``families`` are all that the ingress knows."""

    def __init__(self, families: Mapping[str, _Asked]) -> None:
        self._families = families

    async def make_room(self, family: str, detail: Any) -> bool:
        """Have others give back what ``family`` lacks: idle models, and processes that hold none.

        ``detail`` are the numbers of the refusal (:class:`deployments.memory.Shortage`). False when there is nothing to
        hope for: the load is larger than all that may be used, what it lacks is more than all others hold, is none of
        the main memory, or nobody could give any and nobody is at work.
        """
        if not isinstance(detail, dict) or detail.get("kind") != HOST or detail["needed_mb"] > detail["limit_mb"]:
            return False
        lacking = detail["lacking_mb"]
        others = [name for name in self._families if name != family]
        answers = await asyncio.gather(*(self._families[name].ask("report") for name in others))
        reports = [(name, report) for name, told in zip(others, answers, strict=True) for report in told]
        # A process that holds no model any more leaves, and takes the libraries' memory with it.
        if sum(report["rss_mb"] for _, report in reports) < lacking:
            return False
        idle = sorted(
            (model["last_used"], name, report["replica"], model["memory_mb"])
            for name, report in reports
            for model in report["models"]
            if _gives(model) and not model["in_use"]
        )
        asked: dict[str, dict[str, float]] = {}
        for name, report in reports:
            if not report["models"]:
                asked.setdefault(name, {})[report["replica"]] = 0.0
        found = 0.0
        for _, name, replica, size in idle:
            if found >= lacking:
                break
            wanted = asked.setdefault(name, {})
            wanted[replica] = wanted.get(replica, 0.0) + size
            found += size
        await asyncio.gather(*(self._families[name].ask("spare", wanted) for name, wanted in asked.items()))
        models = [model for _, report in reports for model in report["models"]]
        # What a model on its way is going to take, nobody knows.
        return bool(asked) or any(model["state"] != "loaded" or (model["in_use"] and _gives(model)) for model in models)


def _gives(model: Mapping[str, Any]) -> bool:
    """Whether a loaded model's going gives back main memory that is worth a load."""
    return model["state"] == "loaded" and model["memory_mb"] >= LEAST_MB and not model["vram_mb"]
