"""What the contract tests share: the one shape of errors, and NDJSON."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx

from tests.serving import request

ERROR_KEYS = {"error", "code", "detail", "hint"}


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The body of an error answer: this status and code, the one shape, nothing of the server's inside."""
    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["content-type"].startswith("application/json")
    body = shaped(answer.json())
    assert body["code"] == code, body
    return body


def shaped(body: dict[str, Any]) -> dict[str, Any]:
    """``body`` if it is an error in the one shape."""
    assert set(body) == ERROR_KEYS, body
    assert isinstance(body["error"], str)
    assert body["error"].endswith((".", "?"))
    assert isinstance(body["hint"], str)
    text = json.dumps(body)
    assert "Traceback" not in text
    assert "/tmp/" not in text
    return body


def locs(body: dict[str, Any]) -> set[tuple[Any, ...]]:
    """Where the faults of an INVALID_REQUEST are; each entry is exactly loc, msg and type."""
    assert all(set(fault) == {"loc", "msg", "type"} for fault in body["detail"]), body
    return {tuple(fault["loc"]) for fault in body["detail"]}


def lines(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    """The NDJSON lines of a streamed answer, as they arrive."""
    assert answer.status_code == 200, answer.read()
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    for line in answer.iter_lines():
        yield json.loads(line)


def until(stream: Iterator[dict[str, Any]], status: str) -> dict[str, Any]:
    """The first line with this status; those before are passed over."""
    return next(line for line in stream if line.get("status") == status)


@contextlib.contextmanager
def busy(api: httpx.Client, seconds: float) -> Iterator[None]:
    """The model works for so long; the work has begun."""
    with api.stream("POST", "/api/forecast", json=request(options={"delay_s": seconds}, timeout=60)) as answer:
        stream = lines(answer)
        until(stream, "running forecast")
        yield
        assert list(stream)[-1]["done"] is True
