"""The models that one replica holds: least recently used, in-use counts, one expiry per model, and room for the next.

Its world comes in as functions (load, unload, clock, memory), so it is tested without a process or a sleep. All methods
run on one event loop; ``load``, ``unload`` and ``room`` do their work wherever they like (the family gives them a
worker's thread). No Ray in it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from deployments.failures import MEMORY, OOM, Refused
from deployments.memory import HOST, LEAST_MB, Room, Shortage, Taken, shortage
from tollama.capabilities import Capabilities
from tollama.errors import DeadlineExceeded, RunnerUnavailable
from tollama.seam import ModelRef

logger = logging.getLogger("ray.serve")

ANSWER_S = 0.1
"""Seconds before its deadline at which one who waits for room is told why: the answer takes a while, too."""

Key = tuple[str, str]
"""Model name and snapshot digest: two snapshots of one name are two residents, for as long as the old one is used."""


@dataclass(slots=True, eq=False)
class Resident:
    """One model in memory (or on its way there). ``expires`` is on the clock's scale; inf is for ever, and -inf marks
    a retired model, which nobody new is given and which goes as soon as nobody uses it. One that is ``stopped`` is to
    go then, too, unless somebody new asks for it before. ``deadline`` is when the last of those who wait for its load
    gives up, ``patience`` the longest time that any of them had. ``need`` is what it should take, ``took`` what
    it did; ``model`` is what the adapter's ``load`` gave; ``told`` says whether an answer was marked as the one that
    tells of the load."""

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
    patience: float = 0.0
    task: asyncio.Task[None] | None = None

    @property
    def loaded(self) -> bool:
        return self.loading.done() and not self.loading.cancelled() and self.loading.exception() is None

    @property
    def retired(self) -> bool:
        return self.expires == -math.inf

    @property
    def leaving(self) -> bool:
        """Whether those who use it are the last."""
        return self.stopped or self.retired

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
    to take, ``room()`` what there is.

    A model that goes leaves ``residents`` at once, and is in ``going`` until its memory is free: an answer never waits
    for that, and who needs the memory does."""

    load: Callable[[Resident], Awaitable[Any]]
    unload: Callable[[Resident], Awaitable[None]]
    clock: Callable[[], float]
    max_models: int = 3
    need: Callable[[ModelRef], Taken] = lambda ref: {}
    room: Callable[[], Awaitable[Room]] = _unknown
    residents: dict[Key, Resident] = field(default_factory=dict)
    going: dict[Resident, asyncio.Task[None]] = field(default_factory=dict)
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
        resident.patience = max(resident.patience, deadline - self.clock())
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
                self.expire()

    def touch(self, resident: Resident, keep_alive: float) -> None:
        """Restart a model's timer."""
        now = self.clock()
        self.last_used = resident.last_used = now
        if not resident.leaving:
            resident.keep_alive = max(keep_alive, 0.0)
            resident.expires = now + resident.keep_alive

    def expire(self) -> int:
        """Have every idle model go whose time has come; the number of them."""
        now = self.clock()
        due = [resident for resident in self._idle() if resident.expires <= now]
        for resident in due:
            self._let_go(resident)
        return len(due)

    async def drop(self, name: str) -> int:
        """Unload every snapshot of ``name`` that is idle now, and the others as soon as they are, unless somebody new
        asks for them before; the number of all. Returns when the memory of those that were idle is free."""
        named = [resident for resident in self.residents.values() if resident.ref.name == name]
        for resident in named:
            resident.stopped, resident.expires = True, min(resident.expires, self.clock())
        self.expire()
        await self._gone(resident for resident in self.going if resident.ref.name == name)
        return len(named)

    async def spare(self, needed: float) -> float:
        """Have idle models go, whatever their timers say, the least recently used first, until they held ``needed``
        megabytes of the host's memory; returns how much they held, when it is free. Those that are on their way out
        already count, and those that hold next to nothing stay."""
        idle = [resident for resident in self._idle() if resident.holds(HOST) >= LEAST_MB]
        while idle and self._returning(HOST) < needed:
            self._let_go(idle.pop(0))
        given = self._returning(HOST)
        await self._gone(self.going)
        return given

    def retire(self, resident: Resident) -> None:
        """Unload a model as soon as nobody uses it, and give it to nobody new."""
        resident.expires = -math.inf

    async def _claim(self, ref: ModelRef, deadline: float) -> Resident:
        key = (ref.name, ref.digest)
        while (resident := self.residents.get(key)) is None or resident.retired:
            for other in self.residents.values():
                if other.ref.name == ref.name:
                    self.retire(other)
            self.expire()
            async with self._admission:  # one at a time: two would both be given the same room
                self._freed.clear()
                obstacle = await self._obstacle(ref, key)
                if obstacle is None and key not in self.residents:
                    self._admit(ref, key)
            if obstacle is not None:
                await self._wait(obstacle, deadline)
        resident.users += 1
        resident.stopped = False
        return resident

    async def _obstacle(self, ref: ModelRef, key: Key) -> str | None:
        """None once there is room for ``ref``, which idle models make by going, the least recently used first; else
        what is in its way: those that make room are in use, or still on their way out. Raises :class:`Refused` when
        their going would not help."""
        need = self.need(ref)
        while (held := self.residents.get(key)) is None:
            short = shortage(need, await self.room(), self._promised())
            if short is not None and (lacking := self._lacking(short)) > 0:
                raise Refused(_no_room(ref, short, lacking), MEMORY)
            if short is None and len(self.residents) < self.max_models:
                return None
            idle = self._idle()
            if short is not None and self.going:
                return f"{short}; a model that makes room is still on its way out"
            if idle:
                self._let_go(idle[0])
            elif short is not None:
                return f"{short}; the models that could make room are in use"
            else:
                return f"{len(self.residents)} models are loaded, no more may be, and all of them are in use"
        return "it is loaded anew when those who use it are done" if held.retired else None

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
            self._let_go(idle[0])
        await self._gone(self.going)
        return await self.load(resident)

    async def _relieve(self) -> None:
        """What a model really takes shows when it is loaded: idle ones go while more is used than may be."""
        while idle := self._idle():
            full = [kind for kind, space in (await self.room()).items() if space.free < 0]
            giving = [other for other in idle if any(other.holds(kind) >= LEAST_MB for kind in full)]
            if not giving:
                return
            if self.going:  # what they hold may be all that is too much
                await self._gone(self.going)
            elif not giving[0].users and self._has(giving[0]):
                self._let_go(giving[0])

    def _idle(self) -> list[Resident]:
        """Models that could go, the least recently used first."""
        idle = [resident for resident in self.residents.values() if not resident.users and resident.loaded]
        return sorted(idle, key=lambda resident: resident.last_used)

    def _lacking(self, short: Shortage) -> float:
        """Megabytes that there would be too few of even if every model went; 0 when that would be enough. What other
        programs hold is not waited for."""
        residents = self.residents.values()
        if short.needed <= short.space.limit and not all(resident.loaded for resident in residents):
            return 0.0  # how much a model on its way has taken already, nobody knows
        held = sum(resident.holds(short.kind) for resident in residents)
        return max(0.0, short.needed - short.space.free - held - self._returning(short.kind))

    def _returning(self, kind: str) -> float:
        """Megabytes that the models on their way out are going to give back."""
        return sum(resident.holds(kind) for resident in self.going)

    def _promised(self) -> Taken:
        """Megabytes that the models on their way are going to take."""
        promised: dict[str, float] = {}
        for resident in self.residents.values():
            if not resident.loaded:
                for kind, needed in resident.need.items():
                    promised[kind] = promised.get(kind, 0.0) + needed
        return promised

    def _let_go(self, resident: Resident) -> None:
        self._forget(resident)

        async def empty() -> None:
            try:
                await self.unload(resident)
            except Exception:
                logger.exception("model %s could not be unloaded", resident.ref.name)
            finally:
                del self.going[resident]
                self._freed.set()

        # No request's own: one that gives up must not leave a model half unloaded.
        self.going[resident] = asyncio.ensure_future(empty())

    async def _gone(self, residents: Iterable[Resident]) -> None:
        if going := [self.going[resident] for resident in residents]:
            await asyncio.wait(going)

    def _has(self, resident: Resident) -> bool:
        return self.residents.get((resident.ref.name, resident.ref.digest)) is resident

    def _forget(self, resident: Resident) -> None:
        if self._has(resident):
            del self.residents[resident.ref.name, resident.ref.digest]


def _no_room(ref: ModelRef, short: Shortage, lacking: float) -> RunnerUnavailable:
    detail = short.detail | {"lacking_mb": round(lacking, 1)}
    return RunnerUnavailable(f"There is no room for the model {ref.name!r}: {short}.", detail=detail, hint=short.hint)
