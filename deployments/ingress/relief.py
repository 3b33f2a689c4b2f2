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
        lacking = detail["needed_mb"] - detail["available_mb"]
        others = [name for name in self._families if name != family]
        answers = await asyncio.gather(*(self._families[name].ask("report") for name in others))
        reports = [(name, report) for name, told in zip(others, answers, strict=True) for report in told]
        # A process that holds no model any more leaves, and takes the libraries' memory with it.
        if sum(report["rss_mb"] for _, report in reports) < lacking:
            return False
        idle = sorted(
            (model["last_used"], name, model["memory_mb"])
            for name, report in reports
            for model in report["models"]
            if model["state"] == "loaded" and not model["in_use"]
            if model["memory_mb"] >= LEAST_MB and not model["vram_mb"]
        )
        asked = {name: 0.0 for name, report in reports if not report["models"]}
        found = 0.0
        for _, name, size in idle:
            if found >= lacking:
                break
            asked[name] = asked.get(name, 0.0) + size
            found += size
        await asyncio.gather(*(self._families[name].ask("spare", size) for name, size in asked.items()))
        busy = any(model["in_use"] or model["state"] != "loaded" for _, told in reports for model in told["models"])
        return bool(asked) or busy
