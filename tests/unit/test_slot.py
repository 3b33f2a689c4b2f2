"""The compute slot between processes."""

from __future__ import annotations

import subprocess
import sys
import threading
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
