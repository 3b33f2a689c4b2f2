"""What the docs take from the code is the code's, and every page that they point to is there."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from deployments.app import DoorArgs, FamilyArgs, GraphArgs, IngressArgs
from docs import compatibility, generate
from tests.serving import CHECKOUT, Server

DOCS = CHECKOUT / "docs"
PAGES = [CHECKOUT / "README.md", *DOCS.glob("*.md"), *(CHECKOUT / "examples").glob("*.md")]


def test_generated_pages_are_not_stale() -> None:
    stale = [path.name for path, text in generate.pages().items() if path.read_text() != text]
    assert not stale, "run: make docs"


def test_what_breaks_clients_is_noted() -> None:
    assert compatibility.unnoted(compatibility.released(), generate.schema()) == []


def test_the_newest_released_schema_is_compared_with_and_one_there_must_be(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no openapi-VERSION\.json"):
        compatibility.released(tmp_path)
    for version in ("0.9.0", "0.10.0", "0.2.0"):
        (tmp_path / f"openapi-{version}.json").write_text(json.dumps({"info": {"version": version}}))
    (tmp_path / "openapi.json").write_text("{}")
    assert compatibility.released(tmp_path) == {"info": {"version": "0.10.0"}}


def test_renewing_the_docs_moves_no_released_schema_and_stops_at_a_break(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not [path for path in generate.pages() if re.match(r"openapi-", path.name)]
    written: list[Path] = []
    monkeypatch.setattr(Path, "write_text", lambda path, text: written.append(path))
    told = copy.deepcopy(generate.schema())
    told["paths"]["/v1/more"] = {"get": {"responses": {"200": {"description": "It was there."}}}}
    monkeypatch.setattr(compatibility, "released", lambda: told)
    assert generate.main() == 1
    assert written == []


def test_every_argument_of_the_graph_is_in_the_docs() -> None:
    page = (DOCS / "settings.md").read_text()
    for above, model in (
        ("", GraphArgs),
        ("door.", DoorArgs),
        ("ingress.", IngressArgs),
        ("families.NAME.", FamilyArgs),
    ):
        for name, field in model.model_fields.items():
            assert field.description, name
            assert re.search(rf"^\| `{above}{name}` \| .+ \| .* \| {re.escape(field.description)} \|$", page, re.M), (
                name
            )
    assert "`float32`, `bfloat16`, `auto`" in page


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


def small() -> dict[str, Any]:
    """A schema of one route: a parameter, a body, two answers."""
    limit = {"name": "limit", "in": "query", "required": False, "schema": {"type": "integer", "maximum": 100}}
    fields = {"name": {"type": "string"}, "many": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}
    asked = {"type": "object", "properties": fields, "required": ["name"]}
    given = {"type": "object", "properties": {"done": {"type": "boolean"}}, "required": ["done"]}
    operation = {
        "parameters": [limit],
        "requestBody": {"required": True, "content": {"application/json": {"schema": asked}}},
        "responses": {
            "200": {"description": "Done.", "content": {"application/json": {"schema": given}}},
            "404": {"description": "NOT_FOUND, REVISION_NOT_FOUND"},
        },
    }
    return {"paths": {"/things": {"post": operation}}}


def parts(schema: Any) -> tuple[Any, Any, Any, Any]:
    """The operation, its parameter's list, and what is asked and given."""
    operation = schema["paths"]["/things"]["post"]
    asked = operation["requestBody"]["content"]["application/json"]["schema"]
    given = operation["responses"]["200"]["content"]["application/json"]["schema"]
    return operation, operation["parameters"], asked, given


AT = "POST /things"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda o, p, asked, given: asked["properties"].pop("many"), f"{AT}.many is gone"),
        (lambda o, p, asked, given: given["properties"].pop("done"), f"{AT}.done is gone"),
        (
            lambda o, p, asked, given: asked["properties"]["many"]["anyOf"].pop(),
            f"{AT}.many: null is no longer taken",
        ),
        (
            lambda o, p, asked, given: given["properties"]["done"].update(type="string"),
            f"{AT}.done: string is no longer the only kind",
        ),
        (lambda o, p, asked, given: o["responses"].pop("404"), f"{AT} no longer answers 404"),
        (
            lambda o, p, asked, given: o["responses"]["404"].update(description="NOT_FOUND"),
            f"{AT} no longer answers 404 REVISION_NOT_FOUND",
        ),
        (lambda o, p, asked, given: p.clear(), f"{AT} no longer takes the parameter limit"),
        (lambda o, p, asked, given: p[0].update({"in": "header"}), f"{AT} no longer takes the parameter limit"),
        (lambda o, p, asked, given: p[0].update(required=True), f"{AT} needs the parameter limit"),
        (lambda o, p, asked, given: p[0]["schema"].update(maximum=10), f"{AT} parameter limit: maximum is 10"),
        (
            lambda o, p, asked, given: p[0]["schema"].update(type="boolean"),
            f"{AT} parameter limit: integer is no longer taken",
        ),
        (
            lambda o, p, asked, given: p.append(
                {"name": "who", "in": "header", "required": True, "schema": {"type": "string"}}
            ),
            f"{AT} needs the parameter who",
        ),
        (lambda o, p, asked, given: asked["required"].append("many"), f"{AT}.many is required"),
        (
            lambda o, p, asked, given: asked.update(
                properties=asked["properties"] | {"why": {"type": "string"}}, required=["name", "why"]
            ),
            f"{AT}.why is required",
        ),
    ],
)
def test_each_kind_of_break_is_told_in_one_line(change: Any, told: str) -> None:
    old, new = small(), small()
    change(*parts(new))
    assert compatibility.breaks(old, new) == [told]


def test_more_of_a_made_up_schema_is_no_break() -> None:
    old, new = small(), small()
    operation, parameters, asked, given = parts(new)
    parameters[0]["schema"]["maximum"] = 200
    parameters.append({"name": "more", "in": "query", "required": False, "schema": {"type": "string"}})
    asked["properties"]["why"] = {"type": "string"}
    given["properties"]["at"] = {"type": "string"}
    operation["responses"]["409"] = {"description": "LICENSE_NOT_ACCEPTED"}
    assert compatibility.breaks(old, new) == []
