"""Who hears web pages: a server that other machines reach answers by any name, one of everybody's to all pages."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from deployments.ingress.guard import Keys
from deployments.ingress.pages import Pages
from tollama import keys
from tollama.settings import Settings

BOX = (b"host", b"box.example:8000")
PAGE = (b"origin", b"https://elsewhere.example")


def status(headers: list[tuple[bytes, bytes]], *, near: bool = True, **settings: Any) -> int:
    """What a request with these headers is answered."""
    answers: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        answers.append(200)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answers.append(message["status"])

    known = Settings(**settings)
    layer = Pages(app, known.cors_origins, near, Keys(known))
    scope = {"type": "http", "method": "GET", "path": "/", "headers": headers, "state": {}, "query_string": b""}
    asyncio.run(layer(scope, lambda: None, send))  # type: ignore[arg-type, return-value]
    (answer,) = answers
    return answer


def test_beyond_this_machine_any_name_is_one_of_the_servers() -> None:
    assert [status([BOX], near=near) for near in (False, True)] == [200, 403]
    assert status([BOX, (b"origin", b"http://box.example:8000")], near=False) == 200
    assert status([BOX, PAGE], near=False) == 403


def test_with_a_key_the_name_is_not_looked_at() -> None:
    assert status([BOX], api_keys=(keys.made("a")[1],)) == 200


def test_a_request_without_a_host_is_no_browsers() -> None:
    assert status([]) == 200
    assert status([(b"origin", b"http://")]) == 403


@pytest.mark.parametrize(("origins", "answer"), [("*", 200), ("https://a.example, https://elsewhere.example", 200),
                                                 ("https://a.example", 403), ("", 403)])  # fmt: skip
def test_allowed_origins(origins: str, answer: int) -> None:
    assert status([(b"host", b"localhost:1"), PAGE], cors_origins=origins) == answer
