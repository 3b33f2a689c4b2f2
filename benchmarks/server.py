"""The servers that are measured: ``tollama serve`` on a home of its own, or any other command that listens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import wire

CHECKOUT = Path(__file__).resolve().parent.parent
RUNTIMES = Path(os.environ.get("TOLLAMA_RUNTIMES_DIR") or CHECKOUT / ".runtimes").resolve()
START_S = 120.0
GONE_S = 60.0


@dataclass(frozen=True, slots=True)
class Server:
    """``door`` and ``proxy`` are base URLs; ``home`` is None of a server that was there already."""

    door: str
    proxy: str | None
    home: Path | None


def free_port() -> int:
    """A port that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def tollama(url: str | None = None, **environment: str) -> Iterator[Server]:
    """The server at ``url``, or one started for the time of the block."""
    if url is not None:
        yield Server(url.rstrip("/"), None, None)
        return
    with tempfile.TemporaryDirectory(prefix="tollama-bench-") as folder:
        port, proxy_port = free_port(), free_port()
        ours = {
            "TOLLAMA_HOME": folder,
            "TOLLAMA_PORT": str(port),
            "TOLLAMA_PROXY_PORT": str(proxy_port),
            "TOLLAMA_RUNTIMES_DIR": str(RUNTIMES),
            **environment,
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TOLLAMA_", "RAY_", "HF_"))}
        command = [sys.executable, "-m", "tollama.cli", "serve", "--no-dashboard"]
        with running(command, f"http://127.0.0.1:{port}", "/health/ready", kept | ours):
            yield Server(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{proxy_port}", Path(folder))


@contextlib.contextmanager
def running(command: list[str], base: str, path: str, env: dict[str, str] | None = None) -> Iterator[None]:
    """``command`` as a process, from its first answer at ``base`` + ``path`` to the end of the block."""
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, cwd=CHECKOUT, env=env, stdout=out, stderr=out)
        try:
            end = time.monotonic() + START_S
            while not answers(base, path):
                if process.poll() is not None or time.monotonic() > end:
                    out.seek(0)
                    raise RuntimeError(f"{command} did not start: {out.read()}")
                time.sleep(0.1)
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(90)


def answers(base: str, path: str) -> bool:
    """Whether a GET is answered with 200."""

    async def once() -> bool:
        connection = await wire.connect(base)
        try:
            return (await asyncio.wait_for(connection.ask(wire.get(path)), 5))[0] == 200
        finally:
            connection.close()

    try:
        return asyncio.run(once())
    except (OSError, TimeoutError):
        return False


def processes(home: Path, title: str) -> list[Path]:
    """The /proc folders of a server's processes whose command line holds ``title``."""
    sign = f"TOLLAMA_HOME={home}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        # A process may end while it is looked at.
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ") if entry.name.isdigit() else b""
            if title.encode() in line and sign in (entry / "environ").read_bytes().split(b"\0"):
                found.append(entry)
    return found


def wait_until_gone(served: Server, family: str) -> None:
    """Until a family has no process. Raises RuntimeError after a minute."""
    assert served.home is not None
    end = time.monotonic() + GONE_S
    while True:
        held = processes(served.home, f"ServeReplica:tollama:{family}")
        if not held and asyncio.run(_families(served.door))[family] == "idle":
            return
        if time.monotonic() > end:
            raise RuntimeError(f"the process of {family} is still there after {GONE_S:g} s")
        time.sleep(0.05)


async def _families(base: str) -> dict[str, str]:
    connection = await wire.connect(base)
    try:
        _, body = await connection.ask(wire.get("/health/ready"))
    finally:
        connection.close()
    found: dict[str, str] = json.loads(body)["checks"]["families"]
    return found


def processor_seconds(process: Path) -> float:
    """Processor time that a process has used, user and system."""
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
