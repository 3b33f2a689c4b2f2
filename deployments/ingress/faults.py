"""Every error of the ingress in the one shape of the contract."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from deployments.ingress.outcomes import Gone
from tollama.contract import faults
from tollama.errors import (
    Internal,
    InvalidRequest,
    LicenseNotAccepted,
    MethodNotAllowed,
    NotFound,
    QueueFull,
    TollamaError,
)
from tollama.redaction import redacted

logger = logging.getLogger("ray.serve")


def request_id(request: Request) -> str:
    """The id under which the log speaks of this request: the client's, or one of ours."""
    return str(request.state.request_id)


def response(error: TollamaError, request: Request) -> JSONResponse:
    """The HTTP answer for an error of ours."""
    return JSONResponse(body(error, request), error.status, error.headers())


def body(error: TollamaError, request: Request) -> dict[str, Any]:
    """The error as JSON, secrets masked; a fault of ours carries the request id."""
    if error.status >= 500 and not isinstance(error, QueueFull):  # a full queue is counted, and told to many
        logger.warning("%s answered %s: %s", request.url.path[:100], error.code, error)
    if isinstance(error, Internal) and error.detail is None:
        error.detail = {"request_id": request_id(request)}
    return masked(error.record.body())


def masked(body: dict[str, Any]) -> dict[str, Any]:
    """An error's JSON, secrets masked; the text of a licence is public, and is accepted word for word."""
    shown: dict[str, Any] = redacted(body)
    terms = body.get("detail")
    if body.get("code") == LicenseNotAccepted.code and isinstance(terms, dict) and "text" in terms:
        shown["detail"]["text"] = terms["text"]
    return shown


def internal(error: BaseException, request: Request) -> Internal:
    """A fault of ours: the cause goes to the log, the request id to the client."""
    logger.error("the request failed", exc_info=error)
    return Internal("The server failed on this request.", detail={"request_id": request_id(request)})


def install(app: FastAPI) -> None:
    """Hang the handlers on the application."""

    async def ours(request: Request, error: Any) -> Response:
        return response(error, request)

    async def gone(request: Request, error: Any) -> Response:
        return Response(status_code=499)

    async def http(request: Request, error: Any) -> Response:
        if error.status_code == 405:
            answer = response(MethodNotAllowed("This route does not take that method."), request)
            answer.headers.update(error.headers or {})
            return answer
        if error.status_code == 404:
            return response(NotFound("There is no such route."), request)
        return response(InvalidRequest(str(error.detail)), request)

    async def shape(request: Request, error: Any) -> Response:
        found = faults(error) if isinstance(error, ValidationError) else [dict(e) for e in error.errors()]
        listed = [{"loc": list(e["loc"]), "msg": e["msg"], "type": e["type"]} for e in found]
        return response(InvalidRequest("The request is not valid.", detail=listed), request)

    async def bug(request: Request, error: Exception) -> Response:
        answer = response(internal(error, request), request)
        if getattr(request.state, "door", False):  # Starlette sends this one past the layer that adds the header
            answer.headers["X-Request-ID"] = request_id(request)
        return answer

    app.add_exception_handler(TollamaError, ours)
    app.add_exception_handler(Gone, gone)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, shape)
    app.add_exception_handler(Exception, bug)
