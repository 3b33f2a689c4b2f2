"""Every error of the ingress in the one shape of the contract."""

from __future__ import annotations

import logging
import uuid
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from deployments.ingress.families import Gone
from tollama.contract import faults
from tollama.errors import Internal, InvalidRequest, MethodNotAllowed, NotFound, TollamaError

logger = logging.getLogger("ray.serve")


def request_id(request: Request) -> str:
    """The id under which the log speaks of this request: the client's, or one of ours."""
    known = getattr(request.state, "request_id", None)
    if known is None:
        sent = request.headers.get("x-request-id", "")
        known = sent if 0 < len(sent) <= 128 and sent.isprintable() else uuid.uuid4().hex
        request.state.request_id = known
    return str(known)


def response(error: TollamaError, request: Request) -> JSONResponse:
    """The HTTP answer for an error of ours."""
    headers = error.headers()
    if getattr(request.state, "door", False):  # Serve's proxy adds the header by itself
        headers["X-Request-ID"] = request_id(request)
    return JSONResponse(body(error, request), error.status, headers)


def body(error: TollamaError, request: Request) -> dict[str, Any]:
    """The error as JSON; a fault of ours carries the request id."""
    if isinstance(error, Internal) and error.detail is None:
        error.detail = {"request_id": request_id(request)}
    return error.record.body()


def internal(error: BaseException, request: Request) -> Internal:
    """A fault of ours: the cause goes to the log, the request id to the client."""
    logger.error("request %s failed", request_id(request), exc_info=error)
    return Internal("The server failed on this request.", detail={"request_id": request_id(request)})


def install(app: FastAPI) -> None:
    """Hang the handlers on the application."""

    async def ours(request: Request, error: Any) -> Response:
        return response(error, request)

    async def gone(request: Request, error: Any) -> Response:
        return Response(status_code=499)

    async def http(request: Request, error: Any) -> Response:
        where = f"{request.method} {request.url.path[:100]}"
        if error.status_code == 405:
            answer = response(MethodNotAllowed(f"{where}: this route does not take that method."), request)
            answer.headers.update(error.headers or {})
            return answer
        if error.status_code == 404:
            return response(NotFound(f"{where}: there is no such route."), request)
        return response(InvalidRequest(str(error.detail)), request)

    async def shape(request: Request, error: Any) -> Response:
        found = faults(error) if isinstance(error, ValidationError) else [dict(e) for e in error.errors()]
        listed = [{"loc": list(e["loc"]), "msg": e["msg"], "type": e["type"]} for e in found]
        return response(InvalidRequest("The request is not valid.", detail=listed), request)

    async def bug(request: Request, error: Exception) -> Response:
        return response(internal(error, request), request)

    app.add_exception_handler(TollamaError, ours)
    app.add_exception_handler(Gone, gone)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, shape)
    app.add_exception_handler(Exception, bug)
