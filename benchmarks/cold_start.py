"""How long the first forecast of a family takes that has no process: ten times from zero.

The request asks for ``keep_alive: 0`` and the server has no linger, so the process goes when the answer is out.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time

from benchmarks import bodies, report, server, wire

TIMES = 10
GONE_S = 60.0
FAMILIES = {"mock": ("mock", 2.5), "seasonal-naive": ("baseline", None)}
"""Model: its family, and the target for the median in seconds."""


def main() -> int:
    """Run; the exit status."""
    options = report.arguments("cold_start", "First forecast from zero processes.", url=False).parse_args()
    out = report.Report("cold_start", options)
    with server.tollama(TOLLAMA_FAMILY_LINGER="0") as tollama:
        for model, (family, target) in FAMILIES.items():
            request = wire.post("/v1/forecast", bodies.forecast(model, keep_alive=0))
            times = []
            for _ in range(TIMES):
                _wait_until_gone(tollama, family)
                times.append(asyncio.run(_once(tollama.door, request)) / 1e3)
            out.row(f"{model}: median of {TIMES}", statistics.median(times), "s", most=target)
            out.row(f"{model}: max", max(times), "s")
            out.row(f"{model}: the first of all", times[0], "s")
    return out.end()


async def _once(base: str, request: bytes) -> float:
    connection = await wire.connect(base)
    try:
        return await wire.timed(connection, request)
    finally:
        connection.close()


async def _families(base: str) -> dict[str, str]:
    connection = await wire.connect(base)
    try:
        _, body = await connection.ask(wire.get("/health/ready"))
    finally:
        connection.close()
    found: dict[str, str] = json.loads(body)["checks"]["families"]
    return found


def _wait_until_gone(tollama: server.Server, family: str) -> None:
    assert tollama.home is not None
    end = time.monotonic() + GONE_S
    while True:
        held = server.processes(tollama.home, f"ServeReplica:tollama:{family}")
        if not held and asyncio.run(_families(tollama.door))[family] == "idle":
            return
        if time.monotonic() > end:
            raise RuntimeError(f"the process of {family} is still there after {GONE_S:g} s")
        time.sleep(0.05)


if __name__ == "__main__":
    raise SystemExit(main())
