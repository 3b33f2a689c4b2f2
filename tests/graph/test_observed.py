"""What operators see, of a server with two ingress replicas and secrets in its settings, while its processes die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.serving import CHECKOUT, TOLLAMA, Server, request, wait_for

INGRESS = "ServeReplica:tollama:ingress"
MOCK = "ServeReplica:tollama:mock"
WORD = "S3cr3t-w0rd"
SLOWEST_S = 5.0
"""A page takes some 20 ms; this is for a machine on which processes start at the same time."""


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("watched")
    graph = yaml.safe_load((CHECKOUT / "serve_config.yaml").read_text())
    graph["applications"][0]["args"]["ingress"] = {"replicas": 2}
    (folder / "serve_config.yaml").write_text(yaml.safe_dump(graph))
    (folder / "home").mkdir()
    (folder / "home/config.json").write_text(json.dumps({"hf_endpoint": f"https://user:{WORD}@hub.example"}))
    command = [str(TOLLAMA), "serve", "--config", str(folder / "serve_config.yaml")]
    secrets = {"HF_TOKEN": WORD, "HTTPS_PROXY": f"http://user:{WORD}@proxy.example:3128", "RAY_OWN_PASSWORD": WORD}
    with Server(folder / "home", command, TOLLAMA_FAMILY_LINGER="60", TOLLAMA_LOG_LEVEL="DEBUG", **secrets) as running:
        wait_for(lambda: len(running.processes(INGRESS)) == 2, 60)
        yield running


def fresh(server: Server, path: str) -> httpx.Response:
    """An answer of either ingress replica: the kernel chooses one for each connection."""
    return server.get(path, headers={"Connection": "close"})


def page(server: Server) -> dict[str, float]:
    """``name{label="value",...}`` -> value."""
    start = time.monotonic()
    answer = fresh(server, "/metrics")
    assert answer.status_code == 200
    assert time.monotonic() - start < SLOWEST_S
    found = {}
    for family in parse(answer.text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def told(server: Server, message: str) -> list[dict[str, Any]]:
    """The lines of the ingress's log whose message begins so."""
    files = (server.home / "logs/serve").glob("*ingress*.log")
    lines = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    return [line for line in lines if line["message"].startswith(message)]


def info(server: Server) -> dict[str, Any]:
    start = time.monotonic()
    answer = fresh(server, "/api/info")
    assert answer.status_code == 200
    assert time.monotonic() - start < SLOWEST_S
    return dict(answer.json())


FORECASTS = 'tollama_requests_total{model="mock",route="/v1/forecast",status="200"}'
CRASHES = 'tollama_restarts_total{family="mock",reason="crash"}'


def forecasts(server: Server, number: int) -> None:
    for _ in range(number):
        answer = server.post("/v1/forecast", request(keep_alive="5m"), headers={"Connection": "close"})
        assert answer.status_code == 200, answer.text


def test_two_ingress_replicas_make_one_page(watched: Server) -> None:
    forecasts(watched, 20)
    assert {info(watched)["server"]["pid"] for _ in range(40)} == set(watched.processes(INGRESS)), "both are asked"
    assert {page(watched)[FORECASTS] for _ in range(10)} == {20}
    assert page(watched)['tollama_cold_starts_total{family="mock"}'] == 1
    assert page(watched)['tollama_load_seconds_count{model="mock"}'] == 1


def test_where_a_request_goes_is_told_at_the_debug_level_under_its_id(watched: Server) -> None:
    answer = watched.post("/v1/forecast", request(keep_alive="5m"), headers={"X-Request-ID": "routed-1"})
    assert answer.status_code == 200
    routed = "1 series go to the family mock for the model mock"
    (line,) = wait_for(lambda: [one for one in told(watched, routed) if one.get("request_id") == "routed-1"], 5)
    assert (line["levelname"], line["deployment"]) == ("DEBUG", "tollama_ingress")


def test_a_killed_ingress_takes_no_count_with_it(watched: Server) -> None:
    before = page(watched)[FORECASTS]
    killed = watched.processes(INGRESS)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: len(set(watched.processes(INGRESS)) - set(killed)) == 2, 60, "two new ingress replicas")
    wait_for(lambda: _answers(watched), 60, "their door")
    assert page(watched)[FORECASTS] == before
    forecasts(watched, 5)
    assert {page(watched)[FORECASTS] for _ in range(10)} == {before + 5}
    assert page(watched)['tollama_queue_depth{family="mock"}'] == 0
    gauges = [path.stem.rpartition("_")[2] for path in (watched.home / "run/metrics").glob("gauge_*.db")]
    assert not {str(pid) for pid in killed} & set(gauges), "nobody waits in a process that is gone"


def _answers(server: Server) -> bool:
    try:
        return fresh(server, "/health/live").status_code == 200
    except httpx.HTTPError:
        return False


def test_a_dead_family_is_counted_and_told_by_every_ingress_replica(watched: Server) -> None:
    forecasts(watched, 1)
    before = page(watched).get(CRASHES, 0.0)
    (pid,) = watched.processes(MOCK)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: page(watched)[CRASHES] == before + 1, 30, "the death on the page")
    wait_for(lambda: all((info(watched)["families"]["mock"]["last_death"]) for _ in range(5)), 30)
    family = info(watched)["families"]["mock"]
    assert family["last_death"]["reason"] == "crash"
    assert family["last_death"]["at"].startswith("20")
    assert family["restarts"] == {"crash": before + 1}
    lines = told(watched, "a process of the family mock ended (crash)")
    assert len(lines) == before + 1, "by the ingress that found it, and no other"
    assert {line["levelname"] for line in lines} == {"ERROR"}
    forecasts(watched, 1)
    wait_for(lambda: [one["pid"] for one in info(watched)["families"]["mock"]["replicas"]] != [pid], 30)


def test_a_stopped_process_holds_nobody_up(watched: Server) -> None:
    forecasts(watched, 1)
    (pid,) = wait_for(lambda: len(found := watched.processes(MOCK)) == 1 and found)  # one may still be leaving
    assert page(watched)['tollama_loaded_models{family="mock"}'] == 1
    os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(4):
            page(watched)
            assert set(info(watched)["families"]) >= {"mock", "baseline"}
    finally:
        os.kill(pid, signal.SIGCONT)
    forecasts(watched, 1)
    wait_for(lambda: info(watched)["families"]["mock"]["answers"])


def test_no_secret_is_told_by_the_server_or_the_command_line(watched: Server) -> None:
    for path in ("/api/info", "/v1/info", "/metrics"):
        assert WORD not in fresh(watched, path).text
    given = info(watched)
    assert given["environment"]["HF_TOKEN"] == given["environment"]["RAY_OWN_PASSWORD"] == "[redacted]"
    assert given["environment"]["HTTPS_PROXY"] == "http://[redacted]@proxy.example:3128"
    assert given["config"]["hf_token"] == {"value": "[redacted]", "source": "environment", "env": "TOLLAMA_HF_TOKEN"}
    assert given["config"]["hf_endpoint"]["value"] == "https://[redacted]@hub.example"
    assert given["config"]["hf_endpoint"]["source"] == "config"
    for arguments in (["info"], ["info", "--json"]):
        shown = command(watched, *arguments)
        assert WORD not in shown
        assert "proxy.example" in shown


def command(server: Server, *arguments: str) -> str:
    done = subprocess.run([TOLLAMA, *arguments], env=server.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_dashboards_address_and_token_open_it(watched: Server) -> None:
    url = f"{info(watched)['ray']['dashboard']}/api/serve/applications/"
    token = command(watched, "info", "--dashboard-token").strip()
    assert httpx.get(url, timeout=30).status_code == 401
    shown = httpx.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=30)
    assert "tollama" in shown.json()["applications"]
