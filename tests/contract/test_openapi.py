"""The schema that clients are made from."""

from __future__ import annotations

import httpx
import pytest

from deployments.ingress.guard import OPEN
from tollama import contract
from tollama.errors import http_table
from tollama.protocols.ollama import GenerateRequest

COMPONENTS = (
    "ForecastRequest",
    "ForecastResponse",
    "SeriesInput",
    "SeriesForecast",
    "LoadRequest",
    "LoadResponse",
)


def test_the_types_have_their_names(api: httpx.Client) -> None:
    schemas = api.get("/openapi.json").json()["components"]["schemas"]
    for name in COMPONENTS:
        assert set(schemas[name]["properties"]) == set(getattr(contract, name).model_fields)
    assert set(schemas["GenerateRequest"]["properties"]) == set(GenerateRequest.model_fields)
    assert set(schemas["ErrorBody"]["properties"]) == {"error", "code", "detail", "hint"}
    assert not {"HTTPValidationError", "ValidationError"} & set(schemas)


@pytest.mark.parametrize("path", ["/v1/forecast", "/api/forecast"])
def test_forecast_routes_take_and_give_them(api: httpx.Client, path: str) -> None:
    operation = api.get("/openapi.json").json()["paths"][path]["post"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/ForecastRequest"}
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer == {"$ref": "#/components/schemas/ForecastResponse"}
    given = {code: error.status for code, error in http_table().items()}
    assert {str(status) for status in given.values()} <= set(operation["responses"])


@pytest.mark.parametrize(
    ("path", "body", "required"),
    [
        ("/api/generate", "GenerateRequest", True),
        ("/v1/models/{name}/load", "LoadRequest", False),
        ("/v1/models/{name}/unload", None, False),
    ],
)
def test_routes_that_load_and_unload(api: httpx.Client, path: str, body: str | None, required: bool) -> None:
    operation = api.get("/openapi.json").json()["paths"][path]["post"]
    if body is None:
        assert "requestBody" not in operation
    else:
        assert operation["requestBody"] == {
            "required": required,
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{body}"}}},
        }
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer == {"$ref": "#/components/schemas/LoadResponse"}
    assert [one["name"] for one in operation.get("parameters", [])] == (["name"] if "{name}" in path else [])
    assert {"404", "409", "503", "504"} <= set(operation["responses"])


def test_there_is_no_422(api: httpx.Client) -> None:
    paths = api.get("/openapi.json").json()["paths"]
    responses = {
        (path, status) for path, item in paths.items() for verb in item.values() for status in verb["responses"]
    }
    assert not {one for one in responses if one[1] == "422"}
    assert ("/v1/models/pull", "400") in responses
    assert ("/v1/models/{name}", "404") in responses


def test_who_is_refused_where(api: httpx.Client) -> None:
    paths = api.get("/openapi.json").json()["paths"]
    for path, item in paths.items():
        for operation in item.values():
            assert "FORBIDDEN" in operation["responses"]["403"]["description"]
            assert ("401" in operation["responses"]) is (path not in OPEN), path


def test_every_reference_resolves(api: httpx.Client) -> None:
    schema = api.get("/openapi.json").json()

    def walk(value: object) -> None:
        if isinstance(value, dict):
            if isinstance(reference := value.get("$ref"), str):
                found: object = schema
                for part in reference.removeprefix("#/").split("/"):
                    assert isinstance(found, dict)
                    found = found[part]
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(schema)


def test_docs_are_there(api: httpx.Client) -> None:
    assert api.get("/docs").status_code == 200
