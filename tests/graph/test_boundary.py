"""No request fails where a family goes to zero and comes back: many clients, short keep_alive, no linger."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.serving import Server, request, wait_for

CLIENTS = 8
BURST = 12
PAUSES = (0.3, 0.6, 0.9, 1.2, 1.4, 1.6, 1.8, 2.0, 2.3, 2.6, 3.0)
"""Seconds without a request between two bursts: of about the time that going to zero takes, so that requests meet every
stage of it."""
MOCK = "ServeReplica:tollama:mock"


@pytest.fixture(scope="module")
def restless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose families leave as soon as they hold nothing."""
    with Server(tmp_path_factory.mktemp("restless"), TOLLAMA_FAMILY_LINGER="0") as running:
        yield running


def test_no_request_fails_while_a_family_comes_and_goes(restless: Server) -> None:
    expected = restless.forecast(keep_alive=0).json()["forecasts"]
    failures: list[str] = []
    answered = 0
    cold = 0
    lock = threading.Lock()
    processes: set[int] = set()
    over = threading.Event()
    together = threading.Barrier(CLIENTS)

    def client(number: int) -> None:
        nonlocal answered, cold
        chance = random.Random(number)
        with httpx.Client(base_url=restless.door, timeout=90, trust_env=False) as http:
            for pause in PAUSES:
                together.wait(120)
                time.sleep(pause + chance.uniform(0, 0.2))
                for _ in range(BURST):
                    answer = http.post("/v1/forecast", json=request(keep_alive=chance.choice((0, 0.05, 0.2))))
                    with lock:
                        answered += 1
                        if answer.status_code != 200 or answer.json()["forecasts"] != expected:
                            failures.append(answer.text)
                        elif answer.json()["timing"]["model_load_ms"] > 0:
                            cold += 1

    def count() -> None:
        while not over.is_set():
            processes.update(restless.processes(MOCK))
            time.sleep(0.1)

    counting = threading.Thread(target=count)
    counting.start()
    clients = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join(240)
    over.set()
    counting.join()
    assert failures == []
    assert answered == CLIENTS * len(PAUSES) * BURST > 1000
    assert len(processes) > 1, "the boundary was never crossed"
    print(f"{answered} requests over {len(processes)} processes, {cold} loads")
    wait_for(lambda: not restless.processes(MOCK), 30, "the end of the family's process")
    assert restless.ps() == []
