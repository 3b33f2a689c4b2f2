"""The product's own metrics, and ``/metrics``, where Prometheus reads them.

Several ingress replicas share one address, and a scrape reaches one of them. So the values live in files, one set per
process, that the library keeps (its multiprocess mode); a page is the sum of all of them, those of processes that are
gone included (:mod:`deployments.ingress.tallies`), and a restarted ingress goes on counting where the last one was
killed. What replicas hold is asked of
them for each page instead (:mod:`deployments.ingress.holdings`). Ray's own metrics are on Ray's own page.

The library would take its mode from the environment when it is imported. An environment of its own costs the ingress
0.4 s at each start, since Ray has to prepare it, so the mode is set in the process (:func:`_count_in`).
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter as Tally
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse, Response
from filelock import FileLock
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from deployments.ingress.holdings import Reports
from deployments.ingress.tallies import ALIVE, lives, merged
from deployments.messages import Call, Result

if TYPE_CHECKING:
    from deployments.ingress.desk import Desk

FOLDER = "metrics"
"""The values' folder in the run folder."""
LOOK_S = 1.0
"""How old the gauges of another ingress replica may be on a page."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
SERIES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric as the page and the docs describe it. ``buckets`` are the upper bounds of a histogram's."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    text: str
    buckets: tuple[float, ...] = ()


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "tollama_requests_total",
            "counter",
            ("route", "model", "status"),
            "HTTP requests answered, by the route's template (empty: no such route), known model and status.",
        ),
        Metric(
            "tollama_request_seconds",
            "histogram",
            ("route",),
            "Time from a request's arrival to the last byte of its answer.",
            SECONDS,
        ),
        Metric(
            "tollama_queue_depth",
            "gauge",
            ("family",),
            "Requests to the family that are not answered yet, those in flight included; max_queue is its limit.",
        ),
        Metric(
            "tollama_in_flight",
            "gauge",
            ("family",),
            "Requests that were handed to the family: on the way to its process, or in it.",
        ),
        Metric("tollama_batch_size", "histogram", ("family",), "Series of one call of a model.", SERIES),
        Metric(
            "tollama_cold_starts_total",
            "counter",
            ("family",),
            "Requests answered by a process that was started after they had come.",
        ),
        Metric("tollama_load_seconds", "histogram", ("model",), "Time to load a model into memory.", SECONDS),
        Metric(
            "tollama_inference_seconds",
            "histogram",
            ("model",),
            "Time that a model computed for requests that travelled together.",
            SECONDS,
        ),
        Metric("tollama_loaded_models", "gauge", ("family",), "Models that the family's processes hold in memory."),
        Metric(
            "tollama_memory_bytes",
            "gauge",
            ("family", "replica"),
            "What a process's models take where they are held: main memory, or the GPU's.",
        ),
        Metric("tollama_vram_bytes", "gauge", ("family", "replica"), "What a process's models take of a GPU's memory."),
        Metric(
            "tollama_restarts_total",
            "counter",
            ("family", "reason"),
            "Processes of the family that ended without leaving properly: crash, hang, cuda, health, oom.",
        ),
        Metric("tollama_pulls_total", "counter", ("outcome",), "Pulls: success, aborted, or the code of their error."),
        Metric("tollama_pull_bytes_total", "counter", (), "Bytes of models downloaded by pulls."),
    )
}


def prepare(folder: Path) -> Path:
    """The folder, made; emptied unless an ingress lives that counts in it. For who starts a graph."""
    folder.mkdir(parents=True, exist_ok=True)
    if not any(lives(path) for path in folder.glob(f"*{ALIVE}")):
        for path in folder.iterdir():
            path.unlink(missing_ok=True)
    return folder


class Metrics:
    """One ingress replica's part of the values in ``folder``."""

    def __init__(self, folder: Path, families: Iterable[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        _count_in(folder)
        self._folder = folder
        # Before the first value, so that nobody takes this process for a dead one.
        self._alive = FileLock(folder / f"{os.getpid()}{ALIVE}", thread_local=False)
        self._alive.acquire()
        self.requests = _counter("tollama_requests_total")
        self.request_seconds = _histogram("tollama_request_seconds")
        self.batch_size = _histogram("tollama_batch_size")
        self.cold_starts = _counter("tollama_cold_starts_total")
        self.load_seconds = _histogram("tollama_load_seconds")
        self.inference_seconds = _histogram("tollama_inference_seconds")
        self._queue_depth = _gauge("tollama_queue_depth")
        self._in_flight = _gauge("tollama_in_flight")
        self._restarts = _counter("tollama_restarts_total")
        self._pulls = _counter("tollama_pulls_total")
        self._pull_bytes = _counter("tollama_pull_bytes_total")
        # From the start, so that a rate is one from the first event on.
        self._pulls.labels("success")
        self._told: Tally[tuple[str, str]] = Tally()
        self._families = {name: FamilyMetrics(self, name) for name in families}
        for name in self._families:
            self._queue_depth.labels(name).set(0)  # the values of a dead process of the same id are not ours
            self._in_flight.labels(name).set(0)
            self._restarts.labels(name, "crash")

    def family(self, name: str) -> FamilyMetrics:
        """Where the client of a family tells what happened."""
        return self._families[name]

    def refresh(self, desk: Desk) -> None:
        """Bring up to date what is counted elsewhere."""
        for name, client in desk.families.items():
            self._queue_depth.labels(name).set(client.waiting)
            self._in_flight.labels(name).set(client.in_flight)
        found = Tally(desk.supervision.restarts)
        for (family, reason), more in (found - self._told).items():
            self._restarts.labels(family, reason).inc(more)
        self._told = found

    async def watch(self, desk: Desk) -> None:
        """Do so for ever: the page of another ingress replica shows what this one last wrote down."""
        while True:
            self.refresh(desk)
            await asyncio.sleep(LOOK_S)

    async def pulling(self, statuses: AsyncGenerator[dict[str, Any]]) -> AsyncGenerator[dict[str, Any]]:
        """The lines of a pull as they come, counted on the way."""
        completed: dict[str, int] = {}
        outcome = None
        try:
            async with aclosing(statuses):
                async for status in statuses:
                    if "digest" in status:
                        # A file's first line tells what an earlier pull had left.
                        done = int(status.get("completed") or 0)
                        self._pull_bytes.inc(max(0, done - completed.get(status["digest"], done)))
                        completed[status["digest"]] = done
                    if outcome is None and (status.get("code") or status.get("status") == "success"):
                        outcome = str(status.get("code") or "success")
                        self._pulls.labels(outcome).inc()
                    yield status
        finally:
            if outcome is None:
                self._pulls.labels("aborted").inc()

    def restarts(self) -> dict[str, dict[str, int]]:
        """Family -> reason -> deaths that any ingress replica has counted."""
        found: dict[str, dict[str, int]] = {}
        for family in merged(self._folder, "counter_*.db"):
            for sample in family.samples:
                if sample.name == "tollama_restarts_total" and sample.value:
                    found.setdefault(sample.labels["family"], {})[sample.labels["reason"]] = int(sample.value)
        return found

    def page(self, held: Mapping[str, Reports]) -> bytes:
        """Prometheus's text: every process's values added up, and what replicas hold. Reads a few small files."""
        registry = CollectorRegistry()
        registry.register(_Page(self._folder, held))
        return generate_latest(registry)


class FamilyMetrics:
    """What the client of one family tells; called for each request, so what it writes to is looked up beforehand."""

    def __init__(self, metrics: Metrics, family: str) -> None:
        self._cold = metrics.cold_starts.labels(family)
        self._batch = metrics.batch_size.labels(family)
        self._inference_seconds = metrics.inference_seconds
        self._load_seconds = metrics.load_seconds
        self._models: dict[str, Histogram] = {}

    def answered(self, call: Call, result: Result) -> None:
        """The family answered requests that travelled together as ``call``."""
        if call.n_items:
            inference = self._models.get(call.model)
            if inference is None:
                inference = self._models[call.model] = self._inference_seconds.labels(call.model)
            inference.observe(result.inference_ms / 1e3)
            self._batch.observe(result.batch_series)
        # Calls of another ingress replica, too, may have waited for the load: the family marks one of all.
        if result.load_first:
            self._load_seconds.labels(call.model).observe(result.load_ms / 1e3)

    def cold_start(self) -> None:
        """A request met no process that was there already."""
        self._cold.inc()


class _Page(Collector):
    def __init__(self, folder: Path, held: Mapping[str, Reports]) -> None:
        self._folder = folder
        self._held = held

    def collect(self) -> Iterator[Family]:
        yield from merged(self._folder)
        names = ("tollama_loaded_models", "tollama_memory_bytes", "tollama_vram_bytes")
        models, memory, vram = (
            GaugeMetricFamily(name, METRICS[name].text, labels=METRICS[name].labels) for name in names
        )
        for family, reports in self._held.items():
            models.add_metric((family,), sum(held["state"] == "loaded" for one in reports for held in one["models"]))
            for one in reports:
                labels = (family, str(one["replica"]))
                memory.add_metric(labels, sum(held["memory_mb"] for held in one["models"]) * 1e6)
                vram.add_metric(labels, sum(held["vram_mb"] for held in one["models"]) * 1e6)
        yield from (models, memory, vram)


def _count_in(folder: Path) -> None:
    """Have the library keep the values made from here on in files of ``folder``."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    # As its manual does it for uWSGI.
    values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]


def _counter(name: str) -> Counter:
    return Counter(name, METRICS[name].text, METRICS[name].labels, registry=None)


def _gauge(name: str) -> Gauge:
    return Gauge(name, METRICS[name].text, METRICS[name].labels, registry=None, multiprocess_mode="livesum")


def _histogram(name: str) -> Histogram:
    metric = METRICS[name]
    return Histogram(name, metric.text, metric.labels, registry=None, buckets=metric.buckets)


def routes(desk: Desk) -> APIRouter:
    """``/metrics``."""
    router = APIRouter(tags=["health"])

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Prometheus's text of every metric; docs/metrics.md lists them."""
        held = await desk.holdings.now()
        desk.metrics.refresh(desk)
        page = await asyncio.to_thread(desk.metrics.page, held)
        return Response(page, media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return router
