"""What a benchmark prints, and writes to ``benchmarks/results`` with ``--save``."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tollama.version import __version__

RESULTS = Path(__file__).parent / "results"
COLUMNS = ("measured", "value", "target", "")


def arguments(name: str, about: str, *, url: bool = True) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument("--save", action="store_true", help=f"write benchmarks/results/{name}.md too")
    parser.add_argument("--quiet-first", type=float, default=0, metavar="S", help="wait up to S seconds for load < 1")
    if url:
        parser.add_argument("--url", help="use the server that runs at this address instead of starting one")
    return parser


def quantile(times: Sequence[float], level: float) -> float:
    """The value below which ``level`` of the times lie."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(level * len(ordered)))]


def pace() -> float:
    """Seconds that a fresh interpreter takes to import Ray Serve: what else of the machine to hold a figure against."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import ray.serve"], check=True)
    return time.perf_counter() - start


class Report:
    """The tables of one run. ``code`` is the exit status: 1 when a target was missed.

    ``columns`` are those of the first table; :meth:`row` fills the usual ones, :meth:`line` any.
    """

    def __init__(self, name: str, options: argparse.Namespace, columns: Sequence[str] = COLUMNS) -> None:
        self.name = name
        self.code = 0
        self._save = options.save
        end = time.monotonic() + options.quiet_first
        while os.getloadavg()[0] >= 1 and time.monotonic() < end:
            time.sleep(2)
        load = " ".join(f"{value:.2f}" for value in os.getloadavg())
        self._lines = [
            f"# {name}",
            "",
            f"`python {' '.join(['-m', f'benchmarks.{name}', *sys.argv[1:]])}`",
            "",
            f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, tollama {__version__}, Python {platform.python_version()}, "
            f"{os.cpu_count()} cores, load before the run {load}; importing Ray Serve takes {pace():.1f} s.",
        ]
        print("\n".join(self._lines), flush=True)
        self.table(columns)

    def table(self, columns: Sequence[str] = COLUMNS) -> None:
        """Begin a table."""
        self._add("")
        self.line(*columns)
        self._add("|---" * len(columns) + "|")

    def line(self, *cells: str) -> None:
        """One line of a table."""
        self._add(f"| {' | '.join(cells)} |")

    def say(self, sentence: str) -> None:
        """A paragraph after a table."""
        self._add(f"\n{sentence}")

    def verdict(self, met: bool) -> str:
        """What stands beside a target; one that is missed is the exit status."""
        self.code |= not met
        return "met" if met else "missed"

    def row(self, what: str, value: float, unit: str, *, most: float | None = None, least: float | None = None) -> None:
        """One figure, with its target if it has one."""
        target = verdict = ""
        if most is not None or least is not None:
            limit = most if most is not None else least
            assert limit is not None
            met = value <= limit if most is not None else value >= limit
            target = f"{'≤' if most is not None else '≥'} {limit:g} {unit}".strip()
            verdict = self.verdict(met)
        self.line(what, f"{value:.4g} {unit}".rstrip(), target, verdict)

    def end(self) -> int:
        """Save if asked to; the exit status."""
        if self._save:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{self.name}.md").write_text("\n".join(self._lines) + "\n")
        return self.code

    def _add(self, line: str) -> None:
        self._lines.append(line)
        print(line, flush=True)
