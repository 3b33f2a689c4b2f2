"""How much memory there is, what models take of it, and what a full one looks like in an exception."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from deployments import memory
from deployments.failures import CUDA, OOM, cause_of
from deployments.loading import loaded
from deployments.memory import DEVICE, HOST, Memory, Shortage, Space, host, shortage, weights_mb
from deployments.residency import Resident
from tollama.capabilities import Capabilities
from tollama.seam import ModelRef, Placement

GIB = 1024**3
GIB_MB = GIB / 1e6


def kernel(folder: Path, groups: dict[str, str | dict[str, int]], own: str) -> tuple[Path, Path]:
    """A ``/proc`` of 8 GiB, 6 of them available, and control groups; ``own`` is what ``/proc/self/cgroup`` says."""
    proc, cgroups = folder / "proc", folder / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: {8 * GIB // 1024} kB\nMemAvailable: {6 * GIB // 1024} kB\nHugePages: 0\n")
    (proc / "self/cgroup").write_text(own)
    for name, content in groups.items():
        text = content if isinstance(content, str) else "".join(f"{key} {value}\n" for key, value in content.items())
        (cgroups / name).parent.mkdir(parents=True, exist_ok=True)
        (cgroups / name).write_text(text)
    return proc, cgroups


def version_2(path: str, limit: str, used: int, cache: int = 0) -> dict[str, str | dict[str, int]]:
    stat = {"anon": used - cache, "inactive_file": cache, "active_file": 0}
    return {f"{path}memory.max": limit, f"{path}memory.current": str(used), f"{path}memory.stat": stat}


def version_1(path: str, limit: int, used: int, cache: int) -> dict[str, str | dict[str, int]]:
    stat = {"inactive_file": 0, "active_file": 0, "total_inactive_file": cache, "total_active_file": 0}
    return {
        f"memory/{path}memory.limit_in_bytes": str(limit),
        f"memory/{path}memory.usage_in_bytes": str(used),
        f"memory/{path}memory.stat": stat,
    }


@pytest.mark.parametrize(
    ("groups", "own", "killed"),
    [
        ({}, "", 9),
        ({"memory.events": {"oom": 7, "oom_kill": 3}}, "0::/", 3),
        ({"a/memory.events": {"oom_kill": 3}, "a/b/memory.events": {"oom_kill": 1}}, "0::/a/b", 1),
        ({"memory/docker/1/memory.oom_control": {"under_oom": 0, "oom_kill": 2}}, "4:memory:/docker/1\n0::/", 2),
        ({"memory/memory.oom_control": {"under_oom": 0}}, "4:memory:/docker/1", 9),
    ],
    ids=["host", "root", "inner", "version 1", "old kernel"],
)
def test_what_the_kernel_killed_is_counted_by_the_control_group_else_by_the_host(
    tmp_path: Path, groups: dict[str, str | dict[str, int]], own: str, killed: int
) -> None:
    proc, cgroups = kernel(tmp_path, groups, own)
    (proc / "vmstat").write_text("pgfault 12\noom_kill 9\n")
    assert memory.killed(proc, cgroups) == killed


@pytest.mark.parametrize(
    ("groups", "own", "limit", "free"),
    [
        ({}, "", 4, 2),
        (version_2("", "max", GIB), "0::/", 4, 2),
        (version_2("", str(4 * GIB), GIB, GIB // 2), "0::/", 2, 1.5),
        (version_2("a/", str(4 * GIB), GIB), "0::/a/b", 2, 1),
        ({**version_2("a/", str(4 * GIB), 2 * GIB), **version_2("a/b/", str(2 * GIB), GIB)}, "0::/a/b", 1, 0),
        (version_1("docker/1/", 4 * GIB, 3 * GIB, 2 * GIB), "5:cpu:/x\n4:memory:/docker/1\n0::/", 2, 1),
        (version_1("", 4 * GIB, 3 * GIB, 2 * GIB), "4:memory:/docker/1", 2, 1),
        (version_1("", 2**63 - 4096, 3 * GIB, 0), "4:memory:/", 4, 2),
        (version_2("", str(3 * GIB), 3 * GIB), "0::/", 1.5, -1.5),
    ],
    ids=["none", "no limit", "container", "outer", "inner", "version 1", "its own root", "no limit 1", "too full"],
)
def test_the_hosts_memory_is_what_the_narrowest_limit_leaves(
    tmp_path: Path, groups: dict[str, Any], own: str, limit: float, free: float
) -> None:
    found = host(0.5, *kernel(tmp_path, groups, own))
    assert found is not None
    assert found.limit == pytest.approx(limit * GIB_MB)
    assert found.free == pytest.approx(free * GIB_MB)


def test_where_the_kernel_does_not_tell_nothing_is_known(tmp_path: Path) -> None:
    assert host(0.9, tmp_path, tmp_path) is None


def test_this_machines_memory_shrinks_by_what_is_allocated_and_grows_back() -> None:
    before, had = host(1.0), memory.resident_mb()
    assert before is not None
    assert 0 < before.free < before.limit
    block = np.ones(6_250_000)  # 50 MB
    assert memory.resident_mb() - had > 40
    assert memory.peak_mb() >= memory.resident_mb() - 1
    del block
    memory.release()
    assert memory.resident_mb() - had < 20


def safetensors(path: Path, **tensors: tuple[str, list[int], int]) -> None:
    """A file with that header: per tensor its type, shape and bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(at))


@pytest.mark.parametrize(("dtype", "expected"), [("float32", 4 * 6000 + 4 * 500 + 80), ("bfloat16", 4 * 6000 + 1080)])
def test_weights_are_counted_at_the_width_they_are_loaded_in(tmp_path: Path, dtype: str, expected: int) -> None:
    safetensors(tmp_path / "one.safetensors", a=("F32", [2, 3000], 24_000))
    safetensors(tmp_path / "two.safetensors", b=("BF16", [500], 1000), steps=("I64", [10], 80))
    (tmp_path / "README.md").write_text("x" * 5000)
    assert weights_mb(str(tmp_path), dtype) == expected / 1e6


def test_other_weights_count_as_they_are_and_no_snapshot_as_nothing(tmp_path: Path) -> None:
    assert weights_mb(None, "float32") == 0
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/model.ckpt").write_bytes(bytes(3000))
    (tmp_path / "config.json").write_bytes(bytes(500))
    assert weights_mb(str(tmp_path), "float32") == 3500 / 1e6


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\2" + bytes(7) + b"[]", (99).to_bytes(8, "little") + b"{}x"])
def test_a_header_that_cannot_be_read_leaves_the_files_size(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert weights_mb(str(tmp_path), "float32") == len(content) / 1e6


def test_a_shortage_counts_what_is_promised_and_tells_its_numbers() -> None:
    room = {HOST: Space(100, 50), DEVICE: Space(40, 40)}
    assert shortage({HOST: 30, DEVICE: 40}, room, {HOST: 20}) is None
    short = shortage({HOST: 30, DEVICE: 41}, room, {HOST: 20})
    assert short == Shortage(DEVICE, 41, Space(40, 40))
    assert "num_gpus" in short.hint
    short = shortage({HOST: 31}, room, {HOST: 20})
    assert short is not None
    assert str(short) == "it needs about 31 MB of memory, and 30 of the 100 MB of memory that may be used are free"
    assert short.detail == {"kind": "memory", "needed_mb": 31, "available_mb": 30.0, "limit_mb": 100}
    assert "num_gpus" not in short.hint
    assert shortage({"another": 31}, room, {}) is None, "what is not known is not in the way"
    assert shortage({HOST: 9.9}, {HOST: Space(100, -50)}, {}) is None, "next to nothing always fits"


class Card:
    """``torch.cuda`` of a card of 1000 MB."""

    def __init__(self) -> None:
        self.free, self.allocated, self.reserved = 1000.0, 0.0, 0.0
        self.fractions: list[float] = []
        self.emptied = 0
        self.bfloat16 = True

    def is_initialized(self) -> bool:
        return True

    def set_per_process_memory_fraction(self, fraction: float) -> None:
        self.fractions.append(fraction)

    def mem_get_info(self) -> tuple[int, int]:
        return int(self.free * 1e6), 1_000_000_000

    def memory_allocated(self) -> int:
        return int(self.allocated * 1e6)

    def memory_reserved(self) -> int:
        return int(self.reserved * 1e6)

    def empty_cache(self) -> None:
        self.emptied += 1

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        return self.bfloat16 or including_emulation


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    """A stand-in for torch and a card."""
    card = Card()
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=card))
    monkeypatch.setitem(sys.modules, "torch.cuda", card)
    return card


def test_a_replica_is_held_to_its_share_of_the_card(card: Card) -> None:
    mine = Memory(0.9, share=0.4)
    assert mine.room()[DEVICE] == Space(400, 400)
    card.allocated, card.reserved, card.free = 100, 150, 850
    assert mine.room()[DEVICE] == Space(400, 300)
    card.free = 120  # others took most of it; 50 more are ours and unused
    assert mine.room()[DEVICE] == Space(400, 170)
    assert mine.used()[DEVICE] == 100
    assert card.fractions == [0.4], "once, and before anything is loaded"


def test_a_whole_card_is_used_up_to_the_fraction(card: Card) -> None:
    assert Memory(0.9, share=1.0).room()[DEVICE] == Space(900, 900)
    assert card.fractions == []


def test_a_family_without_torch_has_no_gpu_memory_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    mine = Memory(0.9, share=0.5)
    assert set(mine.room()) == set(mine.used()) == {HOST}


def test_auto_is_bfloat16_on_a_card_that_has_it_and_float32_elsewhere(
    card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Memory(0.9, share=0.5).precision("auto") == "bfloat16"
    card.bfloat16 = False
    assert Memory(0.9, share=0.5).precision("auto") == "float32"
    assert Memory(0.9, share=0.5).precision("bfloat16") == "bfloat16", "as it was asked for"
    assert Memory(0.9).precision("auto") == "float32"
    monkeypatch.setitem(sys.modules, "torch", None)
    assert Memory(0.9, share=0.5).precision("auto") == "float32"


def test_on_a_cpu_torch_is_never_asked(card: Card) -> None:
    mine = Memory(0.9)
    assert set(mine.room()) == set(mine.used()) == {HOST}
    assert (card.fractions, mine.kind) == ([], HOST)


def ref(name: str, snapshot: Path | None) -> ModelRef:
    given = Capabilities(max_context=10, max_horizon=10)
    return ModelRef(name, "f", "adapter", None if snapshot is None else str(snapshot), "1", given)


def test_what_a_model_took_replaces_what_its_weights_say_once_the_libraries_are_there(tmp_path: Path) -> None:
    safetensors(tmp_path / "one.safetensors", a=("F32", [500_000], 2_000_000))
    mine, stored, embedded = Memory(0.9), ref("stored", tmp_path), ref("embedded", None)
    assert mine.need(stored) == {HOST: 2.0}
    assert mine.need(embedded) == {HOST: 0.0}
    mine.learn(embedded, {HOST: 600.0})
    assert mine.need(embedded) == {HOST: 0.0}, "most of that were the libraries"
    mine.learn(stored, {HOST: 3.0})
    mine.learn(embedded, {HOST: 5.0})
    assert mine.need(stored) == {HOST: 3.0}
    assert mine.need(embedded) == {HOST: 5.0}


def test_on_a_gpu_what_torch_allocated_is_the_models_and_weights_pass_through_the_host(tmp_path: Path) -> None:
    safetensors(tmp_path / "one.safetensors", a=("F32", [500_000], 2_000_000))
    mine, stored = Memory(0.9, share=0.4), ref("stored", tmp_path)
    assert mine.need(stored) == {HOST: 2.0, DEVICE: 2.0}
    mine.learn(stored, {HOST: 600.0, DEVICE: 2.5})
    assert mine.need(stored) == {HOST: 2.0, DEVICE: 2.5}


@pytest.mark.parametrize(("kind", "left"), [(DEVICE, 1.0), (HOST, 500.0)])
def test_a_model_on_a_gpu_holds_no_more_of_the_host_than_was_measured(kind: str, left: float) -> None:
    room: Any = SimpleNamespace(
        kind=kind, used=lambda: {HOST: next(seen), kind: 7.0}, precision=str, learn=lambda *_: None
    )
    seen = iter([100.0, 101.0])
    if kind == HOST:
        room.used = lambda: {HOST: next(seen)}
    resident = Resident(ref("m", None), MagicMock(), {HOST: 500.0, kind: 500.0})
    loaded(resident, MagicMock, Placement("cpu"), room)
    assert resident.holds(HOST) == left
    assert resident.holds(kind) == 500.0, "what was expected of the memory that it is held in"


def test_release_empties_the_cards_cache_and_does_not_mind_a_bad_one(
    card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.release()
    assert card.emptied == 1

    def bad() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(card, "empty_cache", bad)
    memory.release()


def named(name: str, base: type[Exception] = RuntimeError) -> type[Exception]:
    return type(name, (base,), {})


def after(inner: BaseException, **how: Any) -> Exception:
    """A library's own exception that came of ``inner``."""
    error = ValueError("the library's own words")
    error.__context__ = inner
    for name, value in how.items():
        setattr(error, name, value)
    return error


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (MemoryError(), OOM),
        (np._core._exceptions._ArrayMemoryError((10,), np.dtype("f8")), OOM),
        (named("OutOfMemoryError")("CUDA out of memory. Tried to allocate 20.00 MiB."), OOM),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory"), OOM),
        (named("AcceleratorError")("CUDA error: out of memory"), OOM),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), OOM),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), OOM),
        (named("AcceleratorError")("CUDA error: device-side assert triggered"), CUDA),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), CUDA),
        (RuntimeError("cudaErrorIllegalAddress"), CUDA),
        (OSError(errno.ENOSPC, "No space left on device"), None),
        (ValueError("out of memory of its words"), None),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (after(MemoryError(), __cause__=MemoryError()), OOM),
        (after(MemoryError()), OOM),
        (after(MemoryError(), __suppress_context__=True), None),
        (after(named("AcceleratorError")("CUDA error: unspecified launch failure")), CUDA),
    ],
    ids=str,
)
def test_what_an_exception_means(error: Exception, cause: str | None) -> None:
    assert cause_of(error) == cause


def test_a_gpu_gone_bad_weighs_more_than_the_full_memory_that_came_of_it() -> None:
    full = MemoryError()
    full.__context__ = RuntimeError("CUDA error: device-side assert triggered")
    assert cause_of(full) == CUDA
