"""What the families' replicas hold, asked for diagnostics: those that do not answer at once are not waited for."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from typing import Any, Protocol

logger = logging.getLogger("ray.serve")

WAIT_S = 0.1
"""How long a page waits for replicas; what comes later is for the next one."""
KNOWN_S = 10.0
"""Seconds for which what replicas last said stands in for an answer that does not come."""

Reports = list[dict[str, Any]]
"""Each replica's :meth:`deployments.family.Family.report`."""
NEVER: tuple[float, Reports] = (-math.inf, [])


class _Asked(Protocol):
    async def ask(self, method: str, *args: Any) -> list[Any]: ...


class Holdings:
    """What each family's replicas last said."""

    def __init__(self, families: Mapping[str, _Asked]) -> None:
        self._families = families
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._known: dict[str, tuple[float, Reports]] = {}

    async def now(self) -> dict[str, Reports]:
        """Family -> its replicas' reports, within ``WAIT_S``. One that does not answer has the last ones, or, when
        they are older than ``KNOWN_S``, is left out. A family without replicas has none."""
        for name in self._families:
            if name not in self._asking:
                self._asking[name] = asyncio.ensure_future(self._ask(name))
        if self._asking:
            await asyncio.wait(list(self._asking.values()), timeout=WAIT_S)
        oldest = time.monotonic() - KNOWN_S
        return {name: self._known[name][1] for name in self._families if self._known.get(name, NEVER)[0] > oldest}

    async def _ask(self, name: str) -> None:
        try:
            answers = await self._families[name].ask("report")
            self._known[name] = (time.monotonic(), answers)
        except Exception:
            logger.exception("the family %s could not be asked what it holds", name)
        finally:
            del self._asking[name]
