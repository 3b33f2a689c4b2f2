"""A real server for tests: ``tollama serve`` as a process, on free ports, with a home of its own."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

CHECKOUT = Path(__file__).resolve().parent.parent
RUNTIMES = Path(os.environ.get("TOLLAMA_RUNTIMES_DIR") or CHECKOUT / ".runtimes").resolve()
TOLLAMA = Path(sys.executable).with_name("tollama")
START_S = 240.0
PLANTED = "Zq9-planted-word"
"""A secret in the environment of the session's server."""
ORIGIN = "https://app.example"
"""Whose web pages may ask the session's server."""


def free_port() -> int:
    """A port that nobody uses at this moment; below those that the kernel, and so Ray, hands out by itself."""
    while True:
        port = random.randint(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_for(condition: Callable[[], Any], seconds: float = 30.0, what: str = "the condition") -> Any:
    """The first true value of ``condition``; fails the test when there is none in time."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come true within {seconds:g} s")
        time.sleep(0.02)


class Server:
    """``with Server(home) as server:`` starts it, waits until it is ready, and stops it at the end."""

    def __init__(self, home: Path, command: list[str] | None = None, **environment: str) -> None:
        self.home = home
        self.port, self.proxy_port = free_port(), free_port()
        self.command = command or [str(TOLLAMA), "serve", "--no-dashboard"]
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("TOLLAMA_", "RAY_", "HF_"))},
            "TOLLAMA_HOME": str(home),
            "TOLLAMA_PORT": str(self.port),
            "TOLLAMA_PROXY_PORT": str(self.proxy_port),
            "TOLLAMA_RUNTIMES_DIR": str(RUNTIMES),
            **environment,
        }
        self.cwd: Path | None = None
        self.http = httpx.Client(verify=False, trust_env=False)  # a TLS context would cost 25 ms a request
        self.process: subprocess.Popen[str] | None = None

    @property
    def runtimes(self) -> Path:
        return Path(self.environment["TOLLAMA_RUNTIMES_DIR"])

    @property
    def door(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def proxy(self) -> str:
        return f"http://127.0.0.1:{self.proxy_port}"

    def __enter__(self) -> Server:
        self.home.mkdir(parents=True, exist_ok=True)
        self.out = self.home / "stdout.txt"
        with open(self.out, "w") as out:
            self.process = subprocess.Popen(
                self.command, env=self.environment, cwd=self.cwd, stdout=out, stderr=out, text=True
            )
        try:
            wait_for(self._ready, START_S, "the server's first answer")
        except BaseException:
            self.stop()
            raise
        return self

    def _ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended: {self.out.read_text()}")
        try:
            return self.http.get(f"{self.door}/health/ready", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, number: int = signal.SIGINT) -> int:
        """Stop it and wait; the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(45)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        return int(self.process.returncode)

    def post(self, path: str, body: Any, base: str | None = None, **options: Any) -> httpx.Response:
        """POST a JSON body; a long timeout, since a cold start is part of a request."""
        options.setdefault("timeout", 120)
        if isinstance(body, bytes):
            return self.http.post(f"{base or self.door}{path}", content=body, **options)
        return self.http.post(f"{base or self.door}{path}", json=body, **options)

    def get(self, path: str, base: str | None = None, **options: Any) -> httpx.Response:
        options.setdefault("timeout", 60)
        return self.http.get(f"{base or self.door}{path}", **options)

    def forecast(self, base: str | None = None, **changes: Any) -> httpx.Response:
        """A small request to the mock model, with changes."""
        return self.post("/v1/forecast", request(**changes), base)

    def ps(self) -> list[Mapping[str, Any]]:
        return list(self.get("/api/ps").json()["models"])

    def processes(self, title: str) -> list[int]:
        """The ids of this server's processes whose command line holds ``title``."""
        sign = f"TOLLAMA_HOME={self.home}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if title in line and sign in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found


def series(name: str = "a", n: int = 24, **changes: Any) -> dict[str, Any]:
    """A monthly series with a trend."""
    return {"id": name, "target": [float(10 + i) for i in range(n)], "start": "2021-01-01", "freq": "MS", **changes}


def request(**changes: Any) -> dict[str, Any]:
    """A small forecast request to the mock model."""
    return {"model": "mock", "horizon": 3, "series": [series()], **changes}
