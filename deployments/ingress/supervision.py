"""Deaths of the families' processes: counted by reason, and held against the model that was being computed.

A model that has killed its process ``restart_max`` times is not tried for a while, which doubles with each further
time; then one request tries it. Its siblings, and its family, are served all along. Nothing is remembered for longer
than five minutes without a death.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deployments.blackbox import KEEP_S, Death, collect
from tollama.errors import RunnerUnavailable

logger = logging.getLogger("ray.serve")

MOST_BACKOFF_S = 60.0
FORGET_S = 300.0
"""Seconds without a death after which a model's past is forgotten."""
INQUEST_S = 1.0
"""How long the kernel may take to let go of a dead process's files."""
LOOK_S = 1.0


@dataclass(slots=True)
class _Past:
    deaths: int = 0
    last: float = 0.0
    trying: bool = False
    sound: bool = False
    """A request went well since the last death."""


class Supervision:
    """One ingress replica's view of the deaths on record in ``folder``. ``backoff`` is in seconds."""

    def __init__(self, folder: Path, restart_max: int, backoff: float, clock: Callable[[], float] = time.time) -> None:
        self.restarts: Counter[tuple[str, str]] = Counter()
        """Deaths that this ingress was the first to find: (family, reason) -> number."""
        self.last: dict[str, Death] = {}
        """The last death of each family."""
        self._folder = folder
        self._restart_max = restart_max
        self._backoff = backoff
        self._clock = clock
        self._models: dict[str, _Past] = {}
        self._seen: dict[str, Death] = {}

    def look(self) -> None:
        """Take note of deaths that were not known yet. Reads one small folder."""
        deaths, fresh = collect(self._folder)
        for death in fresh:
            self.restarts[death.family, death.reason] += 1
            during = f" while it computed for the model {death.model}" if death.model else ""
            logger.error("a process of the family %s ended (%s)%s", death.family, death.reason, during)
        for death in deaths:
            if death.name not in self._seen:
                self._seen[death.name] = death
                self.last[death.family] = death
                if death.model is not None:
                    past = self._models.setdefault(death.model, _Past())
                    if self._clock() - past.last > FORGET_S:
                        past.deaths = 0
                    past.deaths += 1
                    past.last = self._clock()
                    past.sound = False
        now = time.time()
        for name in [name for name, death in self._seen.items() if now - death.at > 2 * KEEP_S]:
            del self._seen[name]

    async def watch(self) -> None:
        """Look for ever: a process that dies idle has nobody who notices."""
        while True:
            try:
                self.look()
            except OSError:
                logger.exception("the records of the families' processes cannot be read")
            await asyncio.sleep(LOOK_S)

    async def inquest(self, family: str, model: str, call: str, since: float) -> Death | None:
        """The death that the call of this id, sent at ``since`` (epoch seconds), died of; None when it was not being
        computed. To be asked when the call's process is known to have died. Raises LookupError when that is on no
        record: no death of the family is, or only of processes that computed nothing."""
        end = time.monotonic() + INQUEST_S
        while True:
            self.look()
            possible = [death for death in self._seen.values() if death.family == family and death.at >= since]
            for death in possible:
                if death.of(model, call):
                    return death
            if any(death.model is not None for death in possible):
                return None
            if possible or time.monotonic() > end:
                raise LookupError
            await asyncio.sleep(0.02)

    def check(self, model: str) -> bool:
        """Whether requests to the model are to be tried one at a time, after too many deaths. Raises
        :class:`RunnerUnavailable` while it is not to be tried at all."""
        past = self._models.get(model)
        if past is None or past.deaths < self._restart_max or past.sound:
            return False
        now = self._clock()
        if now - past.last > FORGET_S:
            del self._models[model]
            return False
        # The exponent is bounded: a float overflows at 1024.
        wait = min(MOST_BACKOFF_S, self._backoff * 2.0 ** min(past.deaths - self._restart_max, 30))
        if (left := past.last + wait - now) > 0:
            raise _held_back(model, past, left)
        return True

    @contextmanager
    def gate(self, model: str) -> Iterator[None]:
        """A request to ``model`` within. Raises :class:`RunnerUnavailable` while the model is not to be tried."""
        if not self.check(model):
            yield
            return
        past = self._models[model]
        if past.trying:
            raise _held_back(model, past, 1.0)
        past.trying = True
        try:
            yield
            past.sound = True
        finally:
            past.trying = False


def _held_back(model: str, past: _Past, left: float) -> RunnerUnavailable:
    times = "once" if past.deaths == 1 else f"{past.deaths} times"
    return RunnerUnavailable(
        f"The model {model!r} has ended its process {times}; it is tried again in {max(1, round(left))} s.",
        hint="The server's log has the cause. Other models are served.",
        retry_after=max(1.0, left),
    )
