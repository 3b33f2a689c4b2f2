"""What clients and diagnostics feel of each fault, while eight clients ask all the time.

The questions come from this process, the load and the crowds from two others. All ask ``mock``, which can be slow and
can fail on demand; processes are killed, stopped and left to hang.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks import bodies, report, server, wire
from deployments.ingress import successor

CLIENTS = 8
KILLS = 3
SECONDS = 5.0
"""Of load after each fault began, or two more than it takes."""
FLOOD, FLOOD_S = 1000, 2.0
"""Requests, and the seconds in which they come; a family's queue holds 512, and each takes half a second."""
PROBES = {"/v1/health": (0.01, 0.99, 50.0), "/api/ps": (0.1, 1.0, 200.0), "/metrics": (0.1, 1.0, 200.0)}
"""Path -> seconds between two questions, the quantile that is looked at, and its limit in milliseconds."""

GONE_S = 60.0
"""How long the end of a process that hangs is waited for."""

Fault = Callable[[server.Server, ProcessPoolExecutor], Awaitable[str]]
One = Callable[[str, int], Coroutine[Any, Any, str]]


def main() -> int:
    """Run; the exit status."""
    options = report.arguments("faults", "Faults as clients and diagnostics feel them.", url=False).parse_args()
    out = report.Report("faults", options)
    pool = ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))
    with server.tollama(TOLLAMA_FAMILY_LINGER="60") as tollama, pool:
        asyncio.run(_answered(tollama.door))
        time.sleep(2 * successor.AFTER_S)  # by then the next ingress's process is there, whose start is no fault
        for name, fault in FAULTS.items():
            asyncio.run(_met(out, tollama, pool, name, fault))
    return out.end()


async def _met(out: report.Report, tollama: server.Server, pool: ProcessPoolExecutor, name: str, fault: Fault) -> None:
    assert tollama.home is not None
    sign = tollama.home / "load"
    sign.touch()
    load = asyncio.get_running_loop().run_in_executor(pool, _load, tollama.door, sign)
    over = asyncio.Event()
    probes = {path: asyncio.ensure_future(_probe(tollama.door, path, how[0], over)) for path, how in PROBES.items()}
    await asyncio.sleep(1)
    begun = time.monotonic()
    told = await fault(tollama, pool)
    await asyncio.sleep(max(2.0, SECONDS - (time.monotonic() - begun)))
    sign.unlink()
    answers, gap = await load
    over.set()
    for path, (_, level, limit) in PROBES.items():
        times = await probes[path]
        which = "longest" if level == 1 else f"p{level * 100:g}"
        # Nobody is there to answer while the only ingress is replaced; and the first look at what a process holds that
        # was never late before waits for it a second (deployments/ingress/holdings.py).
        known = fault is _ingress_killed or (fault is _stopped and path == "/api/ps")
        target = None if known else limit
        out.row(f"{name}: {path}, {which} of {len(times)}", report.quantile(times, level), "ms", most=target)
    out.row(f"{name}: longest time without an answer", gap, "s")
    out.line(f"{name}: answers", _told(answers), "", "")
    if told:
        out.line(f"{name}: {told.partition(': ')[0]}", told.partition(": ")[2], "", "")


async def _probe(base: str, path: str, pause: float, over: asyncio.Event) -> list[float]:
    """Milliseconds of each answer. One that is lost with an ingress is asked for again."""
    times: list[float] = []
    connection: wire.Connection | None = None
    while not over.is_set():
        try:
            connection = connection or await wire.connect(base)
            times.append(await wire.timed(connection, wire.get(path)))
        except OSError:
            connection = None
        await asyncio.sleep(pause)
    if connection is not None:
        connection.close()
    return times


def _pids(tollama: server.Server, role: str) -> list[int]:
    assert tollama.home is not None
    return [int(entry.name) for entry in server.processes(tollama.home, role)]


async def _answered(base: str) -> float:
    """Seconds until a forecast is answered, on a connection of its own."""
    begun = time.monotonic()
    while time.monotonic() - begun < 60:
        with suppress(OSError, RuntimeError):
            connection = await wire.connect(base)
            await wire.timed(connection, wire.post("/v1/forecast", bodies.forecast(keep_alive=60)))
            connection.close()
            return time.monotonic() - begun
        await asyncio.sleep(0.02)
    raise RuntimeError("the server does not answer any more")


async def _killed(tollama: server.Server, role: str, pause: float) -> str:
    took = []
    for _ in range(KILLS):
        os.kill(_pids(tollama, role)[0], signal.SIGKILL)
        took.append(await _answered(tollama.door))
        await asyncio.sleep(pause)
    return "answers again after: " + ", ".join(f"{one:.2f} s" for one in took)


async def _nothing(tollama: server.Server, pool: ProcessPoolExecutor) -> str:
    return ""


async def _family_killed(tollama: server.Server, pool: ProcessPoolExecutor) -> str:
    return await _killed(tollama, "ServeReplica:tollama:mock", 2.0)


async def _ingress_killed(tollama: server.Server, pool: ProcessPoolExecutor) -> str:
    # The next one's successor is there by then.
    return await _killed(tollama, "ServeReplica:tollama:ingress", 2 * successor.AFTER_S)


async def _controller_killed(tollama: server.Server, pool: ProcessPoolExecutor) -> str:
    os.kill(_pids(tollama, "ServeController")[0], signal.SIGKILL)
    return ""


async def _hangs(tollama: server.Server, pool: ProcessPoolExecutor) -> str:
    (before,) = _pids(tollama, "ServeReplica:tollama:mock")
    begun = time.monotonic()
    connection = await wire.connect(tollama.door)
    body = bodies.forecast(options={"delay_s": 60}, timeout=2)
    status, _ = await connection.ask(wire.post("/v1/forecast", body))
    answered = time.monotonic() - begun
    connection.close()
    while before in _pids(tollama, "ServeReplica:tollama:mock"):
        if time.monotonic() - begun > GONE_S:
            return f"timeout 2 s: {status} after {answered:.2f} s, its process lives on"
        await asyncio.sleep(0.05)
    return f"timeout 2 s: {status} after {answered:.2f} s, its process ended after {time.monotonic() - begun:.1f} s"


async def _stopped(tollama: server.Server, pool: ProcessPoolExecutor) -> str:
    (pid,) = _pids(tollama, "ServeReplica:tollama:mock")
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(3)
    os.kill(pid, signal.SIGCONT)
    return ""


async def _crowd(tollama: server.Server, pool: ProcessPoolExecutor, one: One, many: int) -> str:
    found = await asyncio.get_running_loop().run_in_executor(pool, _gathered, one, tollama.door, many)
    return f"{many} clients: {_told(found)}"


def _told(found: Counter[str]) -> str:
    return ", ".join(f"{count} of {what}" for what, count in sorted(found.items()))


async def _flooded(tollama: server.Server, pool: ProcessPoolExecutor) -> str:
    return await _crowd(tollama, pool, _asks, FLOOD)


async def _left(tollama: server.Server, pool: ProcessPoolExecutor) -> str:
    return await _crowd(tollama, pool, _leaves, 40)


async def _not_finite(tollama: server.Server, pool: ProcessPoolExecutor) -> str:
    return await _crowd(tollama, pool, _gets_none, 60)


FAULTS: dict[str, Fault] = {
    "nothing": _nothing,
    "answers that are not finite": _not_finite,
    "a full queue": _flooded,
    "clients who leave": _left,
    "a family's process killed": _family_killed,
    "a call that hangs": _hangs,
    "a family's process stopped for 3 s": _stopped,
    "the only ingress killed": _ingress_killed,
    "Serve's controller killed": _controller_killed,
}


# In the other processes:


def _gathered(one: One, base: str, many: int) -> Counter[str]:
    """What so many clients at once were answered."""

    async def all_of_them() -> Counter[str]:
        return Counter(await asyncio.gather(*(one(base, number) for number in range(many))))

    return asyncio.run(all_of_them())


async def _asks(base: str, number: int) -> str:
    await asyncio.sleep(FLOOD_S * number / FLOOD)
    return await _status(base, bodies.forecast(length=30, options={"delay_s": 0.5, "seed": number % 8}))


async def _gets_none(base: str, number: int) -> str:
    return await _status(base, bodies.forecast(length=30, options={"fail": "non_finite", "seed": number}))


async def _leaves(base: str, number: int) -> str:
    with suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            return await _status(base, bodies.forecast(length=30, options={"delay_s": 0.5, "seed": number}))
    return "left"


async def _status(base: str, body: bytes) -> str:
    connection = await wire.connect(base)
    try:
        return str((await connection.ask(wire.post("/v1/forecast", body)))[0])
    finally:
        connection.close()


def _load(base: str, sign: Path) -> tuple[Counter[str], float]:
    """What eight clients were answered while ``sign`` was there, and the longest time in which none was."""
    return asyncio.run(_clients(base, sign))


async def _clients(base: str, sign: Path) -> tuple[Counter[str], float]:
    answers: Counter[str] = Counter()
    request = wire.post("/v1/forecast", bodies.forecast(length=30, options={"delay_s": 0.02}, keep_alive=60))
    last, gap = time.monotonic(), 0.0

    async def client() -> None:
        nonlocal last, gap
        connection: wire.Connection | None = None
        while sign.exists():
            try:
                connection = connection or await wire.connect(base)
                status, _ = await connection.ask(request)
            except OSError as error:
                connection, status = None, 0
                answers["refused" if isinstance(error, ConnectionRefusedError) else "lost"] += 1
                await asyncio.sleep(0.02)
            if status:
                answers[str(status)] += 1
            if status == 200:
                gap, last = max(gap, time.monotonic() - last), time.monotonic()
        if connection is not None:
            connection.close()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return answers, gap


if __name__ == "__main__":
    raise SystemExit(main())
