"""How much memory there is and what models take of it: the host's, and a replica's share of a GPU.

Megabytes (10^6 bytes) throughout. torch is used where the family has it, and never imported on a CPU. No Ray.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import resource
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from tollama.seam import ModelRef

LEAST_MB = 10.0
"""Less than that counts as nothing: a process's memory goes up and down by a few megabytes without any model."""
HOST = "memory"
DEVICE = "GPU memory"
MB = 1e6

Taken = Mapping[str, float]
"""Megabytes of each memory."""

WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
WIDTHS |= {"float32": 4, "bfloat16": 2, "auto": 4}
"""Bytes of one floating-point number, by safetensors' names and by ours. ``auto`` is no more than that."""
MOST_HEADER = 100_000_000
"""Bytes of a safetensors file's header: the format's own limit."""


@dataclass(frozen=True, slots=True)
class Space:
    """One memory: ``limit`` may be used of it in all, ``free`` of that is left now (less than 0 when more is used)."""

    limit: float
    free: float


Room = Mapping[str, Space]
"""The memories that are known of."""


@dataclass(frozen=True, slots=True)
class Shortage:
    """A memory that has no room for a model. ``str`` is half a sentence for the client."""

    kind: str
    needed: float
    space: Space

    def __str__(self) -> str:
        return f"it needs about {self.needed:.0f} MB of {self.kind}, and {free_of(self.kind, self.space)}"

    @property
    def detail(self) -> dict[str, Any]:
        """The numbers."""
        return {
            "kind": self.kind,
            "needed_mb": round(self.needed, 1),
            "available_mb": round(max(0.0, self.space.free), 1),
            "limit_mb": round(self.space.limit, 1),
        }

    @property
    def hint(self) -> str:
        share = "the family's num_gpus in serve_config.yaml, or " if self.kind == DEVICE else ""
        return f"Raise {share}TOLLAMA_MAX_MEMORY_FRACTION, let other programs go, or take a smaller model."


def free_of(kind: str, space: Space) -> str:
    """The state of one memory in words."""
    return f"{max(0.0, space.free):.0f} of the {space.limit:.0f} MB of {kind} that may be used are free"


def shortage(need: Taken, room: Room, promised: Taken) -> Shortage | None:
    """The first memory that has no room for ``need`` beside what is ``promised`` already. What needs less than
    ``LEAST_MB`` always fits."""
    for kind, needed in need.items():
        space = room.get(kind)
        if space is not None and needed >= LEAST_MB:
            left = Space(space.limit, space.free - promised.get(kind, 0.0))
            if needed > left.free:
                return Shortage(kind, needed, left)
    return None


@dataclass(slots=True)
class Memory:
    """The memories of one replica. At most ``fraction`` of the host's may be used, by whomever; on a GPU at most the
    replica's ``share`` of the card, and that fraction of it. ``share`` is 0 for a replica that computes on the CPU.

    :meth:`room`, :meth:`used` and :meth:`precision` ask torch when there is a GPU: they belong in the thread that
    computes.
    """

    fraction: float
    share: float = 0.0
    dtype: str = "float32"
    _cuda: Any = None
    _learned: dict[tuple[str, str], float] = field(default_factory=dict)
    _adapters: set[str] = field(default_factory=set)

    @property
    def kind(self) -> str:
        """Where models are held."""
        return DEVICE if self.share else HOST

    def room(self) -> Room:
        """What is free now. A memory that cannot be measured is left out."""
        room = {HOST: space} if (space := host(self.fraction)) is not None else {}
        if (cuda := self._card()) is not None:
            free, total = (size / MB for size in cuda.mem_get_info())
            held = cuda.memory_allocated() / MB
            unused = cuda.memory_reserved() / MB - held  # by models that went; torch keeps it for the next one
            limit = total * min(self.share, self.fraction)
            room[DEVICE] = Space(limit, min(limit - held, free + unused))
        return room

    def used(self) -> Taken:
        """What this process takes: resident on the host, allocated by torch on the GPU."""
        used = {HOST: resident_mb()}
        if (cuda := self._card()) is not None:
            used[DEVICE] = cuda.memory_allocated() / MB
        return used

    def precision(self, dtype: str) -> str:
        """``auto`` as a type: bfloat16 on a card that has it, else float32. Any other is itself."""
        if dtype != "auto":
            return dtype
        cuda = self._card()
        return "bfloat16" if cuda is not None and cuda.is_bf16_supported(including_emulation=False) else "float32"

    def need(self, ref: ModelRef) -> Taken:
        """What a model is going to take: what it took before in this process, else what its weights say, 0 when there
        are none on disk. On their way to a GPU the weights pass through the host's memory."""
        weights = weights_mb(ref.snapshot, self.dtype)
        return {HOST: weights, self.kind: self._learned.get((ref.name, ref.digest), weights)}

    def learn(self, ref: ModelRef, took: Taken) -> None:
        """``took`` is the measure of a load. An adapter's first one brings its libraries to the host along, so nothing
        is learned of the model from that."""
        if self.share or ref.adapter in self._adapters:
            self._learned[ref.name, ref.digest] = took.get(self.kind, 0.0)
        self._adapters.add(ref.adapter)

    def _card(self) -> Any:
        """``torch.cuda``, held to the replica's share; None on a CPU, and for a family without torch."""
        if self._cuda is None and self.share:
            with suppress(ImportError):
                cuda = importlib.import_module("torch").cuda
                if self.share < 1:
                    cuda.set_per_process_memory_fraction(self.share)
                self._cuda = cuda
        return self._cuda


def weights_mb(snapshot: str | None, dtype: str) -> float:
    """What a snapshot's weights take once loaded: those stored narrower than ``dtype`` are widened to it. Where there
    are no safetensors, the size of all its files; 0 without a snapshot."""
    if snapshot is None:
        return 0.0
    files = [path for path in Path(snapshot).rglob("*") if path.is_file()]
    tensors = [path for path in files if path.suffix == ".safetensors"]
    return sum(_tensors(path, dtype) if tensors else path.stat().st_size for path in tensors or files) / MB


def _tensors(path: Path, dtype: str) -> float:
    """Bytes of the tensors in a safetensors file, from its header; the file's size if that cannot be read."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(min(length, MOST_HEADER)))
        header.pop("__metadata__", None)
        sizes: list[int] = []
        for tensor in header.values():
            start, end = tensor["data_offsets"]
            stored = WIDTHS.get(tensor["dtype"])
            sizes.append(end - start if stored is None else prod(tensor["shape"]) * max(stored, WIDTHS[dtype]))
        return sum(sizes)
    except (ValueError, KeyError, TypeError, AttributeError):
        return path.stat().st_size


def host(fraction: float, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> Space | None:
    """The host's memory, or the part that a container may use of it; None where the kernel does not tell."""
    try:
        rows = dict(row.split(":", 1) for row in (proc / "meminfo").read_text().splitlines())
        total, available = (int(rows[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return None
    spaces = [(total, total - available), *((limit, used) for limit, used in _groups(proc, cgroups) if limit < total)]
    limits = [(limit * fraction / MB, used / MB) for limit, used in spaces]
    return Space(min(limit for limit, _ in limits), min(limit - used for limit, used in limits))


def killed(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """How many processes the kernel has killed for want of memory so far: of our control group if that counts them,
    else of the whole host."""
    groups = [group / ("memory.events" if modern else "memory.oom_control") for modern, group in _around(proc, cgroups)]
    for counter in (*groups, proc / "vmstat"):
        with suppress(OSError, ValueError, KeyError):
            return int(_numbers(counter)["oom_kill"])
    return 0


def _groups(proc: Path, cgroups: Path) -> Iterator[tuple[int, int]]:
    """Limit and use (bytes, without the files that the kernel could drop) of each control group around us."""
    for modern, group in _around(proc, cgroups):
        names = ("memory.max", "memory.current") if modern else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        prefix = "" if modern else "total_"
        with suppress(OSError, ValueError, KeyError):  # "max" is no limit
            limit, used = (int((group / name).read_text()) for name in names)
            stat = _numbers(group / "memory.stat")
            yield limit, used - int(stat[f"{prefix}inactive_file"]) - int(stat[f"{prefix}active_file"])


def _around(proc: Path, cgroups: Path) -> Iterator[tuple[bool, Path]]:
    """The folders of the control groups around us that may know of memory, the innermost first, each with whether it
    is of version 2."""
    try:
        rows = [row.split(":", 2) for row in (proc / "self/cgroup").read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in rows:
        if not controllers:
            root = cgroups
        elif "memory" in controllers.split(","):
            root = cgroups / "memory"
        else:
            continue
        inner = root / path.lstrip("/")
        # A container may see its own group at the root, whatever the path says.
        for group in (inner, *(parent for parent in inner.parents if parent.is_relative_to(root))):
            yield not controllers, group


def _numbers(file: Path) -> dict[str, str]:
    return dict(row.split() for row in file.read_text().splitlines())


def resident_mb() -> float:
    """The memory that this process has now; 0 where the kernel does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MB
    except OSError:
        return 0.0


def peak_mb() -> float:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MB


def trim() -> None:
    """Give freed memory back: glibc keeps it in its heap. Other C libraries have no such function and need none."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def release() -> None:
    """Give back whatever nobody refers to any more, on the GPU too."""
    gc.collect()
    cuda = sys.modules.get("torch.cuda")
    # A GPU gone bad fails here too; that is not what went wrong first.
    with suppress(RuntimeError):
        if cuda is not None and getattr(cuda, "is_initialized", bool)():
            cuda.empty_cache()
    trim()
