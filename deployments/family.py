"""The one deployment class of every family: it holds models, runs their adapters, and answers with timings.

Its constructor only remembers; it imports no ML library, so it cannot fail. Inference runs in one worker thread, so
the event loop stays free for health checks, ``ps`` and cancellation.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import platform
import resource
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from deployments.messages import Call, Progress, Refusal, Result, pack, unpack
from deployments.residency import Residency, Resident
from deployments.slot import Slot
from tollama.errors import DeadlineExceeded, ErrorRecord, RunnerFailed, TollamaError
from tollama.seam import SEAM_VERSION, Adapter, Hello, Item, ItemFailure, ItemForecast, ModelRef, Placement, Task
from tollama.version import __version__

logger = logging.getLogger("ray.serve")

HANG_GRACE_S = 5.0
"""Seconds past its deadline after which a call counts as hung and the replica fails its health check."""
TICK_S = 0.25
"""How often expiry is looked at while models are held."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FamilyConfig:
    """What a replica is told: its adapters' import strings, placement, and limits.

    ``slot`` is the node-wide lock file that a computing call takes, or None for a family that does not compute.
    """

    name: str
    adapters: Mapping[str, str]
    placement: Placement
    max_models: int
    slot: str | None = None


class Family:
    """One replica of a family."""

    def __init__(self, config: FamilyConfig) -> None:
        self.config = config
        self._adapters: dict[str, Adapter] = {}
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._slot = Slot(config.slot) if config.slot and self._placement().device == "cpu" else nullcontext()
        self._residency = Residency(self._load, self._unload, time.time, config.max_models)
        self._touched = time.time()
        self._busy_until: Callable[[], float] | None = None
        self._ticker: asyncio.Task[None] | None = None

    # The verbs that the ingress calls.

    async def forecast(self, blob: bytes) -> bytes:
        """A packed :class:`Call` -> a packed :class:`Result` or :class:`Refusal`."""
        return pack(await self._answer(unpack(blob), lambda _: None))

    async def forecast_stream(self, blob: bytes) -> AsyncIterator[bytes]:
        """The same, with packed :class:`Progress` lines before it."""
        lines: asyncio.Queue[Progress | Result | Refusal] = asyncio.Queue()
        lines.put_nowait(Progress("accepted"))

        async def run() -> None:
            lines.put_nowait(await self._answer(unpack(blob), lines.put_nowait))

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
        """The models here, loading or loaded: name, digest, expires (epoch seconds, inf is for ever), memory_mb ..."""
        return [
            {
                "name": held.ref.name,
                "digest": held.ref.digest,
                "state": "loaded" if held.loaded else "loading",
                "expires": held.expires,
                "in_use": held.users,
                "memory_mb": held.memory_mb,
                "device": self._placement().device,
                "context_length": held.ref.capabilities.max_context,
                "replica": f"{self.config.name}-{os.getpid()}",
            }
            for held in self._residency.residents.values()
        ]

    async def drop(self, name: str) -> int:
        """Unload a model: at once if idle, else as soon as it is."""
        return await self._residency.drop(name)

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
        """What the scaling policy reads: models held, and when this replica was last of use (epoch seconds)."""
        return {"hold": float(len(self._residency.residents)), "last_used": self._touched}

    async def check_health(self) -> None:
        """The ping: raises when the current call has outlived every deadline, so that Serve replaces this replica."""
        until = self._busy_until
        if until is not None and time.time() > until() + HANG_GRACE_S:
            raise RuntimeError("the current call has outlived its deadline")
        for adapter in self._adapters.values():
            adapter.ping()

    # The work.

    async def _answer(self, call: Call, report: Callable[[Progress], None]) -> Result | Refusal:
        try:
            return await self._run(call, report)
        except _LoadFailed as refused:
            return Refusal(refused.error.record, alone=False)
        except TollamaError as error:
            return Refusal(error.record)
        except Exception as error:
            logger.exception("request %s: model %s failed", call.request_id, call.model)
            failed = RunnerFailed(f"The model {call.model!r} failed: {type(error).__name__}.", detail=call.request_id)
            return Refusal(failed.record)
        finally:
            self._touched = time.time()

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
            requests: list[list[Item]] = [unpack(part) for part in call.parts]
            items = [item for request in requests for item in request]
            forecasts: list[ItemForecast | ItemFailure] = []
            compute_s = 0.0
            chunk = self._adapter(ref.adapter).chunk
            for start in range(0, len(items), chunk):
                report(Progress("running forecast", start, len(items)))
                part = items[start : start + chunk]
                seconds, answers = await self._compute(call.deadline, self._forecast, resident, part, call.task)
                compute_s += seconds
                forecasts += answers
            report(Progress("running forecast", len(items), len(items)))
        waited = time.perf_counter() - arrived - load_s - compute_s
        answers_in_order = iter(forecasts)
        return Result(
            tuple(pack(list(islice(answers_in_order, len(request)))) for request in requests),
            queue_ms=max(0.0, waited) * 1e3,
            load_ms=load_s * 1e3,
            inference_ms=compute_s * 1e3,
            batch_series=min(len(items), chunk),
            device=self._placement().device,
            peak_memory_mb=_peak_memory_mb(),
        )

    def _forecast(
        self, resident: Resident, items: Sequence[Item], task: Task
    ) -> tuple[float, list[ItemForecast | ItemFailure]]:
        start = time.perf_counter()
        answers = self._adapter(resident.ref.adapter).forecast(resident.model, items, task)
        seconds = time.perf_counter() - start
        if len(answers) != len(items):
            raise RunnerFailed(f"The model answered {len(answers)} of {len(items)} series.")
        return seconds, [_checked(item, answer, task) for item, answer in zip(items, answers, strict=True)]

    async def _load(self, resident: Resident) -> Any:
        name = resident.ref.name

        def load() -> Any:
            before, start = _memory_mb(), time.perf_counter()
            try:
                model = self._adapter(resident.ref.adapter).load(resident.ref, self._placement())
            except Exception as error:
                logger.exception("model %s could not be loaded", name)
                told = f"The model {name!r} could not be loaded: {type(error).__name__}."
                hint = f"The server's log has the cause; tollama pull {name} checks its files."
                raise _LoadFailed(RunnerFailed(told, hint=hint)) from None
            resident.load_s = time.perf_counter() - start
            resident.memory_mb = max(0.0, _memory_mb() - before)
            logger.info("model %s loaded in %.2f s", name, resident.load_s)
            return model

        return await self._compute(lambda: resident.deadline, load)

    async def _unload(self, resident: Resident) -> None:
        def unload() -> None:
            try:
                self._adapter(resident.ref.adapter).unload(resident.model)
            except Exception:
                logger.exception("model %s could not be unloaded", resident.ref.name)
            else:
                logger.info("model %s unloaded", resident.ref.name)

        await asyncio.get_running_loop().run_in_executor(self._worker, unload)

    async def _compute(self, deadline: float | Callable[[], float], work: Callable[..., T], *args: Any) -> T:
        """``work`` in the worker thread, with the node's compute slot; not at all when ``deadline`` has passed."""
        until = deadline if callable(deadline) else lambda: deadline

        def run() -> T:
            with self._slot:
                # What waited past its deadline has nobody to answer to any more. Waiting is no hanging, so only what
                # follows counts for the health check.
                if time.time() > until():
                    raise DeadlineExceeded("The request's timeout ran out before its turn came.")
                self._busy_until = until
                try:
                    return work(*args)
                finally:
                    self._busy_until = None

        return await asyncio.get_running_loop().run_in_executor(self._worker, run)

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
            self._ticker = asyncio.ensure_future(self._tick())

    async def _tick(self) -> None:
        await asyncio.sleep(TICK_S)
        while self._residency.residents:
            await self._residency.expire()
            await asyncio.sleep(TICK_S)


class _LoadFailed(Exception):
    """A model that could not be loaded: asking request by request would load it as often."""

    def __init__(self, error: RunnerFailed) -> None:
        super().__init__(str(error))
        self.error = error


def _checked(item: Item, answer: ItemForecast | ItemFailure, task: Task) -> ItemForecast | ItemFailure:
    """``answer`` if it is what the seam promises, else a failure: a malformed forecast never leaves a replica."""
    if isinstance(answer, ItemFailure):
        return answer
    shapes = (answer.mean.shape, answer.quantiles.shape)
    if shapes != ((task.horizon,), (len(task.quantiles), task.horizon)):
        return ItemFailure(ErrorRecord("The model gave a forecast of the wrong shape.", RunnerFailed.code))
    if not (np.isfinite(answer.mean).all() and np.isfinite(answer.quantiles).all()):
        return ItemFailure(ErrorRecord("The model gave a forecast that is not finite.", RunnerFailed.code))
    return answer


def _peak_memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _memory_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
