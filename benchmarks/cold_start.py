"""How long the first forecast of a family takes that has no process: ten times from zero.

The request asks for ``keep_alive: 0`` and the server has no linger, so the process goes when the answer is out.
"""

from __future__ import annotations

import asyncio
import statistics

from benchmarks import bodies, report, server, wire

TIMES = 10
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
                server.wait_until_gone(tollama, family)
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


if __name__ == "__main__":
    raise SystemExit(main())
