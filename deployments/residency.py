"""The models that one replica holds: least recently used, in-use counts, one expiry per model. No Ray in it.

Its world comes in as functions (load, unload, clock), so it is tested without a process or a sleep. All methods run
on one event loop; ``load`` and ``unload`` do their work wherever they like (the family gives them its worker thread).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tollama.seam import ModelRef

Key = tuple[str, str]
"""Model name and snapshot digest: two snapshots of one name are two residents, for as long as the old one is used."""


@dataclass(slots=True)
class Resident:
    """One model in memory (or on its way there). ``expires`` is on the clock's scale; inf is for ever, and -inf marks
    a model that is to go as soon as nobody uses it."""

    ref: ModelRef
    loading: asyncio.Future[Any]
    load_s: float = 0.0
    users: int = 0
    last_used: float = 0.0
    expires: float = math.inf
    deadline: float = 0.0
    memory_mb: float = 0.0
    task: asyncio.Task[None] | None = None

    @property
    def loaded(self) -> bool:
        return self.loading.done() and not self.loading.cancelled() and self.loading.exception() is None

    @property
    def model(self) -> Any:
        """What the adapter's ``load`` gave."""
        return self.loading.result()


@dataclass(slots=True)
class Residency:
    """The cache. ``load(resident)`` returns the adapter's model and may note ``load_s`` and ``memory_mb``."""

    load: Callable[[Resident], Awaitable[Any]]
    unload: Callable[[Resident], Awaitable[None]]
    clock: Callable[[], float]
    max_models: int = 3
    residents: dict[Key, Resident] = field(default_factory=dict)
    last_used: float = 0.0
    _freed: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def use(self, ref: ModelRef, keep_alive: float, deadline: float = math.inf) -> AsyncIterator[Resident]:
        """The loaded model, not to be unloaded meanwhile; afterwards its timer starts anew with ``keep_alive`` seconds.

        Raises whatever ``load`` raises. While every place is in use it waits, until its caller gives up. ``deadline``
        is the caller's, on the clock's scale: a load may take as long as somebody waits for it.
        """
        resident = await self._claim(ref)
        resident.deadline = max(resident.deadline, deadline)
        self.touch(resident, keep_alive)
        try:
            # Shielded: the load is shared, so one caller that gives up must not take it from the others.
            await asyncio.shield(resident.loading)
            yield resident
        finally:
            resident.users -= 1
            self.touch(resident, keep_alive)
            self._freed.set()
            if resident.loading.done() and not resident.loaded:
                self._forget(resident)
            elif resident.expires <= self.clock():
                await self.expire()

    def touch(self, resident: Resident, keep_alive: float) -> None:
        """Restart a model's timer."""
        now = self.clock()
        self.last_used = resident.last_used = now
        if resident.expires != -math.inf:
            resident.expires = now + max(keep_alive, 0.0)

    async def expire(self) -> int:
        """Unload every idle model whose time has come; the number of them."""
        now = self.clock()
        due = [r for r in self.residents.values() if not r.users and r.loaded and r.expires <= now]
        for resident in due:
            # While another one was unloaded, this one may have been claimed, renewed or dropped.
            if not resident.users and resident.expires <= self.clock() and self._has(resident):
                await self._drop(resident)
        return len(due)

    async def drop(self, name: str) -> int:
        """Unload every snapshot of ``name`` that is idle now, and the others as soon as they are; the number of all."""
        named = [r for r in self.residents.values() if r.ref.name == name]
        for resident in named:
            resident.expires = -math.inf
        await self.expire()
        return len(named)

    async def _claim(self, ref: ModelRef) -> Resident:
        key = (ref.name, ref.digest)
        while key not in self.residents:
            for other in self.residents.values():
                if other.ref.name == ref.name:
                    other.expires = -math.inf
            await self.expire()
            if key in self.residents:
                break
            if len(self.residents) < self.max_models:
                self._admit(ref, key)
                break
            idle = [r for r in self.residents.values() if not r.users and r.loaded]
            if idle:
                await self._drop(min(idle, key=lambda r: r.last_used))
            else:
                self._freed.clear()
                await self._freed.wait()
        resident = self.residents[key]
        resident.users += 1
        return resident

    def _admit(self, ref: ModelRef, key: Key) -> None:
        loading: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        resident = self.residents[key] = Resident(ref, loading, last_used=self.clock())

        async def fill() -> None:
            try:
                loading.set_result(await self.load(resident))
            except BaseException as error:
                loading.set_exception(error)
                loading.exception()  # marked as seen: a load nobody waits for any more must not warn
                if not resident.users:
                    self._forget(resident)
            finally:
                self._freed.set()

        resident.task = asyncio.ensure_future(fill())

    async def _drop(self, resident: Resident) -> None:
        self._forget(resident)
        try:
            # Shielded: a request that gives up must not leave a model half unloaded.
            await asyncio.shield(asyncio.ensure_future(self.unload(resident)))
        finally:
            self._freed.set()

    def _has(self, resident: Resident) -> bool:
        return self.residents.get((resident.ref.name, resident.ref.digest)) is resident

    def _forget(self, resident: Resident) -> None:
        if self._has(resident):
            del self.residents[resident.ref.name, resident.ref.digest]
