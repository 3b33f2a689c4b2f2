"""Who waits for a share of a GPU, as the ingress sees it, and who has to let it pass.

The scaling policy takes a share only from idle families (:mod:`deployments.scaling`), so that no request is ever cut
off. A family that is asked without a pause would never be idle: when another one has waited long enough, new calls to
families that run are held back here until it has its share. What they have begun they finish.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deployments.scaling import PATIENCE_S, fits

TURNS = "turns"
"""The folder inside the run folder where ingress replicas leave their signs for one another."""
POLL_S = 0.1
"""How often the others' signs are looked at while there is something to send."""
STALE_S = 3.0
"""A sign that has not been renewed for so long is that of a process that died."""


@dataclass(frozen=True, slots=True)
class Gpus:
    """How many the cluster has, the ``shares`` of the families that take some, and why those in ``refused`` can never
    have theirs."""

    number: int = 0
    shares: Mapping[str, float] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


class Turns:
    """One ingress replica's part. A family that waits has a file in ``folder`` for each ingress replica where it is
    waited for, whose times are since when, and when that was last true. ``clock`` gives seconds since the epoch;
    ``own`` is what no other replica has, the process id."""

    def __init__(
        self,
        gpus: Gpus,
        folder: Path,
        patience: float = PATIENCE_S,
        clock: Callable[[], float] = time.time,
        own: int | None = None,
    ) -> None:
        self.gpus = gpus
        self._folder = folder
        self._patience = patience
        self._clock = clock
        self._own = own or os.getpid()
        self._short: dict[str, tuple[float, str]] = {}
        self._seen: tuple[float, dict[str, float]] = (0.0, {})
        folder.mkdir(parents=True, exist_ok=True)

    def look(self, family: str, replicas: Mapping[str, int]) -> None:
        """Take note of whether ``family``, which is waited for, has its share or room for it, given how many replicas
        of each family have theirs."""
        share = self.gpus.shares.get(family)
        using = {name: n for name, n in replicas.items() if n and name in self.gpus.shares}
        taken = [self.gpus.shares[name] for name, n in using.items() for _ in range(n)]
        if not share or family in using or fits([*taken, share], self.gpus.number):
            self.forget(family)
            return
        told = f"it waited for its share of a GPU ({share:g} of {self.gpus.number}); in use: {', '.join(using)}"
        now = self._clock()
        since = self._short.get(family, (now, ""))[0]
        self._short[family] = (since, told)
        self._sign(family).touch()
        os.utime(self._sign(family), (since, now))

    def forget(self, family: str) -> None:
        """The family has what it needs, or nobody waits for it any more."""
        if self._short.pop(family, None) is not None:
            self._sign(family).unlink(missing_ok=True)

    def shortage(self, family: str) -> str | None:
        """Why the family waits, in words, if it is for a share of a GPU."""
        return self._short.get(family, (0.0, None))[1]

    async def mine(self, family: str) -> None:
        """Return when the family may be given new work."""
        while self._passed(family):  # noqa: ASYNC110 - the signs of others are files
            await asyncio.sleep(POLL_S)

    def _passed(self, family: str) -> bool:
        if family not in self.gpus.shares or family in self._short:
            return False
        now = self._clock()
        if now - self._seen[0] >= POLL_S:
            self._seen = (now, self._signs(now))
        short = self._seen[1]
        return bool(short) and family not in short and now - min(short.values()) >= self._patience

    def _signs(self, now: float) -> dict[str, float]:
        """Since when each family waits, wherever it is waited for."""
        found: dict[str, float] = {}
        for entry in os.scandir(self._folder):
            try:
                told = entry.stat()
            except FileNotFoundError:
                continue
            if now - told.st_mtime < STALE_S:
                family = entry.name.rpartition(".")[0]
                found[family] = min(told.st_atime, found.get(family, told.st_atime))
        return found

    def _sign(self, family: str) -> Path:
        return self._folder / f"{family}.{self._own}"
