"""Faults stay where they happen: killed and hung processes, poisonous models, full queues, clients that leave."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from deployments.slot import PATIENCE_S
from tests.graph.conftest import Faults, restarts
from tests.serving import Server, request, series, wait_for

FAULTY = "ServeReplica:tollama:faulty"
MOCK = "ServeReplica:tollama:mock"


@contextmanager
def load(server: Server, clients: int, **changes: Any) -> Iterator[list[httpx.Response | Exception]]:
    """So many clients that ask one after the other while the block runs; what they got, in order of arrival."""
    answers: list[httpx.Response | Exception] = []
    over = threading.Event()

    def client() -> None:
        with httpx.Client(base_url=server.door, timeout=60, trust_env=False) as http:
            while not over.is_set():
                try:
                    answers.append(http.post("/v1/forecast", json=request(**changes)))
                except httpx.HTTPError as error:
                    answers.append(error)
                    time.sleep(0.02)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join(90)


def codes(answers: list[httpx.Response | Exception]) -> dict[str, int]:
    """How often each outcome was met."""
    found: dict[str, int] = {}
    for answer in answers:
        if isinstance(answer, httpx.Response):
            told = "ok" if answer.status_code == 200 else f"{answer.status_code} {answer.json()['code']}"
        else:
            told = type(answer).__name__
        found[told] = found.get(told, 0) + 1
    return found


def test_a_replica_killed_under_load_fails_what_it_computed_and_nothing_else(faulty: Server) -> None:
    assert faulty.forecast(keep_alive="1m").status_code == 200
    with load(faulty, 8, options={"delay_s": 0.05}) as answers:
        wait_for(lambda: len(answers) > 20)
        (pid,) = faulty.processes(MOCK)
        os.kill(pid, signal.SIGKILL)
        killed, before = time.monotonic(), len(answers)
        wait_for(lambda: sum(isinstance(a, httpx.Response) and a.status_code == 200 for a in answers[before:]) > 8)
        print(f"answers again after {time.monotonic() - killed:.2f} s")
        wait_for(lambda: len(answers) > before + 40)
    outcomes = codes(answers)
    assert set(outcomes) <= {"ok", "502 RUNNER_FAILED"}, outcomes
    assert outcomes.get("502 RUNNER_FAILED", 0) <= 8, "at most one per client"


def test_what_only_waited_in_a_killed_process_is_asked_again(faulty: Server) -> None:
    assert faulty.forecast(keep_alive="1m").status_code == 200
    with ThreadPoolExecutor(2) as pool:
        computed = pool.submit(faulty.forecast, options={"delay_s": 20.0})
        wait_for(lambda: any(model["in_use"] for model in faulty.ps() if model["name"] == "mock"))
        waiting = pool.submit(faulty.forecast, horizon=5, options={"delay_s": 0.0})
        wait_for(lambda: any(model["in_use"] > 1 for model in faulty.ps() if model["name"] == "mock"))
        (pid,) = faulty.processes(MOCK)
        os.kill(pid, signal.SIGKILL)
        assert computed.result(60).status_code == 502
        assert computed.result().json()["code"] == "RUNNER_FAILED"
        assert waiting.result(60).status_code == 200, waiting.result().text


def test_a_model_that_kills_its_process_is_held_back_alone_and_comes_back(faulty: Server, faults: Faults) -> None:
    faults(load_faulty_a="kill")

    def ask(model: str) -> httpx.Response:
        return faulty.forecast(model=model)

    for _ in range(2):
        assert (ask("faulty-a").status_code, ask("faulty-b").status_code) == (502, 200)
    assert ask("faulty-a").status_code == 502
    held = ask("faulty-a")
    assert (held.status_code, held.json()["code"]) == (503, "RUNNER_UNAVAILABLE"), held.text
    assert "3 times" in held.json()["error"]
    assert int(held.headers["Retry-After"]) >= 1
    assert ask("faulty-b").status_code == 200
    assert faulty.forecast().status_code == 200
    faults(load_faulty_a=None)
    wait_for(lambda: ask("faulty-a").status_code == 200, 60, "the model's recovery")
    assert ask("faulty-a").status_code == 200


def test_a_call_that_hangs_is_504_in_time_and_its_replica_is_replaced(faulty: Server, faults: Faults) -> None:
    assert faulty.forecast(model="faulty-b", keep_alive="1m").status_code == 200
    (before,) = faulty.processes(FAULTY)
    ended = restarts(faulty, "faulty", "hang")
    faults(forecast_faulty_b_hangs="hang")
    asked = time.monotonic()
    answer = faulty.forecast(model="faulty-b", series=[series("hangs")], timeout=3)
    took = time.monotonic() - asked
    assert (answer.status_code, answer.json()["code"]) == (504, "DEADLINE_EXCEEDED")
    assert 3 <= took < 3.3
    assert faulty.forecast(model="faulty-b", timeout=60).status_code == 200, "asked again of the new process"
    wait_for(lambda: before not in faulty.processes(FAULTY), 30, "the end of the hung process")
    wait_for(lambda: restarts(faulty, "faulty", "hang") == ended + 1, 10, "the count of its end")


def test_a_load_that_hangs_is_told_each_in_time_however_many_ask(faulty: Server, faults: Faults) -> None:
    assert faulty.forecast(model="faulty-b", keep_alive="1m").status_code == 200
    assert faulty.post("/v1/models/faulty-a/unload", {}).status_code == 200
    (before,) = faulty.processes(FAULTY)
    faults(load_faulty_a="hang")
    with load(faulty, 3, model="faulty-a", timeout=2) as answers:
        wait_for(lambda: before not in faulty.processes(FAULTY), 70, "the end of the hung process")
        faults(load_faulty_a=None)
    outcomes = codes(answers)
    assert outcomes.pop("504 DEADLINE_EXCEEDED") >= 3
    # Those that wait when it ends are told at once; one or two may have come after that.
    assert set(outcomes) <= {"502 RUNNER_FAILED", "503 RUNNER_UNAVAILABLE", "ok"}, outcomes
    late = [one for one in answers if isinstance(one, httpx.Response) and one.elapsed.total_seconds() > 4]
    assert late == []
    assert faulty.forecast(model="faulty-b", timeout=60).status_code == 200
    wait_for(lambda: faulty.forecast(model="faulty-a").status_code == 200, 60, "the model's recovery")


def test_other_families_are_served_while_one_hangs_and_wait_for_it_once(faulty: Server, faults: Faults) -> None:
    for model in ("seasonal-naive", "faulty-b"):
        warm = faulty.forecast(model=model, keep_alive="5m")
        assert warm.status_code == 200, warm.text
    faults(forecast_faulty_b_hangs="hang")
    with ThreadPoolExecutor(1) as pool:
        hung = pool.submit(faulty.forecast, model="faulty-b", series=[series("hangs")], timeout=30)
        wait_for(lambda: any(model["in_use"] for model in faulty.ps() if model["name"] == "faulty-b"))
        answers = [faulty.forecast(model="seasonal-naive", keep_alive="5m") for _ in range(3)]
        assert not hung.done()
        assert hung.result(60).status_code == 504
    assert [answer.status_code for answer in answers] == [200] * 3
    *others, longest = sorted(answer.elapsed.total_seconds() for answer in answers)
    assert longest > 0.9 * PATIENCE_S, "the call that hangs has the slot"
    assert others[-1] < 0.5 * PATIENCE_S


def test_a_model_expires_in_time_beside_a_call_that_is_computed(faulty: Server, faults: Faults) -> None:
    assert faulty.forecast(model="faulty-b", keep_alive="5m").status_code == 200
    faults(forecast_faulty_b_takes="6")
    with ThreadPoolExecutor(1) as pool:
        assert faulty.forecast(model="faulty-a", keep_alive=1).status_code == 200
        used = time.monotonic()
        running = pool.submit(faulty.forecast, model="faulty-b", series=[series("takes")])
        wait_for(lambda: all(model["name"] != "faulty-a" for model in faulty.ps()), 10, "the expiry of faulty-a")
        assert time.monotonic() - used < 3
        assert not running.done()
        assert running.result(60).status_code == 200


def test_a_bad_answer_or_exception_is_that_requests_alone(faulty: Server, faults: Faults) -> None:
    faults(forecast_faulty_a_bad="this series cannot be forecast")
    with ThreadPoolExecutor(12) as pool:
        asked: list[Future[httpx.Response]] = [
            pool.submit(faulty.forecast, model="faulty-a", series=[series("bad" if i == 5 else f"good {i}")])
            for i in range(12)
        ]
        statuses = [future.result(60).status_code for future in asked]
    assert statuses == [502 if i == 5 else 200 for i in range(12)]
    assert "this series cannot be forecast" not in asked[5].result().text, "the log has it"


def test_a_full_queue_says_so_at_once(faulty: Server) -> None:
    assert faulty.forecast(keep_alive="1m").status_code == 200
    with ThreadPoolExecutor(60) as pool:
        asked = [pool.submit(faulty.forecast, horizon=1 + i % 7, options={"delay_s": 0.3}) for i in range(60)]
        answers = [future.result(120) for future in asked]
    full = [answer for answer in answers if answer.status_code == 503]
    assert full, "60 at once are more than the queue holds"
    for answer in full:
        assert (answer.json()["code"], answer.headers["Retry-After"]) == ("QUEUE_FULL", "1")
        assert answer.elapsed.total_seconds() < 2
    assert {answer.status_code for answer in answers} == {200, 503}


def test_the_work_of_clients_who_left_is_dropped(faulty: Server) -> None:
    assert faulty.forecast(keep_alive="1m").status_code == 200

    def leave(i: int) -> None:
        body = request(horizon=i + 1, options={"delay_s": 1.5})
        with httpx.Client(trust_env=False) as http, pytest.raises(httpx.ReadTimeout):
            http.post(f"{faulty.door}/v1/forecast", json=body, timeout=1.0)

    with ThreadPoolExecutor(20) as pool:
        for future in [pool.submit(leave, i) for i in range(20)]:
            future.result(30)
    # Twenty calls of 1.5 s would take 30 s.
    assert faulty.forecast(timeout=12).status_code == 200


def test_health_and_ps_stay_quick_while_processes_die(faulty: Server) -> None:
    assert faulty.forecast(keep_alive="1m").status_code == 200
    took: dict[str, list[float]] = {"/v1/health": [], "/api/ps": []}
    with load(faulty, 4, options={"delay_s": 0.05}) as answers, httpx.Client(base_url=faulty.door) as http:
        for _ in range(2):
            (pid,) = wait_for(lambda: faulty.processes(MOCK), 30)
            os.kill(pid, signal.SIGKILL)
            before = len(answers)
            while len(answers) < before + 30:
                for path, times in took.items():
                    start = time.monotonic()
                    assert http.get(path, timeout=10).status_code == 200
                    times.append(time.monotonic() - start)
    for path, times in took.items():
        assert sorted(times)[len(times) // 2] < 1.0, (path, max(times))
