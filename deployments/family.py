"""The one deployment class of every family: it holds models, runs their adapters, and answers with timings.

Its constructor only remembers; it imports no ML library, so it cannot fail. Inference runs in threads of its own, so
the event loop stays free for health checks, ``ps`` and cancellation.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import platform
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import nullcontext
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from deployments import logs
from deployments.blackbox import BlackBox
from deployments.failures import CUDA, OOM, Refused, cause_of
from deployments.loading import loaded, unloaded
from deployments.logs import REQUEST
from deployments.memory import DEVICE, HOST, Memory, Room, peak_mb, resident_mb
from deployments.messages import HELD, Call, Progress, Refusal, Result, pack, unpack
from deployments.residency import Residency, Resident
from deployments.slot import Slot
from deployments.work import Answer, Fault, Work, attempted
from deployments.worker import CHORE, Worker
from tollama.errors import RunnerFailed, RunnerUnavailable, TollamaError
from tollama.seam import SEAM_VERSION, Adapter, Concurrent, Hello, Item, ModelRef, Placement
from tollama.version import __version__

logger = logging.getLogger("ray.serve")

SENT_S = 0.2
"""How long the answer of a call that found the GPU in a bad state has to leave the process before it ends itself."""
TICK_S = 0.25
"""How often expiry is looked at while models are held."""


@dataclass(frozen=True, slots=True)
class FamilyConfig:
    """What a replica is told: its adapters' import strings, placement, and limits.

    ``slot`` is the node-wide lock file that a computing call takes, or None for a family that does not compute.
    ``black_boxes`` is the folder where replicas write down what they compute. ``gpu_share`` is the replica's part of a
    GPU, and ``max_memory_fraction`` how much of a memory may be used.
    """

    name: str
    adapters: Mapping[str, str]
    placement: Placement
    max_models: int
    slot: str | None = None
    black_boxes: str | None = None
    gpu_share: float = 0.0
    max_memory_fraction: float = 1.0


class Family:
    """One replica of a family."""

    def __init__(self, config: FamilyConfig) -> None:
        self.config = config
        self._name = f"{config.name}-{os.getpid()}"
        logs.install()
        self._adapters: dict[str, Adapter] = {}
        placement = self._placement()
        self._box = BlackBox(config.black_boxes, config.name)
        slot = Slot(config.slot) if config.slot and placement.device == "cpu" else nullcontext()
        threads = placement.threads if placement.device == "cpu" else 1
        self._worker = Worker(config.name, slot, self._box, threads)
        share = min(config.gpu_share, 1.0) if placement.device == "cuda" else 0.0
        self._memory = Memory(config.max_memory_fraction, share, placement.dtype)
        self._residency = Residency(
            self._load, self._unload, time.time, config.max_models, self._memory.need, self._room
        )
        self._wanted_elsewhere = False
        self._started = self._touched = time.time()
        self._calls = 0
        self._ticker: asyncio.Task[None] | None = None

    # The verbs that the ingress calls.

    async def forecast(self, blob: bytes) -> bytes:
        """A packed :class:`Call` -> a packed :class:`Result` or :class:`Refusal`."""
        return pack(await self._answer(blob, lambda _: None))

    async def forecast_stream(self, blob: bytes) -> AsyncIterator[bytes]:
        """The same, with packed :class:`Progress` lines before it."""
        lines: asyncio.Queue[Progress | Result | Refusal] = asyncio.Queue()
        lines.put_nowait(Progress("accepted"))

        async def run() -> None:
            lines.put_nowait(await self._answer(blob, lines.put_nowait))

        task = asyncio.ensure_future(run())
        try:
            while True:
                line = await lines.get()
                yield pack(line)
                if not isinstance(line, Progress):
                    break
        finally:
            task.cancel()

    async def ps(self) -> list[dict[str, Any]]:
        """The models here, loading or loaded: name, digest, expires (epoch seconds, inf is for ever), last_used, what
        they take where they are held (``memory_mb``, and ``vram_mb`` if that is a GPU) ..."""
        now = time.time()
        return [
            {
                "name": held.ref.name,
                "digest": held.ref.digest,
                "state": "loaded" if held.loaded else "loading",
                "expires": held.until(now),
                "last_used": held.last_used,
                "in_use": held.users,
                "memory_mb": held.took.get(self._memory.kind, held.took.get(HOST, 0.0)),
                "vram_mb": held.took.get(DEVICE, 0.0),
                "device": self._placement().device,
                "context_length": held.ref.capabilities.max_context,
                "replica": self._name,
            }
            for held in self._residency.residents.values()
        ]

    async def capabilities(self, name: str) -> dict[str, Any] | None:
        """What a loaded model itself says that it can do, as JSON; None when it is not loaded."""
        named = [held for held in self._residency.residents.values() if held.ref.name == name]
        told = [held.capabilities for held in named if held.capabilities is not None]
        return told[-1].model_dump(mode="json") if told else None

    async def drop(self, name: str) -> int:
        """Unload a model: at once if idle, else as soon as it is."""
        return await self._residency.drop(name)

    async def spare(self, wanted: Mapping[str, float]) -> float:
        """Unload idle models, whatever their keep_alive and the least recently used first, until the megabytes of the
        host's memory that are ``wanted`` of this replica, by name, have been given back; returns how many were, as far
        as is known. A process that holds nothing then does not linger: its libraries take memory, too."""
        needed = wanted.get(self._name)
        if needed is None:
            return 0.0
        self._wanted_elsewhere = True
        return await self._residency.spare(needed)

    async def report(self) -> dict[str, Any]:
        """What :meth:`ps` tells, and of which process, whether or not it holds anything; imports nothing."""
        me = {"replica": self._name, "pid": os.getpid(), "started": self._started}
        return me | {"device": self._placement().device, "rss_mb": resident_mb(), "models": await self.ps()}

    async def hello(self) -> Hello:
        """Who this replica is."""
        libraries: dict[str, str] = {}
        for kind in self.config.adapters:
            libraries |= self._adapter(kind).hello()
        python = platform.python_version()
        device = self._placement().device
        return Hello(self.config.name, __version__, SEAM_VERSION, python, device, libraries, os.getpid())

    # What Serve calls.

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What the scaling policy reads: models held, calls under way, when this replica was last of use (epoch
        seconds; control verbs are no use), and whether somebody wants its memory."""
        held = float(len(self._residency.residents))
        wanted = float(self._wanted_elsewhere)
        return {"hold": held, "calls": float(self._calls), "last_used": self._touched, "wanted": wanted}

    async def record_routing_stats(self) -> dict[str, list[str]]:
        """What the router of a family of several replicas reads: the models here, or on their way."""
        return {HELD: sorted({name for name, _ in self._residency.residents})}

    async def check_health(self) -> None:
        """The ping: raises when an adapter finds that something is wrong, so that Serve replaces this replica. One
        whose GPU went bad, or whose current work has outlived its limit, ends itself: nothing could be waited for."""
        if self._worker.sick:
            self._end(CUDA)
        self._box.well()
        if hung := self._worker.hung():
            self._end("hang", hung)
        for adapter in self._adapters.values():
            try:
                adapter.ping()
            except Exception:
                self._box.blame("cuda" if self._placement().device == "cuda" else "health")
                raise

    def __del__(self) -> None:
        """Serve calls this when the replica leaves properly."""
        self._box.close()

    # The work.

    async def _answer(self, blob: bytes, report: Callable[[Progress], None]) -> Result | Refusal:
        try:
            call: Call = unpack(blob)
        except Exception as error:
            logger.exception("a call could not be read")
            told = f"The family {self.config.name!r} could not read the request: {type(error).__name__}."
            return Refusal(RunnerFailed(told).record, alone=False)
        REQUEST.set(call.request_id)
        self._calls += 1
        self._touched = time.time()
        self._wanted_elsewhere = False
        try:
            self._worker.require_gpu()
            return await self._run(call, report)
        except Refused as refused:
            return Refusal(refused.error.record, alone=False, cause=refused.cause)
        except TollamaError as error:
            return Refusal(error.record)
        except Exception as error:
            logger.exception("the model %s failed", call.model)
            failed = RunnerFailed(f"The model {call.model!r} failed: {type(error).__name__}.", detail=call.request_id)
            cause = cause_of(error)
            return Refusal(failed.record, alone=cause is None, cause=cause)
        finally:
            self._calls -= 1
            self._touched = time.time()
            if self._worker.sick:
                asyncio.get_running_loop().call_later(SENT_S, self._end, CUDA)

    async def _run(self, call: Call, report: Callable[[Progress], None]) -> Result:
        arrived = time.perf_counter()
        ref: ModelRef = unpack(call.ref)
        held = self._residency.residents.get((call.model, call.digest))
        cold = held is None or not held.loaded
        if cold:
            report(Progress("loading model"))
        self._ensure_ticker()
        async with self._residency.use(ref, call.keep_alive, call.deadline) as resident:
            load_s = resident.load_s if cold else 0.0
            adapter = self._adapter(ref.adapter)
            requests: list[list[Item]] = [unpack(part) for part in call.parts]
            work = Work(requests, adapter.chunk, joint=bool(call.task.options.get("cross_learning")))
            use_threads = adapter.use_threads if isinstance(adapter, Concurrent) else None

            async def attempt(items: Sequence[Item]) -> tuple[float, list[Answer] | Fault]:
                what, task = (call.model, call.id), call.task
                return await self._worker.compute(
                    what, call.deadline, use_threads, attempted, adapter, call.model, resident.model, items, task
                )

            answers = await work.run(attempt, report)
            if work.cause == OOM:
                self._residency.retire(resident)
            load_first = cold and not resident.told
            resident.told = resident.told or load_first
        waited = time.perf_counter() - arrived - load_s - work.seconds
        return Result(
            tuple(pack(part) for part in answers),
            queue_ms=max(0.0, waited) * 1e3,
            load_ms=load_s * 1e3,
            inference_ms=work.seconds * 1e3,
            batch_series=work.largest,
            device=self._placement().device,
            peak_memory_mb=peak_mb(),
            cause=work.cause,
            started=self._started,
            load_first=load_first,
        )

    async def _room(self) -> Room:
        if not self._memory.share:
            return self._memory.room()
        try:  # torch belongs in a worker's thread
            return await self._worker.chore(self._memory.room)
        except Exception as error:
            logger.exception("the GPU's memory cannot be measured")
            if (cause := cause_of(error)) == CUDA:
                self._worker.condemn()
            told = f"The GPU of the family {self.config.name!r} cannot be used: {type(error).__name__}."
            hint = "The server's log has the cause. With device: cpu in serve_config.yaml the family does without."
            raise Refused(RunnerUnavailable(told, hint=hint), cause) from None

    async def _load(self, resident: Resident) -> Any:
        kind = resident.ref.adapter

        return await self._worker.load(
            resident, loaded, resident, lambda: self._adapter(kind), self._placement(), self._memory
        )

    async def _unload(self, resident: Resident) -> None:
        adapter = self._adapter(resident.ref.adapter)

        def run() -> None:
            with self._box.computing(resident.ref.name, (CHORE,)):
                unloaded(resident, adapter)

        await self._worker.chore(run)

    def _end(self, reason: str, calls: frozenset[str] | None = None) -> None:
        """This process, at once; its record says why, and which calls it has been for."""
        self._box.blame(reason, calls)
        os.kill(os.getpid(), signal.SIGKILL)

    def _adapter(self, kind: str) -> Adapter:
        if kind not in self._adapters:
            target = self.config.adapters.get(kind)
            if target is None:
                raise RunnerFailed(f"The family {self.config.name!r} has no adapter {kind!r}.")
            module, _, name = target.partition(":")
            self._adapters[kind] = getattr(importlib.import_module(module), name)()
        return self._adapters[kind]

    def _placement(self) -> Placement:
        wish = self.config.placement
        # Ray hands a replica with a GPU share its card; without one the variable is empty or unset.
        device = wish.device
        if device == "auto":
            device = "cuda" if os.environ.get("CUDA_VISIBLE_DEVICES") else "cpu"
        return Placement(device, wish.dtype, wish.threads)

    def _ensure_ticker(self) -> None:
        if self._ticker is None or self._ticker.done():
            # It outlives the request that starts it, and works for none.
            self._ticker = asyncio.create_task(self._tick(), context=Context())

    async def _tick(self) -> None:
        await asyncio.sleep(TICK_S)
        while self._calls or self._residency.residents:  # a call that waits for room holds none yet
            try:
                self._residency.expire()
            except Exception:  # without traffic, nobody would start another ticker
                logger.exception("expiry failed")
            await asyncio.sleep(TICK_S)
