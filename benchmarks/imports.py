"""What the libraries' imports cost the first load of a model: all of them, and those that our adapters make.

Each figure is the least of several fresh processes, which take turns. The model is small, so nearly all of its load is
imports. Processor seconds mean something on a busy machine too; seconds only on a quiet one.
"""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import environments, report
from benchmarks.load_once import Load
from tollama.families import families
from tollama.registry import find
from tollama.seam import ModelRef

ROUNDS = 3
HEAVIEST = 10
SUBJECTS = {
    "chronos-bolt-tiny": "checkpoints:bolt-tiny",
    "chronos-2": "checkpoints_chronos:chronos-2-tiny",
    "chronos-t5-tiny": "checkpoints_chronos:t5-tiny",
    "granite-ttm-r2-512-720": "checkpoints_granite:ttm-r2-tiny",
    "granite-flowstate-r1": "checkpoints_granite:flowstate-tiny",
    "granite-patchtst-fm-r1": "checkpoints_granite:patchtst-fm-tiny",
    # TimesFM 2.5 imports the same, and its library knows no small one.
    "timesfm-3.0": "checkpoints_timesfm:timesfm-3.0-tiny",
    "moirai-1.1-r-small": "checkpoints_uni2ts:moirai-tiny",
    "moirai-moe-1.0-r-small": "checkpoints_uni2ts:moirai-moe-tiny",
    "moirai-2.0-r-small": "checkpoints_uni2ts:moirai-2-tiny",
}
"""A model of each adapter, and its checkpoint (``module:name``, the module one beside ``tests/families``)."""
COLUMNS = ("model", "CPU before", "CPU after", "saved", "wall before", "wall after", "modules before", "after")


@dataclass(frozen=True, slots=True)
class Found:
    """The loads of one model, all imports made (``before``) or some put off (``after``); the cheapest comes first."""

    model: str
    before: list[Load]
    after: list[Load]


def main() -> int:
    """Run; the exit status."""
    parser = report.arguments("imports", "Imports of each adapter's library, all and as we make them.", url=False)
    parser.add_argument("--only", nargs="+", metavar="MODEL", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"processes of each figure, {ROUNDS} of them")
    options = parser.parse_args()
    out = report.Report("imports", options, COLUMNS)
    asked = [model for model in SUBJECTS if model in options.only]
    found: list[Found] = []
    for family, models in itertools.groupby(asked, lambda model: find(model).family):
        found += _measure(out, family, list(models), options.rounds)
    for one in found:
        out.table((f"{one.model}, before", "CPU", "after", "CPU"))
        for before, after in zip(_heaviest(one.before[0]), _heaviest(one.after[0]), strict=True):
            out.line(*before, *after)
    out.say(
        "Of the load of a small model in a fresh process that has imported Ray Serve as a worker has: processor "
        f'seconds (user and system), the least of {options.rounds}, and seconds. "Before" imports all that the '
        'library does, "after" is what the adapter does. The tables hold the ten packages whose own modules take '
        "most to import; what the collector of garbage takes is with the package that it happened to interrupt."
    )
    return out.end()


def _measure(out: report.Report, family: str, models: list[str], rounds: int) -> list[Found]:
    """What was found of each of one family's models; a line is told of each."""
    found = []
    with tempfile.TemporaryDirectory(prefix="tollama-bench-") as folder:
        builds: list[tuple[str, dict[str, Any]]] = []
        for model in models:
            module, _, name = SUBJECTS[model].partition(":")
            builds.append((f"{module}:build", {"name": name, "folder": str(Path(folder, model))}))
        environments.run(family, *builds)
        for model in models:
            entry = find(model)
            ref = ModelRef(model, family, entry.adapter, str(Path(folder, model)), "0" * 64, entry.capabilities)
            call = {"target": families()[family].adapters[entry.adapter], "ref": ref}
            loads: dict[bool, list[Load]] = {True: [], False: []}
            for plain in [True, False] * rounds:
                loads[plain] += environments.run(family, ("benchmarks.load_once:measure", {**call, "plain": plain}))
            for ways in loads.values():
                ways.sort(key=lambda load: load.cpu)
            found.append(Found(model, loads[True], loads[False]))
            _line(out, found[-1])
    return found


def _line(out: report.Report, one: Found) -> None:
    before, after = one.before[0], one.after[0]
    walls = [min(load.wall for load in loads) for loads in (one.before, one.after)]
    out.line(
        one.model,
        f"{before.cpu:.2f} s",
        f"{after.cpu:.2f} s",
        f"{1 - after.cpu / before.cpu:.0%}",
        *(f"{wall:.2f} s" for wall in walls),
        str(before.modules),
        str(after.modules),
    )


def _heaviest(load: Load) -> list[tuple[str, str]]:
    ranked = sorted(load.packages.items(), key=lambda one: -one[1])[:HEAVIEST]
    return [(f"`{package}`", f"{seconds:.2f} s") for package, seconds in ranked]


if __name__ == "__main__":
    raise SystemExit(main())
