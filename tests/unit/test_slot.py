"""The compute slot between processes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from deployments.slot import Slot

HOLD = (
    "import sys; from deployments.slot import Slot; Slot(sys.argv[1]).__enter__(); print('held', flush=True); input()"
)


def test_one_at_a_time_and_a_dead_holder_frees_it(tmp_path: Path) -> None:
    path = str(tmp_path / "slot")
    with Slot(path), Slot(path + "2"):
        pass
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    entered = threading.Event()

    def enter() -> None:
        with Slot(path):
            entered.set()

    waiting = threading.Thread(target=enter)
    waiting.start()
    assert not entered.wait(0.3), "two processes held the slot at once"
    holder.kill()
    holder.communicate()
    assert entered.wait(10)
    waiting.join()


def test_nobody_waits_for_ever_behind_one_that_hangs(tmp_path: Path) -> None:
    path = str(tmp_path / "slot")
    with Slot(path):
        impatient = Slot(path, patience=0.1)
        with impatient:
            pass
    with Slot(path):  # the one that gave up has left the queue
        entered = threading.Event()

        def enter() -> None:
            with Slot(path, patience=60):
                entered.set()

        waiting = threading.Thread(target=enter)
        waiting.start()
        assert not entered.wait(0.3)
    assert entered.wait(10)
    waiting.join()


def test_threads_of_a_process_share_it_until_another_process_waits(tmp_path: Path) -> None:
    path = str(tmp_path / "slot")
    ours = Slot(path, patience=20)
    entered, leave = threading.Semaphore(0), threading.Event()

    def share() -> None:
        with ours:
            entered.release()
            assert leave.wait(20)

    threads = [threading.Thread(target=share) for _ in range(2)]
    for thread in threads:
        thread.start()
        assert entered.acquire(timeout=10)
    other = subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    end = time.monotonic() + 20
    while not ours._wanted():
        assert time.monotonic() < end, "the other process does not wait"
        time.sleep(0.01)
    third = threading.Thread(target=share)
    third.start()
    assert not entered.acquire(timeout=0.3), "a third joined though another process waits"
    leave.set()
    assert other.stdout.readline() == b"held\n"
    assert not entered.acquire(timeout=0.3), "two processes hold the slot at once"
    other.communicate(b"\n")
    assert entered.acquire(timeout=10)
    for thread in (*threads, third):
        thread.join()


def test_two_threads_that_wait_both_wait_as_long(tmp_path: Path) -> None:
    path = str(tmp_path / "slot")
    patient, times = Slot(path, patience=1), []
    start = time.monotonic()

    def enter() -> None:
        with patient:
            times.append(time.monotonic() - start)

    with Slot(path):
        threads = [threading.Thread(target=enter) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert min(times) > 0.9


def queued() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "compute slot"]


def test_who_has_given_up_waits_no_second_time_until_it_has_had_its_turn(tmp_path: Path) -> None:
    path = str(tmp_path / "slot")
    patient = Slot(path, patience=3)
    with Slot(path):
        start = time.monotonic()
        for _ in range(4):
            with patient:
                assert len(queued()) == 1, "one thread waits for the lock, however often it was given up"
        assert 3 <= time.monotonic() - start < 6
    end = time.monotonic() + 10
    while queued():
        assert time.monotonic() < end, "the thread has not had its turn"
    entered = threading.Event()
    with patient:
        waiting = threading.Thread(target=lambda: Slot(path, patience=60).__enter__() or entered.set())
        waiting.start()
        assert not entered.wait(0.3), "the slot is held again"
    assert entered.wait(10)
    waiting.join()
