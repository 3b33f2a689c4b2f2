"""How much of a model's own speed many small clients get, what a single one waits, and whether a panel starves it.

Chronos-Bolt small with random weights, series of 512 daily values, horizon 24. The measure is the adapter called in
process, 32 series at a time, while the graph idles and as many clients ask an echo at the pace that the graph reached.
They take turns, and each in-process figure is held against the mean of the graph's before and after it, so that what
slows the machine now and then slows both; the medians of the rounds are told.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import bodies, environments, report, server, wire
from benchmarks.http import echo
from benchmarks.real_size import CHECKPOINTS, CONTEXT, pull
from tests.hub import LoopbackHub
from tollama.families import families
from tollama.registry import find
from tollama.seam import ModelRef, Task

MODEL = "chronos-bolt-small"
CLIENTS = 32
ROUNDS, SECONDS, SETTLE = 12, 6.0, 1.0
ALONE_S = 4.0
"""Seconds of each in-process measurement."""
SINGLES = 30
PANEL = 10_000
"""Series of the panel that a single caller asks beside: 154 MB of JSON, two to three minutes on two cores."""
SETTINGS = {"TOLLAMA_MAX_BODY_MB": "200"}
READ_S = 10.0
"""Seconds until the panel has been read and is being computed."""
LEAST_SHARE, MOST_SINGLE, MOST_BATCHES = 0.9, 1.25, 3.0


def main() -> int:
    """Run; the exit status."""
    parser = report.arguments("batching", "Many small clients of one model against the model in process.", url=False)
    options = parser.parse_args()
    out = report.Report("batching", options)
    (checkpoint,) = (one for one in CHECKPOINTS if one.model == MODEL)
    one = wire.post("/v1/forecast", bodies.forecast(MODEL, 1, CONTEXT, keep_alive="1h"))
    panel = wire.post("/v1/forecast", bodies.forecast(MODEL, PANEL, CONTEXT, keep_alive="1h", timeout=900))
    with tempfile.TemporaryDirectory(prefix="tollama-bench-") as folder:
        files = checkpoint.folder(Path(folder, "checkpoints"))
        with (
            LoopbackHub(Path(folder)) as hub,
            server.tollama(TOLLAMA_HF_ENDPOINT=hub.url, **SETTINGS) as tollama,
            echo() as other,
        ):
            pull(tollama, hub, MODEL, files)
            asyncio.run(wire.hammer(tollama.door, one, 2, 3.0))
            rounds = list(_rounds(tollama.door, f"{other}/json", one, files))
            beside = asyncio.run(_beside(tollama.door, one, panel))
    rate, many, median, single = (statistics.median(values) for values in zip(*rounds, strict=True))
    out.row(f"{CLIENTS} clients of one series each", rate, "series/s")
    out.row(f"in process, {CLIENTS} series at a time, an echo asked at that pace", many, "series/s")
    shares = [clients / alone for clients, alone, _, _ in rounds]
    out.row("the clients' part of it, median of the rounds", statistics.median(shares), "", least=LEAST_SHARE)
    low, _, high = statistics.quantiles(shares, n=4)
    out.row("the same, lower quartile", low, "")
    out.row("the same, upper quartile", high, "")
    out.row("one client, one series: p50", median, "ms")
    out.row("in process, one series: p50", single, "ms")
    longer = [client / alone for _, _, client, alone in rounds]
    out.row("the client's wait / in process, median of the rounds", statistics.median(longer), "", most=MOST_SINGLE)
    batch = CLIENTS / many
    waited = report.quantile(beside, 0.95)
    out.row(f"one series beside a panel of {PANEL:,}: p95", waited, "ms")
    out.row(f"the same / a batch of {CLIENTS} in process", waited / 1e3 / batch, "", most=MOST_BATCHES)
    return out.end()


def _rounds(door: str, other: str, one: bytes, files: Path) -> Iterator[tuple[float, float, float, float]]:
    """Of each round: series per second of the clients and in process, and the median milliseconds of a client alone and
    in process."""

    def asked() -> tuple[float, float]:
        alone = asyncio.run(_singles(door, one, SINGLES))
        rate, _ = asyncio.run(wire.hammer(door, one, CLIENTS, SECONDS, SETTLE))
        return rate, statistics.median(alone)

    with environments.process(find(MODEL).family) as there:
        before = asked()
        for _ in range(ROUNDS):
            with _load(other, one, before[0]):
                many, _ = there.call(*_alone(files, CLIENTS))
            _, single = there.call(*_alone(files, 1))
            after = asked()
            yield (before[0] + after[0]) / 2, many, (before[1] + after[1]) / 2, single * 1e3
            before = after


def _alone(files: Path, series: int) -> tuple[str, dict[str, Any]]:
    """The call that measures the adapter in the family's environment: series per second, and the median seconds."""
    entry = find(MODEL)
    return "benchmarks.side_by_side:alone", {
        "target": families()[entry.family].adapters[entry.adapter],
        "ref": ModelRef(MODEL, entry.family, entry.adapter, str(files), "0" * 64, entry.capabilities),
        "task": Task(bodies.HORIZON, (0.1, 0.5, 0.9), {n: o.default for n, o in entry.capabilities.options.items()}),
        "steps": CONTEXT,
        "series": series,
        "threads": environments.THREADS,
        "seconds": ALONE_S,
    }


async def _singles(base: str, request: bytes, number: int) -> list[float]:
    """Milliseconds of so many requests, one after the other."""
    connection = await wire.connect(base)
    times = [await wire.timed(connection, request) for _ in range(number)]
    connection.close()
    return times


async def _beside(base: str, request: bytes, panel: bytes) -> list[float]:
    """Milliseconds of single requests, one after the other, while a panel is computed."""
    big, small = await wire.connect(base), await wire.connect(base)
    times: list[float] = []
    computing = asyncio.ensure_future(wire.timed(big, panel))
    await asyncio.sleep(READ_S)
    while not computing.done():
        times.append(await wire.timed(small, request))
    await computing
    big.close()
    small.close()
    return times


@contextlib.contextmanager
def _load(url: str, request: bytes, rate: float) -> Iterator[None]:
    """As many clients as the graph had, which ask the echo at ``rate`` requests per second in all."""
    base, _, path = url.rpartition("/")
    asked = request.replace(b"POST /v1/forecast ", f"POST /{path} ".encode(), 1)
    over = threading.Event()

    async def client() -> None:
        connection = await wire.connect(base)
        while not over.is_set():
            start = time.perf_counter()
            await wire.timed(connection, asked)
            await asyncio.sleep(max(0.0, CLIENTS / rate - (time.perf_counter() - start)))
        connection.close()

    async def clients() -> None:
        await asyncio.gather(*(client() for _ in range(CLIENTS)))

    thread = threading.Thread(target=lambda: asyncio.run(clients()))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


if __name__ == "__main__":
    raise SystemExit(main())
