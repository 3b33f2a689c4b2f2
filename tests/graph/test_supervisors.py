"""The graph goes on without its parts: the ingress killed, Serve's controller killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from tests.serving import CHECKOUT, TOLLAMA, Server, request, wait_for

INGRESS = "ServeReplica:tollama:ingress"
CONTROLLER = "ServeController"
MOCK = "ServeReplica:tollama:mock"
LONGEST_AWAY_S = 5.0
"""It takes 1 to 2 s; this is for a machine that does other things as well."""
IMPORTS_S = 8.0


class Clients:
    """Clients that ask all the time, each request on a connection of its own."""

    def __init__(self, server: Server, number: int) -> None:
        self.ok = 0
        self.refused = 0
        self.lost = 0
        self.others: list[str] = []
        self._server = server
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(number)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(90)

    def _ask(self) -> None:
        while not self._over.is_set():
            try:
                answer = self._server.http.post(
                    f"{self._server.door}/v1/forecast", json=request(), timeout=60, headers={"Connection": "close"}
                )
                if answer.status_code == 200:
                    self.ok += 1
                else:
                    self.others.append(answer.text)
            except httpx.ConnectError:
                self.refused += 1
                time.sleep(0.02)
            except httpx.HTTPError:
                self.lost += 1


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of two ingress replicas, which share the one address."""
    folder = tmp_path_factory.mktemp("two")
    graph = yaml.safe_load((CHECKOUT / "serve_config.yaml").read_text())
    graph["applications"][0]["args"]["ingress"] = {"replicas": 2}
    (folder / "serve_config.yaml").write_text(yaml.safe_dump(graph))
    command = [str(TOLLAMA), "serve", "--no-dashboard", "--config", str(folder / "serve_config.yaml")]
    with Server(folder / "home", command, TOLLAMA_FAMILY_LINGER="2") as running:
        yield running


def doors(server: Server) -> int:
    """How many ingress replicas listen at the address."""
    found = psutil.net_connections("tcp")
    return sum(one.laddr.port == server.port and one.status == psutil.CONN_LISTEN for one in found if one.laddr)


def spares(server: Server) -> list[int]:
    """The processes that wait to be used, and have had the time to make their imports."""
    found = []
    for pid in server.processes("ray::IDLE"):
        with suppress(psutil.NoSuchProcess):
            if time.time() - psutil.Process(pid).create_time() > IMPORTS_S:
                found.append(pid)
    return found


def test_the_only_ingress_is_back_at_the_same_address(server: Server) -> None:
    assert server.forecast(keep_alive="1m").status_code == 200
    (mock,) = server.processes(MOCK)
    waiting = wait_for(lambda: spares(server), 60, "a process that waits to be the next ingress")
    with Clients(server, 4) as clients:
        wait_for(lambda: clients.ok > 20)
        (pid,) = server.processes(INGRESS)
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        wait_for(lambda: clients.refused + clients.lost > 0, 10, "the ingress's end")
        before = clients.ok
        wait_for(lambda: clients.ok > before, 30, "an answer of the new ingress")
        away = time.monotonic() - killed
        print(f"answers again after {away:.2f} s")
        assert away < LONGEST_AWAY_S
        wait_for(lambda: clients.ok > before + 20)
    assert clients.others == []
    assert server.processes(MOCK) == [mock], "families live on"
    (follower,) = server.processes(INGRESS)
    assert follower in waiting, "what had its imports done took over"
    for pid in (*server.processes(CONTROLLER), mock, follower):
        assert "/pandas/" not in Path(f"/proc/{pid}/maps").read_text(), "what nobody needs"
    wait_for(lambda: spares(server), 60, "the process after that one")
    assert {model["name"] for model in server.ps()} >= {"mock"}


def test_with_two_ingress_replicas_no_connection_is_refused(two: Server) -> None:
    assert two.forecast(keep_alive="1m").status_code == 200
    with Clients(two, 4) as clients:
        for _ in range(2):
            wait_for(lambda: doors(two) == 2, 60, "two ingress replicas")
            before = clients.ok
            wait_for(lambda before=before: clients.ok > before + 40)
            os.kill(two.processes(INGRESS)[0], signal.SIGKILL)
            before = clients.ok
            wait_for(lambda before=before: clients.ok > before + 40)
    assert (clients.refused, clients.others) == (0, [])
    assert clients.lost <= 2 * 4, "at most what each client had under way"


def test_traffic_goes_on_without_the_controller_and_scaling_comes_back(two: Server) -> None:
    wait_for(lambda: doors(two) == 2, 60, "two ingress replicas")
    assert two.forecast(keep_alive="1m").status_code == 200
    (pid,) = two.processes(CONTROLLER)
    replicas = {name: set(two.processes(name)) for name in (INGRESS, MOCK)}
    with Clients(two, 2) as clients:
        wait_for(lambda: clients.ok > 10)
        os.kill(pid, signal.SIGKILL)
        before = clients.ok
        wait_for(lambda: clients.ok > before + 100)
    assert (clients.refused, clients.lost, clients.others) == (0, 0, [])
    wait_for(lambda: (new := two.processes(CONTROLLER)) and new != [pid], 60, "a new controller")
    assert {model["name"] for model in two.ps()} == {"mock"}
    two.forecast(model="seasonal-naive", keep_alive=0)  # started by the new controller
    assert {name: set(two.processes(name)) for name in replicas} == replicas, "the replicas live on"
    two.forecast(keep_alive=0)
    wait_for(lambda: not two.processes(MOCK), 60, "the end of the family's process")
    assert two.ps() == []
    assert two.forecast().status_code == 200, "and up again"
