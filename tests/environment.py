"""A process in a family's environment that makes calls, for tests and benchmarks."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

from tests.serving import CHECKOUT

CALL_S = 3600.0
"""How long a call may take."""


class Caller:
    """``call("module:function", {...})`` returns what the function did; ``printed`` is all that was printed by then.

    A call that fails raises RuntimeError with that, and so does one that takes longer than ``seconds``.
    """

    def __init__(self, pipe: Connection, child: subprocess.Popen[bytes], out: IO[str]) -> None:
        self._pipe, self._child, self._out = pipe, child, out

    def call(self, target: str, arguments: dict[str, Any], seconds: float = CALL_S) -> Any:
        try:
            self._pipe.send((target, arguments))
            if self._pipe.poll(seconds):
                return self._pipe.recv()
            self._child.kill()
        except (EOFError, OSError):
            pass
        self._child.wait()
        raise RuntimeError(f"{target} did not return: {self.printed}")

    def close(self) -> None:
        """End the process, which prints what it still holds."""
        self._pipe.close()
        self._child.wait()

    @property
    def printed(self) -> str:
        self._out.seek(0)
        return self._out.read()


@contextmanager
def process(python: Path, **environment: str) -> Iterator[Caller]:
    """One for the time of the block, with nothing but this checkout added to what ``python`` has."""
    with tempfile.TemporaryDirectory(prefix="tollama-inside-") as folder, tempfile.TemporaryFile("w+") as out:
        ours, theirs = Pipe()
        child = subprocess.Popen(
            [python, CHECKOUT / "tests/families/inside.py", str(theirs.fileno())],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT), **environment},
            cwd=folder,
            pass_fds=(theirs.fileno(),),
            stdout=out,
            stderr=out,
        )
        theirs.close()
        there = Caller(ours, child, out)
        try:
            yield there
        finally:
            there.close()
