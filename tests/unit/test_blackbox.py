"""What is left of a replica that died, and of one that left properly."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deployments import blackbox, memory
from deployments.blackbox import BlackBox, collect

LIVE = """
import sys
from deployments.blackbox import BlackBox
box = BlackBox(sys.argv[1], "a-family")
with box.computing("m", ["one", "two"]):
    if len(sys.argv) > 2:
        box.blame(sys.argv[2])
    print("up", flush=True)
    input()
box.close()
"""


def process(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    started = subprocess.Popen(
        [sys.executable, "-c", LIVE, str(folder), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "up\n"
    return started


def test_a_killed_process_tells_what_it_was_computing(tmp_path: Path) -> None:
    started = process(tmp_path)
    assert collect(tmp_path) == ([], []), "it lives"
    started.kill()
    started.communicate()
    deaths, fresh = collect(tmp_path)
    assert deaths == fresh
    (death,) = deaths
    assert (death.family, death.reason, death.model) == ("a-family", "crash", "m")
    assert death.calls == {"one", "two"}
    again, none = collect(tmp_path)
    assert [one.name for one in again] == [death.name], "another ingress replica reads it too"
    assert none == []


def test_two_may_compute_at_once_and_one_of_them_be_to_blame(tmp_path: Path) -> None:
    box = BlackBox(str(tmp_path), "f")
    path = tmp_path / f"f-{os.getpid()}"

    def calls() -> object:
        return blackbox._read(path.read_bytes()[: blackbox.SIZE])["calls"]

    with box.computing("m", ["one"]):
        with box.computing("m", ["two"]):
            assert calls() == ["one", "two"]
        assert calls() == ["one"]
        with box.computing("m", ["three"]):
            box.blame("hang", frozenset({"three"}))
            assert calls() == ["three"]
        assert calls() == ["three"], "it stays on record"
    os.close(box._file)


def test_it_may_say_why_it_is_going_to_be_ended(tmp_path: Path) -> None:
    started = process(tmp_path, "hang")
    started.kill()
    started.communicate()
    ((death,), _) = collect(tmp_path)
    assert (death.reason, death.model) == ("hang", "m")


@pytest.mark.parametrize(("arguments", "more", "reason"), [((), 1, "oom"), ((), 0, "crash"), (("hang",), 1, "hang")])
def test_a_process_that_the_kernel_killed_for_want_of_memory_is_told_from_a_crash(
    tmp_path: Path, arguments: tuple[str, ...], more: int, reason: str
) -> None:
    started = process(tmp_path, *arguments)
    started.kill()
    started.communicate()
    _, (death,) = collect(tmp_path, lambda: memory.killed() + more)
    assert (death.reason, death.model, death.calls) == (reason, "m", {"one", "two"})
    (again,), _ = collect(tmp_path, lambda: memory.killed() + 2)
    assert again.reason == reason, "whoever reads it, however late"


def test_what_the_kernel_killed_while_a_process_was_well_was_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = iter([3, 5])
    monkeypatch.setattr(blackbox, "killed", lambda: next(kills))
    box = BlackBox(str(tmp_path), "f")
    (path,) = tmp_path.iterdir()
    assert blackbox.KILLED.unpack_from(path.read_bytes(), blackbox.SIZE) == (3,)
    box.well()
    assert blackbox.KILLED.unpack_from(path.read_bytes(), blackbox.SIZE) == (5,)
    box.close()


@pytest.mark.parametrize(("arguments", "deaths"), [((), 0), (("health",), 1)])
def test_leaving_properly_leaves_nothing_unless_there_was_blame(
    tmp_path: Path, arguments: tuple[str, ...], deaths: int
) -> None:
    started = process(tmp_path, *arguments)
    started.communicate("\n")
    assert started.returncode == 0
    assert len(collect(tmp_path)[0]) == deaths


def test_idle_between_calls_nothing_is_blamed(tmp_path: Path) -> None:
    code = LIVE.replace("    print", "    pass\nif True:\n    print")
    started = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "up\n"
    started.kill()
    started.communicate()
    ((death,), _) = collect(tmp_path)
    assert (death.model, death.calls) == (None, frozenset())


def test_records_go_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = process(tmp_path)
    started.kill()
    started.communicate()
    collect(tmp_path)
    (record,) = tmp_path.iterdir()
    os.utime(record, (0, 0))
    assert collect(tmp_path) == ([], [])
    assert list(tmp_path.iterdir()) == []


def test_more_calls_than_the_file_holds_are_not_recorded_wrongly(tmp_path: Path) -> None:
    box = BlackBox(str(tmp_path), "f")
    with box.computing("m", ["x" * 16] * blackbox.SIZE):
        (path,) = tmp_path.iterdir()
        assert b'"calls": []' in path.read_bytes()
    box.close()


def test_without_a_folder_nothing_is_recorded(tmp_path: Path) -> None:
    box = BlackBox(None, "f")
    with box.computing("m", ["a"]):
        box.blame("hang")
    box.close()
    assert collect(tmp_path / "none") == ([], [])
