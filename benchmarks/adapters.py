"""How long each adapter takes beside what a user of its library would write.

Same weights (random ones, of the published sizes where those are known), same process, same threads, same run: the
calls take turns and the medians are told. Both are asked for all the quantiles that a model gives of 24 steps after
512 daily ones, so that they do the same work. The making of frames, tensors and datasets is not counted.
"""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import environments, report
from benchmarks.side_by_side import Case
from tollama.families import families
from tollama.registry import find
from tollama.seam import ModelRef, Task

HORIZON = 24
TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SECONDS = 4.0
"""Of the rounds of one case, warm calls excluded."""
MOST_RATIO, MOST_DIFFERENCE = 1.1, 1e-5
CHEAP, DEAR = (1, 8, 32), (1, 8)
COLUMNS = ("model", "series", "adapter", "the library's call", "library", "ratio", "", "difference", "")


@dataclass(frozen=True, slots=True)
class Subject:
    """A model of the registry, its checkpoint (``module:name``, the module one beside ``tests/families``), how many
    series are forecast at a time, and how long they are."""

    model: str
    checkpoint: str
    sizes: tuple[int, ...]
    steps: int = 512


SUBJECTS = (
    Subject("chronos-bolt-small", "checkpoints:bolt-small", CHEAP),
    Subject("chronos-2", "checkpoints_chronos:chronos-2", DEAR),
    Subject("chronos-t5-small", "checkpoints_chronos:t5-small", (1, 4)),  # a second or more each
    Subject("granite-ttm-r2-512-96", "checkpoints_granite:ttm-r2", CHEAP),
    # Narrower than any that is published.
    Subject("granite-ttm-r3-1024-720", "checkpoints_granite:ttm-r3-tiny", CHEAP, steps=1024),
    Subject("granite-flowstate-r1", "checkpoints_granite:flowstate", DEAR),
    Subject("granite-patchtst-fm-r1", "checkpoints_granite:patchtst-fm", DEAR),
    Subject("timesfm-2.5-200m", "checkpoints_timesfm:timesfm-2.5", DEAR),
    Subject("timesfm-3.0", "checkpoints_timesfm:timesfm-3.0", DEAR),
    Subject("moirai-1.1-r-small", "checkpoints_uni2ts:moirai-small", DEAR),
    Subject("moirai-moe-1.0-r-small", "checkpoints_uni2ts:moirai-moe-small", DEAR),
    Subject("moirai-2.0-r-small", "checkpoints_uni2ts:moirai-2-small", CHEAP),
)


def main() -> int:
    """Run; the exit status."""
    parser = report.arguments("adapters", "Time of each adapter beside its library's own call.", url=False)
    names = [one.model for one in SUBJECTS]
    parser.add_argument("--only", nargs="+", metavar="MODEL", choices=names, default=names, help="these models only")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"rounds of a case, {SECONDS:g} s of them")
    options = parser.parse_args()
    out = report.Report("adapters", options, COLUMNS)
    asked = [one for one in SUBJECTS if one.model in options.only]
    for _, group in itertools.groupby(asked, lambda one: find(one.model).family):
        for subject, cases in _measure(list(group), options.seconds):
            _rows(out, subject, cases)
    out.say(
        f"Targets: ratio ≤ {MOST_RATIO:g}, difference ≤ {MOST_DIFFERENCE:g} of the largest number of the series. "
        "The weights of Granite TTM r3 are narrower than any published, so its figures are those of all around them. "
        "¹ These models draw samples. We draw each series in a call of its own, from its own seed, so that its answer "
        "is the same in any company; the library draws a batch at once, which takes less time per series of Moirai and "
        "gives another answer in another batch. So the time of several has no target, and the difference is that to "
        "the library asked for one series at a time with the same seeds."
    )
    return out.end()


def _measure(subjects: list[Subject], seconds: float) -> list[tuple[Subject, list[Case]]]:
    """What was found of each of one family's, in one process and with one checkpoint at a time on the disk."""
    with tempfile.TemporaryDirectory(prefix="tollama-bench-") as folder:
        snapshot = str(Path(folder, "snapshot"))
        calls: list[tuple[str, dict[str, Any]]] = []
        for subject in subjects:
            module, _, name = subject.checkpoint.partition(":")
            calls.append((f"{module}:build", {"name": name, "folder": snapshot}))
            calls.append(("benchmarks.side_by_side:compare", _case(subject, snapshot) | {"seconds": seconds}))
            calls.append(("shutil:rmtree", {"path": snapshot}))
        results = environments.run(find(subjects[0].model).family, *calls)
    return list(zip(subjects, results[1::3], strict=True))


def _case(subject: Subject, snapshot: str) -> dict[str, Any]:
    """What :func:`benchmarks.side_by_side.compare` is told."""
    entry = find(subject.model)
    capabilities = entry.capabilities
    levels = tuple(capabilities.quantiles.native) or (() if capabilities.deterministic else TENTHS)
    return {
        "target": families()[entry.family].adapters[entry.adapter],
        "ref": ModelRef(subject.model, entry.family, entry.adapter, snapshot, "0" * 64, capabilities),
        "task": Task(HORIZON, levels, {name: option.default for name, option in capabilities.options.items()}),
        "steps": subject.steps,
        "sizes": subject.sizes,
        "threads": environments.THREADS,
    }


def _rows(out: report.Report, subject: Subject, cases: list[Case]) -> None:
    drawn = not find(subject.model).capabilities.deterministic
    for case in cases:
        several = drawn and case.series > 1
        for way, milliseconds in case.library.items():
            ratio, difference = case.ours / milliseconds, case.difference[way]
            out.line(
                subject.model + ("¹" if several else ""),
                str(case.series),
                f"{case.ours:,.1f} ms",
                f"`{way}`",
                f"{milliseconds:,.1f} ms",
                f"{ratio:.2f}",
                "" if several else out.verdict(ratio <= MOST_RATIO),
                f"{difference:.1g}",
                out.verdict(difference <= MOST_DIFFERENCE),
            )


if __name__ == "__main__":
    raise SystemExit(main())
