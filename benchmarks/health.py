"""How fast ``/v1/health`` answers while the server is busy. The load comes from another process than the questions."""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from benchmarks import bodies, report, server, wire

CROWD = 60
PAUSE_S = 0.01
"""Between two questions."""
PANEL = 10_000

LOADS: dict[str, tuple[int, dict[str, Any]]] = {
    "60 waiting (mock, 0.1 s each)": (CROWD, {"options": {"delay_s": 0.1}}),
    "60 of seasonal-naive, 50 series each": (CROWD, {"model": "seasonal-naive", "series": 50}),
    "60 of auto-ets": (CROWD, {"model": "auto-ets"}),
    "a panel of 10,000 series": (1, {"series": PANEL}),
}


def main() -> int:
    """Run; the exit status."""
    options = report.arguments("health", "Latency of /v1/health under load.").parse_args()
    out = report.Report("health", options)
    # Spawned: a fork of a process with an event loop is asking for trouble.
    with (
        server.tollama(options.url) as tollama,
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
    ):
        for model in ("mock", "seasonal-naive", "auto-ets"):
            asyncio.run(_once(tollama.door, wire.post("/v1/forecast", bodies.forecast(model))))
        _row(out, "nothing", asyncio.run(_idle(tollama.door)))
        for name, (count, changes) in LOADS.items():
            size = pool.submit(_size, count, **changes).result()
            took, times = asyncio.run(_busy(tollama.door, pool, count, changes))
            _row(out, name, times)
            out.row(f"… the load itself, {size / 1e6:.2g} MB", took, "s")
    return out.end()


def _row(out: report.Report, load: str, times: list[float]) -> None:
    out.row(f"in flight: {load}: p50 of {len(times)}", report.quantile(times, 0.5), "ms")
    out.row(f"in flight: {load}: p99", report.quantile(times, 0.99), "ms", most=50)
    out.row(f"in flight: {load}: max", max(times), "ms")


async def _once(base: str, request: bytes) -> None:
    connection = await wire.connect(base)
    await wire.timed(connection, request)
    connection.close()


async def _idle(base: str) -> list[float]:
    return await _ask(base, asyncio.ensure_future(asyncio.sleep(3)))


async def _busy(base: str, pool: ProcessPoolExecutor, count: int, changes: dict[str, Any]) -> tuple[float, list[float]]:
    """Seconds that the load took, and the milliseconds of the answers meanwhile."""
    load = asyncio.get_running_loop().run_in_executor(pool, functools.partial(_load, base, count, **changes))
    times = await _ask(base, load)
    return await load, times


async def _ask(base: str, until: asyncio.Future[Any]) -> list[float]:
    connection = await wire.connect(base)
    request = wire.get("/v1/health")
    times = []
    while not until.done():
        times.append(await wire.timed(connection, request))
        await asyncio.sleep(PAUSE_S)
    connection.close()
    return times


# In the other process:

_made: dict[str, bytes] = {}


def _request(changes: dict[str, Any]) -> bytes:
    key = repr(changes)
    if key not in _made:
        _made[key] = wire.post("/v1/forecast", bodies.forecast(**changes))
    return _made[key]


def _size(count: int, **changes: Any) -> int:
    """Bytes of the load, whose body is kept for :func:`_load`."""
    return count * len(_request(changes))


def _load(base: str, count: int, **changes: Any) -> float:
    requests = [_request(changes)] * count
    if options := changes.get("options"):  # no two alike, or they would travel together and be done at once
        requests = [_request({**changes, "options": {**options, "seed": number}}) for number in range(count)]
    return asyncio.run(wire.at_once(base, requests))


if __name__ == "__main__":
    raise SystemExit(main())
