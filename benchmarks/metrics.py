"""What the metrics add to a small request, in this process: processor time of counting one, and of a page.

Processor time, which other people's work changes little: one thread does it all.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client.multiprocess import MultiProcessCollector

from benchmarks import report
from deployments.ingress.measured import Measured
from deployments.ingress.metrics import Metrics
from deployments.messages import Call, Result
from tollama.seam import Task

FAMILIES = ("mock", "baseline", "torch", "timesfm", "uni2ts")
REQUESTS = 2_000
REPEATS = 15
MODELS = 30
DEAD = 40


def main() -> int:
    """Run; the exit status."""
    options = report.arguments("metrics", "Time that metrics add to a request.", url=False).parse_args()
    out = report.Report("metrics", options)
    with tempfile.TemporaryDirectory() as folder:
        _measure(out, Path(folder))
    return out.end()


def _measure(out: report.Report, folder: Path) -> None:
    metrics = Metrics(folder, FAMILIES)
    with asyncio.Runner() as runner:
        plain = _median(lambda: runner.run(_requests(_app)))
        counted = _median(lambda: runner.run(_requests(Measured(_app, metrics, (), str))))
    family, call, result = metrics.family("mock"), _call("mock"), _result()

    def answered() -> None:
        for _ in range(REQUESTS):
            family.answered(call, result)

    added, answer = (counted - plain) / REQUESTS * 1e3, _median(answered) / REQUESTS * 1e3
    out.row("the layer around the application", added, "us")
    out.row("a family's answer", answer, "us")
    out.row("both: a small request", added + answer, "us", most=20)
    out.row("a page of 5 families", _median(lambda: metrics.page({}), 5), "ms")
    for number in range(MODELS):
        metrics.family("torch").answered(_call(f"model-{number}"), _result(load_ms=1.0 + number))
    out.row(f"a page of 5 families and {MODELS} models", _median(lambda: metrics.page({}), 5), "ms", most=100)
    for kind in ("counter", "histogram"):
        values = (folder / f"{kind}_{os.getpid()}.db").read_bytes()
        for number in range(DEAD):
            (folder / f"{kind}_{10**8 + number}.db").write_bytes(values)
    files = [str(path) for path in folder.glob("*.db")]
    apart = _median(lambda: MultiProcessCollector.merge(files), 3)  # type: ignore[no-untyped-call]
    out.row(f"the values of it and of {DEAD} killed ingresses, read file by file", apart, "ms")
    out.row("the first page after, which folds them", _median(lambda: metrics.page({}), 1), "ms")
    folded = _median(lambda: metrics.page({}), 5)
    out.row("a page from then on", folded, "ms", most=100)
    out.row("file by file / folded", apart / folded, "")


async def _app(scope: Any, receive: Any, send: Any) -> None:
    scope["endpoint"] = _app
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


async def _requests(app: Any) -> None:
    async def send(message: Any) -> None:
        pass

    for _ in range(REQUESTS):
        await app({"type": "http", "path": "/v1/forecast", "state": {"model": "mock"}}, None, send)


def _call(model: str) -> Call:
    return Call(model, "", b"", (b"",), 1, Task(1, (), {}), 0.0, 0.0, "")


def _result(load_ms: float = 0.0) -> Result:
    return Result((b"",), 0.0, load_ms, 12.0, 1, "cpu", 0.0, load_first=bool(load_ms))


def _median(work: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Median milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times) * 1e3


if __name__ == "__main__":
    raise SystemExit(main())
