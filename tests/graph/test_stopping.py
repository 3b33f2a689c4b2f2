"""How a server goes: what is in flight is answered, and nothing is left. And how it serves where others reach it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.serving import Server, request, wait_for
from tollama.keys import made


def refuses(port: int) -> bool:
    """Whether a new connection is refused."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def abandoned() -> set[str]:
    """What lies in shared memory and no process has open: left behind by one that is gone."""
    held = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            held |= set(re.findall(r"/dev/shm/(\S+)", (process / "maps").read_text()))
            held |= {os.path.basename(os.readlink(one)) for one in (process / "fd").iterdir()}
    return set(os.listdir("/dev/shm")) - held


def drains(server: Server, number: signal.Signals) -> None:
    """The signal stops the server: what is in flight is answered, a new connection refused, and nothing is left."""
    before = abandoned()
    assert server.forecast().status_code == 200
    answers: list[httpx.Response] = []
    slow = threading.Thread(target=lambda: answers.append(server.forecast(options={"delay_s": 6.0})))
    slow.start()
    wait_for(lambda: any(model["in_use"] for model in server.ps() if model["name"] == "mock"))
    assert server.process is not None
    server.process.send_signal(number)
    wait_for(lambda: refuses(server.port), 5, "the end of new connections")
    assert slow.is_alive(), "its call is still under way"
    assert server.process.wait(60) == 0
    slow.join(30)
    assert answers[0].status_code == 200, answers[0].text
    assert server.processes("") == []
    assert abandoned() <= before
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", server.port))


@pytest.fixture(scope="module")
def closing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that the tests stop, each in its own way."""
    with Server(tmp_path_factory.mktemp("closing")) as running:
        yield running


def test_sigterm_answers_what_is_in_flight_and_leaves_nothing(closing: Server) -> None:
    drains(closing, signal.SIGTERM)


@pytest.fixture(scope="module")
def opened(closing: Server) -> Server:
    """The same on the same home once more, at every address of the machine, for who has its key; its clients do."""
    closing.stop()
    key = made("opened")[0]
    closing.environment |= {"TOLLAMA_HOST": "0.0.0.0", "TOLLAMA_API_KEYS": key}
    closing.http.headers["Authorization"] = f"Bearer {key}"
    return closing.__enter__()


def test_beyond_loopback_it_serves_who_has_a_key_and_nobody_else(opened: Server) -> None:
    for port in (opened.port, opened.proxy_port):
        base = f"http://127.0.0.2:{port}"  # a server on 127.0.0.1 is not there
        for headers in ({}, {"Authorization": "Bearer tlm_of-somebody-else"}):
            answer = httpx.post(f"{base}/v1/forecast", json=request(), headers=headers, timeout=60, trust_env=False)
            assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHORIZED")
            assert httpx.get(f"{base}/metrics", headers=headers, trust_env=False).status_code == 401
        assert opened.forecast(base).status_code == 200
        assert httpx.get(f"{base}/health/live", trust_env=False).json() == {"status": "ok"}


def test_sigint_answers_what_is_in_flight_and_leaves_nothing(opened: Server) -> None:
    drains(opened, signal.SIGINT)
