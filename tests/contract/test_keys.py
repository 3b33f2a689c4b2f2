"""API keys at the running server: made, asked for on every route by both ways in, revoked; and web pages of others."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import httpx
import pytest

from deployments.ingress.guard import OPEN
from tests.contract.checks import refused
from tests.serving import ORIGIN, TOLLAMA, Server, request, wait_for
from tollama import Client
from tollama.errors import Unauthorized

ELSEWHERE = "https://elsewhere.example"


def config(server: Server, *arguments: str) -> str:
    """``tollama config`` on the server's home; what it prints."""
    command = [str(TOLLAMA), "config", *arguments]
    done = subprocess.run(command, env=server.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def status(server: Server, key: str | None = None) -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return server.get("/api/version", headers=headers).status_code


@pytest.fixture(scope="module")
def key(server: Server) -> Iterator[str]:
    """A key that the running server has learnt of; afterwards it asks for none again."""
    made = config(server, "key", "add", "--name", "tests")
    try:
        wait_for(lambda: status(server) == 401, 5, "the key")
        yield made
    finally:
        config(server, "key", "revoke", "tests")
        wait_for(lambda: status(server) == 200, 5, "the end of the key")


def test_every_route_asks_for_a_key(key: str, api: httpx.Client) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    described = api.get("/openapi.json", headers=headers).json()["paths"]
    routes = [(verb, path) for path, verbs in described.items() for verb in verbs]
    assert len(routes) > 20
    more = [("get", path) for path in ("/metrics", "/docs", "/openapi.json", "/redoc", "/nothing", "/v1/health/")]
    for verb, path in [*routes, *more, ("options", "/v1/forecast")]:
        answer = api.request(verb, path.replace("{name}", "mock"))
        if path in OPEN:
            assert answer.status_code == 200
        elif verb == "head":
            assert answer.status_code == 401
        else:
            refused(answer, 401, "UNAUTHORIZED")
            assert answer.headers["www-authenticate"] == "Bearer"
    for path in ("/metrics", "/docs", "/api/tags", "/"):
        assert api.get(path, headers=headers).status_code == 200
    assert api.post("/v1/forecast", json=request(), headers=headers).status_code == 200


def test_probes_need_none_and_learn_little(key: str, api: httpx.Client) -> None:
    assert {path: api.get(path).status_code for path in OPEN} == dict.fromkeys(OPEN, 200)
    assert api.get("/health/ready").json() == {"status": "ready"}
    assert "families" in api.get("/health/ready", headers={"Authorization": f"Bearer {key}"}).json()["checks"]


@pytest.mark.parametrize(
    "sent", ["", "Bearer", "Bearer wrong", "Basic {}", "{}", "Bearer {}x", "Bearer x{}", "bearer: {}"]
)
def test_what_is_not_the_key(key: str, api: httpx.Client, sent: str) -> None:
    refused(api.get("/api/tags", headers={"Authorization": sent.format(key)}), 401, "UNAUTHORIZED")


def test_the_scheme_is_read_in_any_case(key: str, api: httpx.Client) -> None:
    assert api.get("/api/tags", headers={"Authorization": f"bearer {key}"}).status_code == 200


def test_the_client_and_the_command_line_send_it(key: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(server.door) as client, pytest.raises(Unauthorized) as told:
        client.tags()
    assert "TOLLAMA_API_KEY" in told.value.hint
    with Client(server.door, api_key=key) as client:
        assert client.tags()
    command = [str(TOLLAMA), "list", "--host", server.door]
    refused_ = subprocess.run(command, env=server.environment, capture_output=True, text=True)
    assert (refused_.returncode, "TOLLAMA_API_KEY" in refused_.stderr) == (1, True)
    done = subprocess.run(command, env={**server.environment, "TOLLAMA_API_KEY": key}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_another_key_counts_beside_it_until_it_is_revoked(key: str, server: Server) -> None:
    other = config(server, "key", "add", "--name", "other")
    wait_for(lambda: status(server, other) == 200, 5, "the second key")
    assert status(server, key) == 200
    config(server, "key", "revoke", "other")
    wait_for(lambda: status(server, other) == 401, 5, "the second key's end")
    assert status(server, key) == 200


def test_a_config_file_that_breaks_opens_nothing(key: str, server: Server) -> None:
    path = server.home / "config.json"
    whole = path.read_bytes()
    try:
        path.write_text('{"api_keys": [')
        logs = server.home / "logs/serve"
        wait_for(
            lambda: (
                status(server) == 401
                and any("the API keys stay as they were" in one.read_text() for one in logs.glob("*ingress*"))
            ),
            5,
            "the fault in the log",
        )
        assert status(server, key) == 200
    finally:
        path.write_bytes(whole)


def test_pages_of_an_allowed_origin_may_ask(key: str, api: httpx.Client) -> None:
    asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    answer = api.options("/v1/forecast", headers={"Origin": ORIGIN, **asking})
    assert answer.status_code == 200, "a browser sends no key with this question"
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "authorization" in answer.headers["access-control-allow-headers"].lower()
    answer = api.get("/api/tags", headers={"Origin": ORIGIN})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (401, ORIGIN)
    assert "x-request-id" in answer.headers["access-control-expose-headers"].lower()


def test_pages_of_any_other_may_not_even_with_the_key(key: str, api: httpx.Client) -> None:
    asking = {"Origin": ELSEWHERE, "Access-Control-Request-Method": "POST"}
    for headers in (asking, {**asking, "Authorization": f"Bearer {key}"}):
        for answer in (api.options("/v1/forecast", headers=headers), api.get("/v1/health", headers=headers)):
            refused(answer, 403, "FORBIDDEN")
            assert "access-control-allow-origin" not in answer.headers


def test_who_has_the_key_may_call_the_server_by_any_name(key: str, api: httpx.Client) -> None:
    # A reverse proxy on the same machine hands on the name that it was asked for.
    headers = {"Host": "forecast.example", "Authorization": f"Bearer {key}"}
    assert api.get("/api/tags", headers=headers).status_code == 200
    refused(api.get("/api/tags", headers={"Host": "forecast.example"}), 401, "UNAUTHORIZED")
    assert api.get("/health/ready", headers={"Host": "forecast.example"}).json() == {"status": "ready"}
