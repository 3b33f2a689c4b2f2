"""The models that one replica holds: least recently used, in-use counts, one expiry per model, and room for the next.

Its world comes in as functions (load, unload, clock, memory), so it is tested without a process or a sleep. All methods
run on one event loop; ``load``, ``unload`` and ``room`` do their work wherever they like (the family gives them its
worker thread). No Ray in it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from deployments.failures import MEMORY, OOM, Refused
from deployments.memory import LEAST_MB, Room, Shortage, Taken, shortage
from tollama.capabilities import Capabilities
from tollama.errors import DeadlineExceeded, RunnerUnavailable
from tollama.seam import ModelRef

ANSWER_S = 0.1
"""Seconds before its deadline at which one who waits for room is told why: the answer takes a while, too."""

Key = tuple[str, str]
"""Model name and snapshot digest: two snapshots of one name are two residents, for as long as the old one is used."""


@dataclass(slots=True)
class Resident:
    """One model in memory (or on its way there). ``expires`` is on the clock's scale; inf is for ever, and -inf marks
    a model that is to go as soon as nobody uses it. One that is ``stopped`` is to go then, too, unless somebody new
    asks for it before. ``need`` is what it was expected to take, ``took`` what it did; ``model`` is what the adapter's
    ``load`` gave; ``told`` says whether an answer was marked as the one that tells of the load."""

    ref: ModelRef
    loading: asyncio.Future[None]
    need: Taken
    took: Taken = field(default_factory=dict)
    model: Any = None
    capabilities: Capabilities | None = None
    load_s: float = 0.0
    told: bool = False
    users: int = 0
    last_used: float = 0.0
    keep_alive: float = 0.0
    expires: float = math.inf
    stopped: bool = False
    deadline: float = 0.0
    task: asyncio.Task[None] | None = None

    @property
    def loaded(self) -> bool:
        return self.loading.done() and not self.loading.cancelled() and self.loading.exception() is None

    @property
    def leaving(self) -> bool:
        """Whether those who use it are the last."""
        return self.stopped or self.expires == -math.inf

    def until(self, now: float) -> float:
        """When it goes if nobody asks for it again: one in use has its whole time before it."""
        return now + self.keep_alive if self.users and not self.leaving else self.expires

    def holds(self, kind: str) -> float:
        """Megabytes of one memory."""
        return max(self.need.get(kind, 0.0), self.took.get(kind, 0.0))


async def _unknown() -> Room:
    return {}


@dataclass(slots=True)
class Residency:
    """The cache. ``load(resident)`` returns the adapter's model and may note ``load_s`` and what it ``took``; that
    there was no memory for it, it says by :class:`Refused` of the cause ``OOM``. ``need(ref)`` is what a model is going
    to take, ``room()`` what there is."""

    load: Callable[[Resident], Awaitable[Any]]
    unload: Callable[[Resident], Awaitable[None]]
    clock: Callable[[], float]
    max_models: int = 3
    need: Callable[[ModelRef], Taken] = lambda ref: {}
    room: Callable[[], Awaitable[Room]] = _unknown
    residents: dict[Key, Resident] = field(default_factory=dict)
    last_used: float = 0.0
    _freed: asyncio.Event = field(default_factory=asyncio.Event)
    _admission: asyncio.Lock = field(default_factory=asyncio.Lock)

    @asynccontextmanager
    async def use(self, ref: ModelRef, keep_alive: float, deadline: float = math.inf) -> AsyncIterator[Resident]:
        """The loaded model, not to be unloaded meanwhile; afterwards its timer starts anew with ``keep_alive`` seconds.

        Raises whatever ``load`` raises; :class:`Refused` when there is no room for the model and nothing here could
        make it; :class:`DeadlineExceeded` when all that could is in use until ``deadline``. That is the caller's, on
        the clock's scale: a load may take as long as somebody waits for it.
        """
        resident = await self._claim(ref, deadline)
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
        if not resident.leaving:
            resident.keep_alive = max(keep_alive, 0.0)
            resident.expires = now + resident.keep_alive

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
        """Unload every snapshot of ``name`` that is idle now, and the others as soon as they are, unless somebody new
        asks for them before; the number of all."""
        named = [r for r in self.residents.values() if r.ref.name == name]
        for resident in named:
            resident.stopped, resident.expires = True, min(resident.expires, self.clock())
        await self.expire()
        return len(named)

    def retire(self, resident: Resident) -> None:
        """Unload a model as soon as nobody uses it."""
        resident.expires = -math.inf

    async def _claim(self, ref: ModelRef, deadline: float) -> Resident:
        key = (ref.name, ref.digest)
        while key not in self.residents:
            for other in self.residents.values():
                if other.ref.name == ref.name:
                    self.retire(other)
            await self.expire()
            obstacle = None
            async with self._admission:  # one at a time: two would both be given the same room
                if key not in self.residents:
                    self._freed.clear()
                    obstacle = await self._obstacle(ref)
                    if obstacle is None and key not in self.residents:
                        self._admit(ref, key)
            if obstacle is not None:
                await self._wait(obstacle, deadline)
        resident = self.residents[key]
        resident.users += 1
        resident.stopped = False
        return resident

    async def _obstacle(self, ref: ModelRef) -> str | None:
        """None once there is room for ``ref``, which idle models make by going, the least recently used first; else
        what is in its way: all that are left are in use. Raises :class:`Refused` when their going would not help."""
        need = self.need(ref)
        while True:
            short = shortage(need, await self.room(), self._promised())
            if short is not None and self._hopeless(short):
                raise Refused(_no_room(ref, short), MEMORY)
            if short is None and len(self.residents) < self.max_models:
                return None
            if idle := self._idle():
                await self._drop(idle[0])
            elif short is not None:
                return f"{short}; the models that could make room are in use"
            else:
                return f"{len(self.residents)} models are loaded, no more may be, and all of them are in use"

    async def _wait(self, obstacle: str, deadline: float) -> None:
        left = deadline - self.clock() - ANSWER_S
        try:
            async with asyncio.timeout(max(0.0, left) if left < math.inf else None):
                await self._freed.wait()
        except TimeoutError:
            raise DeadlineExceeded(
                f"The request's timeout ran out before there was room for the model: {obstacle}.",
                hint="Raise 'timeout' in the request, or TOLLAMA_MAX_LOADED_MODELS and TOLLAMA_MAX_MEMORY_FRACTION.",
            ) from None

    def _admit(self, ref: ModelRef, key: Key) -> None:
        loading: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        resident = self.residents[key] = Resident(ref, loading, self.need(ref), last_used=self.clock())

        async def fill() -> None:
            try:
                resident.model = await self._loaded(resident)
                await self._relieve()
                loading.set_result(None)
            except BaseException as error:
                loading.set_exception(error)
                loading.exception()  # marked as seen: a load nobody waits for any more must not warn
                if not resident.users:
                    self._forget(resident)
            finally:
                self._freed.set()

        resident.task = asyncio.ensure_future(fill())

    async def _loaded(self, resident: Resident) -> Any:
        """The load, tried once more if it ran out of memory and idle models could go."""
        try:
            return await self.load(resident)
        except Refused as refused:
            if refused.cause != OOM or not self._idle():
                raise
        while idle := self._idle():
            await self._drop(idle[0])
        return await self.load(resident)

    async def _relieve(self) -> None:
        """What a model really takes shows when it is loaded: idle ones go while more is used than may be."""
        while idle := self._idle():
            full = [kind for kind, space in (await self.room()).items() if space.free < 0]
            giving = [other for other in idle if any(other.holds(kind) >= LEAST_MB for kind in full)]
            if not giving:
                return
            if not giving[0].users and self._has(giving[0]):
                await self._drop(giving[0])

    def _idle(self) -> list[Resident]:
        """Models that could go, the least recently used first."""
        idle = [resident for resident in self.residents.values() if not resident.users and resident.loaded]
        return sorted(idle, key=lambda resident: resident.last_used)

    def _hopeless(self, short: Shortage) -> bool:
        """Whether there would be no room even if every model went. What other programs hold is not waited for."""
        residents = self.residents.values()
        if short.needed <= short.space.limit and not all(resident.loaded for resident in residents):
            return False  # how much a model on its way has taken already, nobody knows
        return short.needed > short.space.free + sum(resident.holds(short.kind) for resident in residents)

    def _promised(self) -> Taken:
        """Megabytes that the models on their way are going to take."""
        promised: dict[str, float] = {}
        for resident in self.residents.values():
            if not resident.loaded:
                for kind, needed in resident.need.items():
                    promised[kind] = promised.get(kind, 0.0) + needed
        return promised

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


def _no_room(ref: ModelRef, short: Shortage) -> RunnerUnavailable:
    return RunnerUnavailable(
        f"There is no room for the model {ref.name!r}: {short}.", detail=short.detail, hint=short.hint
    )
