"""What ``/openapi.json`` says of a route whose body we parse ourselves: the pydantic types by their own names."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from tollama.contract import ErrorBody
from tollama.errors import http_table
from tollama.version import __version__

REF = "#/components/schemas/{model}"
_models: dict[str, type[BaseModel]] = {"ErrorBody": ErrorBody}
_operations: dict[str, dict[str, Any]] = {}

Endpoint = Callable[[Request], Awaitable[Response]]


def _content(model: type[BaseModel]) -> dict[str, Any]:
    _models[model.__name__] = model
    return {"application/json": {"schema": {"$ref": REF.format(model=model.__name__)}}}


def post(
    router: APIRouter,
    *paths: str,
    body: type[BaseModel] | None = None,
    answer: type[BaseModel] | None = None,
    optional: bool = False,
) -> Callable[[Endpoint], Endpoint]:
    """Decorates an endpoint that reads its own body: a plain route per path, and what the schema says of it.

    ``optional`` says that the body may be left out. Parameters in a path are texts.

    FastAPI's own routes resolve dependencies and validate what they return, about 0.1 ms that such an endpoint has no
    use for.
    """

    def add(endpoint: Endpoint) -> Endpoint:
        summary, _, text = inspect.cleandoc(endpoint.__doc__ or "").partition("\n")
        for path in paths:
            router.add_route(path, endpoint, methods=["POST"])
            answered = {"content": _content(answer)} if answer is not None else {}
            _operations[path] = {
                "tags": list(router.tags),
                "summary": summary,
                "description": text.strip() or summary,
                "operationId": f"post{re.sub('[^a-z0-9]+', '_', path).rstrip('_')}",
                "responses": {"200": {"description": "The answer.", **answered}},
            }
            if body is not None:
                _operations[path]["requestBody"] = {"required": not optional, "content": _content(body)}
            if named := re.findall(r"{(\w+)}", path):
                _operations[path]["parameters"] = [
                    {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in named
                ]
        return endpoint

    return add


def install(app: FastAPI) -> None:
    """Make the schema once, on the first call, with the error statuses that each route can give."""

    def schema() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title="tollama", version=__version__, routes=app.routes, description=app.description)
            _, definitions = models_json_schema([(model, "validation") for model in _models.values()], ref_template=REF)
            for path, operation in _operations.items():
                made["paths"].setdefault(path, {})["post"] = copy.deepcopy(operation)
            components = made.setdefault("components", {}).setdefault("schemas", {})
            components |= definitions.get("$defs", {})
            for name in ("HTTPValidationError", "ValidationError"):
                components.pop(name, None)
            for path in made["paths"].values():
                for verb, operation in path.items():
                    _errors(operation["responses"], every=verb == "post")
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = schema  # type: ignore[method-assign]


def _errors(responses: dict[str, Any], *, every: bool) -> None:
    responses.pop("422", None)
    codes: dict[int, list[str]] = {}
    for code, error in http_table().items():
        codes.setdefault(error.status, []).append(code)
    for status, names in sorted(codes.items()):
        if every or status in (401, 404, 405, 500):
            responses[str(status)] = {"description": ", ".join(names), "content": _content(ErrorBody)}
