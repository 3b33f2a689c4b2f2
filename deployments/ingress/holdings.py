"""What the families' replicas hold, asked for diagnostics: those that do not answer at once are not waited for."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

logger = logging.getLogger("ray.serve")

WAIT_S = 0.1
"""How long a page waits for replicas that do not answer; what comes later is for the next one."""
PATIENCE_S = 1.0
"""How long who has to know it waits for a replica that was not late before."""
KNOWN_S = 10.0
"""Seconds for which what a replica last said stands in for an answer that does not come."""

Reports = list[dict[str, Any]]
"""Each replica's :meth:`deployments.family.Family.report`."""


class _Asked(Protocol):
    async def asked(self, method: str, *args: Any) -> tuple[list[Any], int]: ...


@dataclass(slots=True)
class _Word:
    """What a family last said, and when. ``silent`` when some of its replicas did not answer; then each of these has
    its own last word in ``replicas``."""

    at: float = -math.inf
    silent: bool = False
    replicas: dict[str, tuple[float, dict[str, Any]]] = field(default_factory=dict)


class Holdings:
    """What each family's replicas last said."""

    def __init__(self, families: Mapping[str, _Asked]) -> None:
        self._families = families
        self._asking: dict[str, tuple[float, asyncio.Task[None]]] = {}
        self._words = {name: _Word() for name in families}

    async def now(self, patience: float = WAIT_S) -> dict[str, Reports]:
        """Family -> its replicas' reports. Those that do not answer within ``patience`` seconds (``WAIT_S`` from then
        on, until they do) have their last word, or, when that is older than ``KNOWN_S``, are left out."""
        start = time.monotonic()
        for name in self._families:
            if name not in self._asking:
                self._asking[name] = start, asyncio.ensure_future(self._ask(name))
        waited = dict(self._asking)
        if waited:
            await asyncio.wait([task for _, task in waited.values()], timeout=WAIT_S)
        prompt = [task for name, (at, task) in waited.items() if not self._words[name].silent and start - at < WAIT_S]
        if prompt and patience > WAIT_S:
            await asyncio.wait(prompt, timeout=patience - WAIT_S)
        oldest = time.monotonic() - KNOWN_S
        return {
            name: [report for at, report in word.replicas.values() if at > oldest]
            for name, word in self._words.items()
            if word.at > oldest
        }

    async def _ask(self, name: str) -> None:
        word, now = self._words[name], time.monotonic()
        try:
            answers, silent = await self._families[name].asked("report")
            said = {str(report["replica"]): (now, report) for report in answers}
            word.replicas = word.replicas | said if silent else said
            word.at, word.silent = now, bool(silent)
        except Exception:
            logger.exception("the family %s could not be asked what it holds", name)
        finally:
            del self._asking[name]
