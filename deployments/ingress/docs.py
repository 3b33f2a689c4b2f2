"""What ``/openapi.json`` says of a route whose body we parse ourselves: the pydantic types by their own names."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from tollama.contract import ErrorBody
from tollama.errors import http_table
from tollama.version import __version__

REF = "#/components/schemas/{model}"
_models: dict[str, type[BaseModel]] = {"ErrorBody": ErrorBody}


def _content(model: type[BaseModel]) -> dict[str, Any]:
    _models[model.__name__] = model
    return {"application/json": {"schema": {"$ref": REF.format(model=model.__name__)}}}


def described(body: type[BaseModel] | None = None, answer: type[BaseModel] | None = None) -> dict[str, Any]:
    """Keyword arguments of a route: its body's and its answer's schema."""
    extra: dict[str, Any] = {}
    if body is not None:
        extra["requestBody"] = {"required": True, "content": _content(body)}
    responses: dict[int | str, dict[str, Any]] = {}
    if answer is not None:
        responses[200] = {"description": "The answer.", "content": _content(answer)}
    return {"openapi_extra": extra, "responses": responses, "response_model": None}


def install(app: FastAPI) -> None:
    """Make the schema once, on the first call, with the error statuses that each route can give."""

    def schema() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title="tollama", version=__version__, routes=app.routes, description=app.description)
            _, definitions = models_json_schema([(model, "validation") for model in _models.values()], ref_template=REF)
            components = made.setdefault("components", {}).setdefault("schemas", {})
            components |= definitions.get("$defs", {})
            for name in ("HTTPValidationError", "ValidationError"):
                components.pop(name, None)
            for path in made["paths"].values():
                for operation in path.values():
                    _errors(operation["responses"], has_body="requestBody" in operation)
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = schema  # type: ignore[method-assign]


def _errors(responses: dict[str, Any], *, has_body: bool) -> None:
    responses.pop("422", None)
    codes: dict[int, list[str]] = {}
    for code, error in http_table().items():
        codes.setdefault(error.status, []).append(code)
    for status, names in sorted(codes.items()):
        if has_body or status in (401, 404, 405, 500):
            responses[str(status)] = {"description": ", ".join(names), "content": _content(ErrorBody)}
