"""Requests that a web page sends through a browser: only the server's own pages and those of allowed origins are heard,
by both ways in; and a server on loopback answers to the names of its machine only."""

from __future__ import annotations

import json
from socket import gethostname

import httpx
import pytest

from tests.contract.checks import refused
from tests.hub import LoopbackHub
from tests.serving import ORIGIN, request

NAME = "chronos-bolt-mini"
ELSEWHERE = "https://elsewhere.example"


def own(api: httpx.Client) -> str:
    """The origin of the server's own pages."""
    return str(api.base_url).rstrip("/")


@pytest.mark.parametrize("origin", [ELSEWHERE, "null", "http://127.0.0.1:9", f"{ORIGIN}.elsewhere.example", ""])
def test_a_page_of_another_origin_cannot_have_a_model_pulled(api: httpx.Client, hub: LoopbackHub, origin: str) -> None:
    before = len(hub.requests)
    # What fetch() sends with mode "no-cors": a browser asks nobody before such a request.
    body = json.dumps({"model": NAME, "endpoint": hub.url, "no_runtime": True, "stream": False})
    headers = {"Origin": origin or f"{own(api)}0", "Content-Type": "text/plain;charset=UTF-8"}
    found = refused(api.post("/api/pull", content=body, headers=headers), 403, "FORBIDDEN")
    assert "cors_origins" in found["hint"]
    assert len(hub.requests) == before
    assert api.get(f"/v1/models/{NAME}").json()["installed"] is False


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/v1/health"), ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/nothing"),
     ("DELETE", "/v1/models/narrow"), ("POST", "/v1/models/narrow/load"), ("OPTIONS", "/v1/forecast")],
)  # fmt: skip
def test_no_route_hears_it(api: httpx.Client, method: str, path: str) -> None:
    headers = {"Origin": ELSEWHERE, "Access-Control-Request-Method": "POST", "X-Request-ID": "mine-2"}
    answer = api.request(method, path, headers=headers)
    refused(answer, 403, "FORBIDDEN")
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers.get_list("x-request-id") == ["mine-2"]
    assert "elsewhere" not in answer.text


def test_what_the_browser_says_of_the_page_counts(api: httpx.Client) -> None:
    for site, status in (("same-origin", 200), ("same-site", 403), ("cross-site", 403)):
        # As behind a reverse proxy that asks for 127.0.0.1 in place of the name it was asked for.
        headers = {"Origin": "https://forecast.example", "Sec-Fetch-Site": site}
        assert api.post("/v1/forecast", json=request(), headers=headers).status_code == status


def test_the_servers_own_pages_and_those_allowed_are_heard(api: httpx.Client) -> None:
    for origin in (own(api), own(api).upper(), ORIGIN):
        assert api.post("/v1/forecast", json=request(), headers={"Origin": origin}).status_code == 200
    assert api.get("/docs").status_code == 200


@pytest.mark.parametrize(
    "host", ["elsewhere.example", "elsewhere.example:11435", "127.0.0.1.elsewhere.example", "localhost.example",
             "10.0.0.7", "0.0.0.0:11435", "[fe80::1]:11435", "notlocalhost"],
)  # fmt: skip
def test_a_name_that_was_made_to_lead_here_is_refused(api: httpx.Client, host: str) -> None:
    for path in ("/api/tags", "/v1/health"):
        found = refused(api.get(path, headers={"Host": host}), 403, "FORBIDDEN")
        assert "localhost" in found["hint"]
    refused(api.get("/api/tags", headers={"Host": host, "Origin": f"http://{host}"}), 403, "FORBIDDEN")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.8.8.8:80", "[::1]:11435", "[::1]", "app.localhost:3000",
             "localhost.", "host.docker.internal:11435", "box.local", gethostname()],
)  # fmt: skip
def test_names_of_this_machine(api: httpx.Client, host: str) -> None:
    assert api.get("/api/tags", headers={"Host": host}).status_code == 200
    assert api.get("/api/tags", headers={"Host": host, "Origin": f"http://{host}"}).status_code == 200
