"""What the docs take from the code is the code's, and every page that they point to is there."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest

from docs import compatibility, generate
from tests.serving import CHECKOUT, Server

DOCS = CHECKOUT / "docs"
PAGES = [CHECKOUT / "README.md", *DOCS.glob("*.md"), *(CHECKOUT / "examples").glob("*.md")]


def test_generated_pages_are_not_stale() -> None:
    stale = [path.name for path, text in generate.pages().items() if path.read_text() != text]
    assert not stale, "run: make docs"


def test_what_breaks_clients_is_noted() -> None:
    assert compatibility.unnoted(json.loads(generate.OPENAPI.read_text()), generate.schema()) == []


def test_the_server_tells_the_schema_that_is_written_down(server: Server) -> None:
    assert server.get("/openapi.json").json() == json.loads(generate.OPENAPI.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Any) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]*)[^)]*\)", page.read_text()):
        assert not link or (page.parent / link).exists(), link


def changed(change: Any) -> list[str]:
    """The breaks that a change of the schema brings."""
    old = generate.schema()
    new = copy.deepcopy(old)
    change(new)
    return compatibility.breaks(old, new)


def types(schema: Any) -> Any:
    return schema["components"]["schemas"]


def post(schema: Any, path: str = "/v1/forecast") -> Any:
    return schema["paths"][path]["post"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s["paths"].pop("/api/ps"), "GET /api/ps is gone"),
        (lambda s: types(s)["Usage"]["properties"].pop("device"), "answer Usage.device is gone"),
        (lambda s: types(s)["SeriesInput"]["properties"].pop("start"), "request SeriesInput.start is gone"),
        (lambda s: types(s)["Usage"]["required"].remove("device"), "answer Usage.device may be missing"),
        (
            lambda s: types(s)["ForecastRequest"]["required"].append("options"),
            "request ForecastRequest.options is required",
        ),
        (
            lambda s: types(s)["ForecastRequest"]["properties"]["horizon"].update(maximum=10),
            "request ForecastRequest.horizon: maximum is 10",
        ),
        (
            lambda s: types(s)["SeriesInput"]["properties"]["start"].update(anyOf=[{"type": "string"}]),
            "request SeriesInput.start: null is no longer taken",
        ),
        (
            lambda s: types(s)["Usage"]["properties"]["horizon"].update(type="string"),
            "answer Usage.horizon: string is no longer the only kind",
        ),
        (
            lambda s: types(s)["Parameters"]["properties"]["covariates_mode"].update(enum=["strict"]),
            "request Parameters.covariates_mode: the value 'best_effort' is gone",
        ),
        (lambda s: post(s)["responses"].pop("504"), "POST /v1/forecast no longer answers 504"),
        (
            lambda s: post(s)["responses"]["503"].update(description="QUEUE_FULL"),
            "POST /v1/forecast no longer answers 503 RUNNER_UNAVAILABLE",
        ),
        (
            lambda s: post(s)["responses"]["200"]["content"].pop("application/x-ndjson"),
            "POST /v1/forecast no longer answers 200 as application/x-ndjson",
        ),
        (lambda s: post(s, "/v1/models/{name}/load")["requestBody"].update(required=True), "needs a body"),
    ],
)
def test_a_break_is_seen(change: Any, told: str) -> None:
    assert any(told in line for line in changed(change)), changed(change)


def test_what_is_added_is_no_break() -> None:
    def add(schema: Any) -> None:
        schema["paths"]["/v1/new"] = {"get": {"responses": {"200": {"description": "New."}}}}
        types(schema)["Usage"]["properties"]["joules"] = {"type": "number"}
        types(schema)["ForecastRequest"]["properties"]["colour"] = {"type": "string", "default": "red"}
        types(schema)["ForecastRequest"]["properties"]["horizon"]["maximum"] += 1
        post(schema)["responses"]["429"] = {"description": "SLOW_DOWN"}

    assert changed(add) == []
    assert changed(lambda schema: None) == []
