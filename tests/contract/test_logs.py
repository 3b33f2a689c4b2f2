"""The log: lines of every process under the request's id; and no secret in it, nor anywhere else that is shown."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx

from tests.serving import PLANTED, TOLLAMA, Server, request, series, wait_for
from tollama.keys import made

HIDDEN = "Zq9-hidden-word"
HUB_TOKEN = "hf_" + "Zq9hiddenZq9hidden"
API_KEY = made("unused")[0]
SECRETS = (HIDDEN, HUB_TOKEN, API_KEY, PLANTED)


def lines(server: Server, process: str, request_id: str) -> list[dict[str, Any]]:
    """What the processes of a kind have written about a request."""
    found = []
    for path in (server.home / "logs/serve").glob(f"*{process}*.log"):
        for line in path.read_text().splitlines():
            one = json.loads(line)
            if request_id in one.get("request_id", "").split(","):
                found.append(one)
    return found


def without_process(server: Server) -> None:
    """Have the family's process end, so that the next request starts one."""
    for held in server.ps():
        server.post(f"/v1/models/{held['name']}/unload", {})
    wait_for(lambda: not server.processes("ServeReplica:tollama:mock"), 60, "the end of the family's process")


def messages(server: Server, process: str, request_id: str) -> str:
    return "\n".join(line["message"] for line in lines(server, process, request_id))


def test_a_request_is_followed_through_every_process(api: httpx.Client, server: Server) -> None:
    without_process(server)
    known = f"followed-{api.base_url.port}"
    answer = api.post("/v1/forecast", json=request(options={"fail": "raise"}), headers={"X-Request-ID": known})
    assert answer.status_code == 502
    wait_for(lambda: "RUNNER_FAILED" in messages(server, "ingress", known), 5, "the ingress's line")
    assert "a process of the family mock was started for the request" in messages(server, "ingress", known)
    family = messages(server, "mock", known)
    assert "model mock loaded in " in family
    assert "the request asked for it" in json.dumps(lines(server, "mock", known)), "the cause, that no client is told"
    told = lines(server, "mock", known)[0]
    assert {"asctime", "levelname", "message", "deployment", "replica", "request_id"} <= set(told)


def scalings(server: Server) -> list[str]:
    """What Serve's controller has written about the number of the family's processes: whence and whither."""
    found = []
    for path in (server.home / "logs/serve").glob("controller_*.log"):
        for line in path.read_text().splitlines():
            told = json.loads(line)["message"]
            if scaled := re.match(r"(?:Up|Down)scaling Deployment\(name='mock', .*?(from \d+ to \d+) replicas", told):
                found.append(scaled[1])
    return found


def test_a_family_that_starts_and_goes_is_told_by_the_controller(server: Server) -> None:
    without_process(server)
    before = len(scalings(server))
    assert server.forecast(keep_alive=0).status_code == 200
    wait_for(lambda: scalings(server)[before:] == ["from 0 to 1"], 5, "the line of scaling up")
    without_process(server)
    wait_for(lambda: scalings(server)[before:] == ["from 0 to 1", "from 1 to 0"], 5, "the line of scaling down")


def test_an_unload_is_told(api: httpx.Client, server: Server) -> None:
    known = f"gone-{api.base_url.port}"
    answer = api.post("/v1/forecast", json=request(keep_alive=0), headers={"X-Request-ID": known})
    assert answer.status_code == 200
    wait_for(lambda: "model mock unloaded" in messages(server, "mock", known), 5, "the line")


def test_a_pull_is_told(api: httpx.Client, server: Server) -> None:
    known = f"pull-{api.base_url.port}"
    body = {"name": "chronos-bolt-tiny", "no_runtime": True, "revision": "f" * 40, "stream": False}
    assert api.post("/v1/models/pull", json=body, headers={"X-Request-ID": known}).status_code >= 400
    told = messages(server, "ingress", known)
    assert "pulling the model chronos-bolt-tiny" in told
    assert "pull of the model chronos-bolt-tiny: " in told


def shown(server: Server) -> Iterator[tuple[str, str]]:
    """Everything that the product shows: pages, the output of commands, logs."""
    yield "/api/info", server.get("/api/info").text
    environment = {**server.environment, "TOLLAMA_API_KEY": API_KEY, "TOLLAMA_HF_TOKEN": HUB_TOKEN}
    environment["TOLLAMA_HF_ENDPOINT"] = f"http://user:{HIDDEN}@127.0.0.1:9"
    for arguments in (
        ["info"],
        ["info", "--json"],
        ["doctor", "--quick"],
        ["doctor", "--quick", "--json"],
        ["config", "list"],
        ["config", "list", "--json"],
        ["config", "get", "hf_token"],
        ["config", "get", "hf_endpoint", "--json"],
        ["config", "key", "list"],
        ["pull", "chronos-bolt-tiny", "--no-runtime"],
    ):
        command = [str(TOLLAMA), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        yield " ".join(arguments), done.stdout + done.stderr
    for path in (server.home / "logs").rglob("*.log"):
        yield path.name, path.read_text(errors="replace")


def test_no_secret_comes_out(api: httpx.Client, server: Server) -> None:
    answers = []
    for hidden in SECRETS:
        for name in (f"token={hidden}", f"https://user:{hidden}@hub.example", f"Bearer {hidden}"):
            bad = series(name, target=[None, None], freq="D")
            answers.append(api.post("/v1/forecast", json=request(series=[bad])))
            answers.append(api.post("/v1/forecast", json=request(series=[series(f"fail {name}")], options=ITEM)))
            answers.append(api.get(f"/v1/{hidden}", headers={"X-Request-ID": "planted"}))
        answers.append(api.post("/v1/forecast", json=request(), headers={"Authorization": f"Bearer {hidden}"}))
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 400, 404, 502}
    seen = [("an answer", answer.text) for answer in answers]
    masked = dict(shown(server))
    for where, what in [*seen, *masked.items()]:
        for hidden in SECRETS:
            assert hidden not in what, where
    assert "[redacted]" in masked["/api/info"]
    assert "[redacted]" in masked["config get hf_token"]


ITEM = {"fail": "item"}
