"""How a server ends that is not given the time to: nothing of it is left, and its logs are kept."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from pathlib import Path

import httpx
import pytest

from tests.serving import TOLLAMA, Server, request, series, wait_for


class OnIPv6(Server):
    """A server on the IPv6 loopback."""

    @property
    def door(self) -> str:
        return f"http://[::1]:{self.port}"


def semaphores(server: Server) -> set[Path]:
    """The named semaphores in memory that processes of the server have open."""
    found = set()
    for pid in server.processes(""):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
            found |= {Path(line.split()[-1]) for line in lines if "/dev/shm/sem.mp-" in line}
    return found


def test_signals_again_end_it_at_once(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """With a request that would take a minute, on IPv6, and Ray in a folder of the user's."""
    ray = Path(tmp_path_factory.getbasetemp().parent / f"r{tmp_path.name[-1]}")  # a short path, for Ray's sockets
    ray.mkdir(exist_ok=True)
    (ray / "mine").touch()
    with OnIPv6(tmp_path / "home", TOLLAMA_HOST="::1", RAY_TMPDIR=str(ray)) as server:
        assert server.process is not None
        assert f"tollama is ready at {server.door}\n" in wait_for(
            lambda: (text := server.out.read_text()).count("Ctrl-C") and text, 30, "the announcement"
        )
        told = subprocess.run([TOLLAMA, "ps", "--json"], env=server.environment, capture_output=True, text=True)
        assert told.stdout == "[]\n", told.stderr
        panel = [series(str(n), n=200) for n in range(500)]
        assert server.post("/v1/forecast", request(series=panel)).status_code == 200
        held = semaphores(server)
        assert len(held) > 1, "of the ingress's second process"

        def ask() -> None:
            with contextlib.suppress(httpx.HTTPError):
                server.forecast(options={"delay_s": 60.0})

        slow = threading.Thread(target=ask)
        slow.start()
        wait_for(lambda: any(model["in_use"] for model in server.ps()), 30, "the slow request")
        server.process.send_signal(signal.SIGINT)
        wait_for(lambda: "Again to stop at once" in server.out.read_text(), 10, "the drain")
        server.process.send_signal(signal.SIGTERM)
        log = server.home / "logs/serve.log"
        wait_for(lambda: "KeyboardInterrupt" in log.read_text(), 20, "the end of the drain")
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(20) == 0
        slow.join(30)
        assert server.processes("") == []
        assert not [path for path in held if path.exists()]
        assert (server.home / "logs/last-run/gcs_server.out").exists()
        assert (ray / "mine").exists()
        assert not list(ray.glob("ray/session_2*"))


def test_a_launcher_that_is_killed_takes_the_server_with_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Server(home) as server:
        assert server.forecast().status_code == 200
        assert server.process is not None
        server.process.kill()
        wait_for(lambda: not server.processes(""), 60, "the end of every process")
    with Server(home) as server:
        assert server.forecast().status_code == 200
        assert (home / "logs/last-run/gcs_server.out").exists(), "of the run before"
