"""How fast a small forecast is: ``mock``, one daily series of 200 points with timestamps, horizon 24.

Through the API's own address and through Serve's proxy, beside a bare FastAPI echo of the same body in the same run.
The rounds take turns, so that what else the machine does falls on all of them; each figure is that of the best round,
and processor time per request is told besides, which other people's work changes least.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks import bodies, report, server, wire

CLIENTS = 8
ROUNDS = 6
SECONDS = 2.0
SINGLES = 150
"""Requests of one client per round."""
OURS, PROXY, JSON, RAW = "tollama", "tollama through Serve's proxy", "echo, JSON in, JSON out", "echo, raw bytes"


@dataclass(slots=True)
class Found:
    """The best round of one target: requests per second of all clients, and the milliseconds of each request."""

    rate: float = 0.0
    crowd: list[float] = field(default_factory=list)
    single: list[float] = field(default_factory=list)


def main() -> int:
    """Run; the exit status."""
    options = report.arguments("http", "Requests per second and latency of a small forecast.").parse_args()
    out = report.Report("http", options)
    body = bodies.forecast()
    with server.tollama(options.url) as tollama, echo() as other:
        targets = {
            OURS: (tollama.door, wire.post("/v1/forecast", body)),
            JSON: (other, wire.post("/json", body)),
            RAW: (other, wire.post("/raw", body)),
        }
        if tollama.proxy is not None:
            targets[PROXY] = (tollama.proxy, wire.post("/v1/forecast", body))
        found = asyncio.run(_measure(targets))
        spent = asyncio.run(_spent(tollama, *targets[OURS]))
    out.row("body", len(body) / 1e3, "kB")
    for name, one in found.items():
        ours = name == OURS
        out.row(f"{name}: {CLIENTS} clients", one.rate, "/s", least=480 if ours else None)
        out.row(f"{name}: {CLIENTS} clients, p99", report.quantile(one.crowd, 0.99), "ms")
        out.row(f"{name}: 1 client, p50", statistics.median(one.single), "ms", most=5 if ours else None)
        out.row(f"{name}: 1 client, p99", report.quantile(one.single, 0.99), "ms")
    out.row(f"{OURS} / {JSON}", found[OURS].rate / found[JSON].rate, "", least=0.2)
    out.row(f"{OURS} / {RAW}", found[OURS].rate / found[RAW].rate, "")
    for name, milliseconds in spent.items():
        out.row(f"processor time per request, {CLIENTS} clients: {name}", milliseconds, "ms")
    return out.end()


@contextlib.contextmanager
def echo() -> Iterator[str]:
    """The echo server of :mod:`benchmarks.echo`, for the time of the block: its base URL."""
    port = server.free_port()
    base = f"http://127.0.0.1:{port}"
    with server.running([sys.executable, "-m", "benchmarks.echo", str(port)], base, "/"):
        yield base


async def _measure(targets: dict[str, tuple[str, bytes]]) -> dict[str, Found]:
    for target in targets.values():
        await wire.hammer(*target, CLIENTS, 1.0)
    found = {name: Found() for name in targets}
    for _ in range(ROUNDS):
        for name, (base, request) in targets.items():
            best = found[name]
            rate, times = await wire.hammer(base, request, CLIENTS, SECONDS)
            if rate > best.rate:
                best.rate, best.crowd = rate, times
            connection = await wire.connect(base)
            single = [await wire.timed(connection, request) for _ in range(SINGLES)]
            connection.close()
            if not best.single or sum(single) < sum(best.single):
                best.single = single
    return found


async def _spent(tollama: server.Server, base: str, request: bytes) -> dict[str, float]:
    """Milliseconds of processor time per request, by process, while all clients ask; nothing of a foreign server."""
    if tollama.home is None:
        return {}
    titles = {"ingress": "ServeReplica:tollama:ingress", "family": "ServeReplica:tollama:mock"}
    watched = {name: server.processes(tollama.home, title) for name, title in titles.items()}

    def used() -> dict[str, float]:
        return {name: sum(map(server.processor_seconds, found)) for name, found in watched.items()}

    before = used()
    _, times = await wire.hammer(base, request, CLIENTS, 2 * SECONDS)
    return {name: (seconds - before[name]) / len(times) * 1e3 for name, seconds in used().items()}


if __name__ == "__main__":
    raise SystemExit(main())
