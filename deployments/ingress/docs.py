"""What ``/openapi.json`` says of a route whose body we parse ourselves: the pydantic types by their own names."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from deployments.ingress.guard import OPEN
from tollama.contract import ErrorBody
from tollama.errors import Forbidden, Internal, ModelNotFound, ModelNotInstalled, TollamaError, Unauthorized, http_table
from tollama.version import __version__

KEY = "An API key, where the server has any: tollama config key add."
UNKNOWN = (ModelNotFound, ModelNotInstalled)
REF = "#/components/schemas/{model}"
_models: dict[str, type[BaseModel]] = {"ErrorBody": ErrorBody}
_operations: dict[tuple[str, str], dict[str, Any]] = {}
"""(path, verb) -> the operation."""

Endpoint = Callable[[Request], Awaitable[Response]]


def _content(model: type[BaseModel]) -> dict[str, Any]:
    _models[model.__name__] = model
    return {"application/json": {"schema": {"$ref": REF.format(model=model.__name__)}}}


def operation(
    verb: str,
    router: APIRouter,
    *paths: str,
    body: type[BaseModel] | None = None,
    answer: type[BaseModel] | None = None,
    lines: type[BaseModel] | None = None,
    optional: bool = False,
) -> Callable[[Endpoint], Endpoint]:
    """Decorates an endpoint that reads its own body: a plain route per path, and what the schema says of it.

    ``lines`` is what each line of a streamed answer is. ``optional`` says that the body may be left out. Parameters in
    a path are texts.

    FastAPI's own routes resolve dependencies and validate what they return, about 0.1 ms that such an endpoint has no
    use for.
    """

    def add(endpoint: Endpoint) -> Endpoint:
        summary, _, text = inspect.cleandoc(endpoint.__doc__ or "").partition("\n")
        for path in paths:
            router.add_route(path, endpoint, methods=[verb.upper()])
            content = _content(answer) if answer is not None else {}
            if lines is not None:
                content |= {"application/x-ndjson": _content(lines)["application/json"]}
            answered = {"content": content} if content else {}
            told: dict[str, Any] = {
                "tags": list(router.tags),
                "summary": summary,
                "description": text.strip() or summary,
                "operationId": f"{verb}{re.sub('[^a-z0-9]+', '_', path).rstrip('_')}",
                "responses": {"200": {"description": "The answer.", **answered}},
            }
            if body is not None:
                told["requestBody"] = {"required": not optional, "content": _content(body)}
            if named := re.findall(r"{(\w+)}", path):
                told["parameters"] = [
                    {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in named
                ]
            _operations[path, verb] = told
        return endpoint

    return add


post = partial(operation, "post")
delete = partial(operation, "delete")


def install(app: FastAPI) -> None:
    """Make the schema once, on the first call, with the error statuses that each route can give."""

    def schema() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title="tollama", version=__version__, routes=app.routes, description=app.description)
            _, definitions = models_json_schema([(model, "validation") for model in _models.values()], ref_template=REF)
            for (path, verb), told in _operations.items():
                made["paths"].setdefault(path, {})[verb] = copy.deepcopy(told)
            components = made.setdefault("components", {})
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": KEY}}
            made["security"] = [{}, {"key": []}]  # where the server has no keys, none is asked for
            schemas = components.setdefault("schemas", {})
            schemas |= definitions.get("$defs", {})
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            for path, item in made["paths"].items():
                for verb, told in item.items():
                    every = verb == "post" or "requestBody" in told
                    _errors(told["responses"], (TollamaError,) if every else _possible(path))
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = schema  # type: ignore[method-assign]


def _possible(path: str) -> tuple[type[TollamaError], ...]:
    """What can go wrong without a body: by who asks, a name in the path or a fault of ours."""
    asked = (Forbidden, Internal) if path in OPEN else (Unauthorized, Forbidden, Internal)
    return (*asked, *UNKNOWN) if "{name}" in path else asked


def _errors(responses: dict[str, Any], given: tuple[type[TollamaError], ...]) -> None:
    """Add the errors of these kinds, under their statuses."""
    responses.pop("422", None)
    codes: dict[int, list[str]] = {}
    for code, error in http_table().items():
        if issubclass(error, given):
            codes.setdefault(error.status, []).append(code)
    for status, names in sorted(codes.items()):
        if str(status) not in responses:
            responses[str(status)] = {"description": ", ".join(names), "content": _content(ErrorBody)}
