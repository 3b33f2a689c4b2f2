"""Models of the published sizes through the whole server: what the first forecast waits for, the steady ones, memory.

The weights are random, so the numbers forecast mean nothing; shapes, files, time and memory are the real ones. A
series has 512 daily values, the horizon is 24. Then two families compute together, against each in its turn.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import bodies, report, server, wire
from benchmarks.checkpoints import Checkpoint
from tests.hub import LoopbackHub
from tollama.registry import find

CONTEXT = 512
SEVERAL = 32
"""Series of the larger request."""
STEADY_S, LEAST = 4.0, 5
"""Steady requests are sent for so long, and at least so many."""
LINGER_S = 4.0
"""Of an empty process: it outlives the moment between unloading a model and loading it again."""
DROPPED_S = 30.0
CHECKPOINTS = (
    Checkpoint("chronos-2", "checkpoints_chronos:chronos-2", 119_477_664),
    Checkpoint("granite-ttm-r2-512-96", "checkpoints_granite:ttm-r2", 805_280),
    Checkpoint("timesfm-2.5-200m", "checkpoints_timesfm:timesfm-2.5", 231_289_280),
    Checkpoint("chronos-bolt-small", "checkpoints:bolt-small", 47_718_016),
    Checkpoint("moirai-2.0-r-small", "checkpoints_uni2ts:moirai-2-small", 11_387_208),
)
PAIR = ("chronos-bolt-small", "moirai-2.0-r-small")
"""Of two families, and measured last: they stay loaded."""
CLIENTS, SERIES = 4, 8
"""Clients of each of the pair, and series of each of their requests."""
TURN_S, ROUNDS = 6.0, 5
COLUMNS = ("model", "parameters", "process", "imports", "weights", "first call", "1 series", "32 series", "peak memory")


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: seconds, seen from the client and as the server splits them, and the replica's peak memory in MB."""

    took: float
    queue: float
    load: float
    inference: float
    peak: float


def main() -> int:
    """Run; the exit status."""
    parser = report.arguments("real_size", "Models of the published sizes through the server.", url=False)
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep the checkpoints here (1.7 GB), use them again")
    names = [one.model for one in CHECKPOINTS]
    parser.add_argument("--only", nargs="+", metavar="MODEL", choices=names, default=names, help="these models only")
    options = parser.parse_args()
    out = report.Report("real_size", options, COLUMNS)
    asked = [one for one in CHECKPOINTS if one.model in options.only]
    with tempfile.TemporaryDirectory(prefix="tollama-bench-") as folder:
        folders = {one: one.folder(options.cache or Path(folder, "checkpoints")) for one in asked}
        with (
            LoopbackHub(Path(folder)) as hub,
            server.tollama(TOLLAMA_HF_ENDPOINT=hub.url, TOLLAMA_FAMILY_LINGER=str(LINGER_S)) as tollama,
        ):
            for one, files in folders.items():
                pull(tollama, hub, one.model, files)
                out.line(one.model, f"{one.parameters:,}", *_measure(tollama, one.model))
            out.say(
                "process: until the family's process takes the call; imports: what the first load of a process takes "
                "longer than the second; weights: that second one, the file in the page cache, a call to warm up "
                "included; first call: the computing of the first request; 1 and 32 series: the median of a whole "
                "request, and what of it is computing."
            )
            if set(PAIR) <= set(options.only):
                _together(out, tollama)
    return out.end()


def pull(tollama: server.Server, hub: LoopbackHub, model: str, files: Path) -> None:
    """Put a checkpoint on the hub under its model's name, and have the server pull it."""
    source = find(model).source
    assert source.repo_id is not None
    hub.add(source.repo_id, {path.name: path for path in files.iterdir()}, branch=str(source.revision))
    body = json.dumps({"name": model, "accept_license": True}).encode()
    asyncio.run(_ask(tollama.door, wire.post("/v1/models/pull", body)))


def _measure(tollama: server.Server, model: str) -> list[str]:
    """The cells of one model. Its family has no process before, and none after unless it is one of the pair."""
    assert tollama.home is not None
    family = find(model).family
    server.wait_until_gone(tollama, family)
    first = _forecast(tollama, model)
    process = server.processes(tollama.home, f"ServeReplica:tollama:{family}")
    steady = {series: _steady(tollama, model, series) for series in (1, SEVERAL)}
    peak = _forecast(tollama, model, keep_alive=0).peak
    _wait_until_dropped(tollama, model)
    again = _forecast(tollama, model, keep_alive="1h" if model in PAIR else 0)
    if server.processes(tollama.home, f"ServeReplica:tollama:{family}") != process:
        raise RuntimeError(f"the process of {family} ended before {model} was loaded again")
    return [
        f"{first.queue:.2f} s",
        f"{first.load - again.load:.2f} s",
        f"{again.load:.2f} s",
        f"{first.inference * 1e3:,.1f} ms",
        *(f"{took * 1e3:,.1f} ms, {inference * 1e3:,.1f} ms" for took, inference in steady.values()),
        f"{peak:.0f} MB",
    ]


def _steady(tollama: server.Server, model: str, series: int) -> tuple[float, float]:
    """Median seconds of a request, and of the computing in it."""
    answers: list[Answer] = []
    end = time.perf_counter() + STEADY_S
    while len(answers) < LEAST or time.perf_counter() < end:
        answers.append(_forecast(tollama, model, series))
    return statistics.median(one.took for one in answers), statistics.median(one.inference for one in answers)


def _forecast(tollama: server.Server, model: str, series: int = 1, keep_alive: Any = "1h") -> Answer:
    request = wire.post("/v1/forecast", bodies.forecast(model, series, CONTEXT, keep_alive=keep_alive))
    took, body = asyncio.run(_ask(tollama.door, request))
    timing = body["timing"]
    parts = (timing[name] / 1e3 for name in ("queue_ms", "model_load_ms", "inference_ms"))
    return Answer(took, *parts, body["usage"]["peak_memory_mb"])


async def _ask(base: str, request: bytes) -> tuple[float, Any]:
    """Seconds, and the answer. Raises RuntimeError on any status but 200."""
    connection = await wire.connect(base)
    try:
        start = time.perf_counter()
        status, body = await connection.ask(request)
        took = time.perf_counter() - start
    finally:
        connection.close()
    if status != 200:
        raise RuntimeError(f"status {status}: {body[:300].decode(errors='replace')}")
    return took, json.loads(body)


def _wait_until_dropped(tollama: server.Server, model: str) -> None:
    end = time.monotonic() + DROPPED_S
    while model in {held["name"] for held in asyncio.run(_ask(tollama.door, wire.get("/api/ps")))[1]["models"]}:
        if time.monotonic() > end:
            raise RuntimeError(f"{model} is still loaded after {DROPPED_S:g} s")
        time.sleep(0.05)


def _together(out: report.Report, tollama: server.Server) -> None:
    """Each of the pair alone for a turn, then both for two turns; the median of the rounds."""
    requests = [wire.post("/v1/forecast", bodies.forecast(name, SERIES, CONTEXT, keep_alive="1h")) for name in PAIR]

    async def rates(seconds: float, *asked: bytes) -> list[float]:
        """Series per second of each."""
        done = await asyncio.gather(*(wire.hammer(tollama.door, one, CLIENTS, seconds) for one in asked))
        return [rate * SERIES for rate, _ in done]

    asyncio.run(rates(1.0, *requests))
    rounds = []
    for _ in range(ROUNDS):
        alone = [asyncio.run(rates(TURN_S, one))[0] for one in requests]
        rounds.append((alone, asyncio.run(rates(2 * TURN_S, *requests))))
    out.table()
    for at, name in enumerate(PAIR):
        what = f"{name}, {CLIENTS} clients of {SERIES} series each"
        out.row(f"{what}: alone", _median(alone[at] for alone, _ in rounds), "series/s")
        out.row(f"{what}: both at once", _median(both[at] for _, both in rounds), "series/s")
    out.row(
        "time that each would need alone for what it did / time that both took",
        _median(sum(b / a for a, b in zip(alone, both, strict=True)) for alone, both in rounds),
        "",
        least=0.9,
    )


def _median(values: Any) -> float:
    return float(statistics.median(values))


if __name__ == "__main__":
    raise SystemExit(main())
