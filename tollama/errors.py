"""Everything that can go wrong, as one tree, and the one table from it to HTTP.

TollamaError
├── RequestError                 the request itself is at fault
│   ├── InvalidRequest       400 INVALID_REQUEST
│   ├── InvalidSeries        400 INVALID_SERIES
│   ├── UnsupportedByModel   400 UNSUPPORTED_BY_MODEL
│   ├── Unauthorized         401 UNAUTHORIZED
│   ├── Forbidden            403 FORBIDDEN
│   ├── NotFound             404 NOT_FOUND
│   ├── MethodNotAllowed     405 METHOD_NOT_ALLOWED
│   └── RequestTooLarge      413 REQUEST_TOO_LARGE
├── ModelError                   the model cannot be used as things stand
│   ├── ModelNotFound        404 MODEL_NOT_FOUND
│   ├── ModelNotInstalled    404 MODEL_NOT_INSTALLED
│   └── LicenseNotAccepted   409 LICENSE_NOT_ACCEPTED
├── RunnerError                  the family that should answer did not
│   ├── RunnerFailed         502 RUNNER_FAILED
│   ├── RunnerUnavailable    503 RUNNER_UNAVAILABLE
│   ├── QueueFull            503 QUEUE_FULL
│   └── DeadlineExceeded     504 DEADLINE_EXCEEDED
├── PullError                    the hub or the disk failed; nothing is half-installed
│   ├── UnsupportedRepository 400 UNSUPPORTED_REPOSITORY
│   ├── RevisionNotFound     404 REVISION_NOT_FOUND
│   ├── HubError             502 HUB_ERROR
│   ├── HubUnauthorized      502 HUB_UNAUTHORIZED
│   ├── DigestMismatch       502 DIGEST_MISMATCH
│   ├── HubUnavailable       503 HUB_UNAVAILABLE
│   ├── Offline              503 OFFLINE
│   └── DiskFull             507 DISK_FULL
├── ConfigError                  a setting or a file of ours is malformed; never sent over HTTP
├── ServerUnreachable            no server answers a client; never sent over HTTP
└── Internal                 500 INTERNAL
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

DETAIL_CAP = 100
"""Entries of ``detail`` that a client is sent; the number of the rest is told."""


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """An error as data: the JSON shape of every error answer, and how one crosses processes."""

    error: str
    code: str
    detail: Any = None
    hint: str = ""

    def body(self) -> dict[str, Any]:
        """The JSON object that a client gets; a long ``detail`` list is cut and says so."""
        detail = self.detail
        if isinstance(detail, (list, tuple)) and len(detail) > DETAIL_CAP:
            rest = len(detail) - DETAIL_CAP
            detail = [*detail[:DETAIL_CAP], f"... and {rest} more"]
        return {"error": self.error, "code": self.code, "detail": detail, "hint": self.hint}


class TollamaError(Exception):
    """Base of the tree. ``str(error)`` is one sentence for the client: no path, no input echo."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "INTERNAL"
    default_hint: ClassVar[str] = ""

    def __init__(
        self,
        message: str,
        *,
        detail: Any = None,
        hint: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.detail = detail
        self.hint = self.default_hint if hint is None else hint
        self.request_id = request_id
        self.retry_after = retry_after

    @property
    def record(self) -> ErrorRecord:
        """This error as plain data."""
        return ErrorRecord(str(self), self.code, self.detail, self.hint)

    def headers(self) -> dict[str, str]:
        """HTTP headers that belong to this error."""
        if self.retry_after is not None:
            return {"Retry-After": str(max(1, round(self.retry_after)))}
        return {}


class RequestError(TollamaError):
    """The request itself is at fault."""


class InvalidRequest(RequestError):
    """The body is not JSON or breaks the schema."""

    status = 400
    code = "INVALID_REQUEST"
    default_hint = "Correct the fields listed in detail; the schema is at /openapi.json."


class InvalidSeries(RequestError):
    """A series' timestamps, lengths, covariates or frequency are at fault.

    ``series_id`` and ``index`` (of the offending value) say where; ``hint`` says the fix.
    """

    status = 400
    code = "INVALID_SERIES"

    def __init__(
        self,
        message: str,
        *,
        series_id: str | None = None,
        index: int | None = None,
        field: str | None = None,
        **more: Any,
    ) -> None:
        where = {"series": series_id, "field": field, "index": index}
        more.setdefault("detail", {k: v for k, v in where.items() if v is not None} or None)
        super().__init__(message, **more)
        self.series_id = series_id
        self.index = index
        self.field = field


class UnsupportedByModel(RequestError):
    """The model's capabilities do not cover what is asked."""

    status = 400
    code = "UNSUPPORTED_BY_MODEL"
    default_hint = "GET /v1/models/{name}/capabilities tells what this model takes."


class Unauthorized(RequestError):
    """API keys are configured and none, or another, was sent."""

    status = 401
    code = "UNAUTHORIZED"
    default_hint = "Put one into TOLLAMA_API_KEY; other clients send it in the Authorization header, scheme Bearer."

    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class Forbidden(RequestError):
    """A web page of another origin asks, or the server is called by a name that is not its machine's."""

    status = 403
    code = "FORBIDDEN"


class NotFound(RequestError):
    """No such route."""

    status = 404
    code = "NOT_FOUND"
    default_hint = "The routes are listed at /docs."


class MethodNotAllowed(RequestError):
    """The route exists, for another method."""

    status = 405
    code = "METHOD_NOT_ALLOWED"
    default_hint = "The routes and their methods are listed at /docs."


class RequestTooLarge(RequestError):
    """The decoded body is over the limit."""

    status = 413
    code = "REQUEST_TOO_LARGE"
    default_hint = "Send fewer series per request, or raise TOLLAMA_MAX_BODY_MB on the server."


class ModelError(TollamaError):
    """The model cannot be used as things stand."""


class ModelNotFound(ModelError):
    """No model of that name is known."""

    status = 404
    code = "MODEL_NOT_FOUND"
    default_hint = "tollama list --available shows the known models."


class ModelNotInstalled(ModelError):
    """The model is known but was not pulled."""

    status = 404
    code = "MODEL_NOT_INSTALLED"


class LicenseNotAccepted(ModelError):
    """The licence needs acceptance and there is no receipt of one."""

    status = 409
    code = "LICENSE_NOT_ACCEPTED"


class RunnerError(TollamaError):
    """The family that should answer did not."""


class RunnerFailed(RunnerError):
    """The family's code raised, died, or gave a malformed or non-finite result."""

    status = 502
    code = "RUNNER_FAILED"
    default_hint = "The server's log has the cause under the request id."


class RunnerUnavailable(RunnerError):
    """The family cannot start: runtime not installed or broken, crash-looping, no resources."""

    status = 503
    code = "RUNNER_UNAVAILABLE"


class QueueFull(RunnerError):
    """The family's queue is full."""

    status = 503
    code = "QUEUE_FULL"
    default_hint = "Try again after the seconds in Retry-After, or raise TOLLAMA_MAX_QUEUE."


class DeadlineExceeded(RunnerError):
    """The request's timeout ran out. Never retried by the server."""

    status = 504
    code = "DEADLINE_EXCEEDED"
    default_hint = "Raise 'timeout' in the request, or ask for less at once."


class PullError(TollamaError):
    """The hub or the disk failed; nothing is half-installed."""


class UnsupportedRepository(PullError):
    """The repository or folder holds no model that can be served: its architecture, or how its weights are stored."""

    status = 400
    code = "UNSUPPORTED_REPOSITORY"


class RevisionNotFound(PullError):
    """The repository or the revision is not on the hub."""

    status = 404
    code = "REVISION_NOT_FOUND"


class HubError(PullError):
    """The hub answered with a fault."""

    status = 502
    code = "HUB_ERROR"


class HubUnauthorized(PullError):
    """The repository is gated or private: a token, or access to be asked for."""

    status = 502
    code = "HUB_UNAUTHORIZED"
    default_hint = "Ask for access on the model's page and set HF_TOKEN."


class DigestMismatch(PullError):
    """A file is not what the hub said it would be."""

    status = 502
    code = "DIGEST_MISMATCH"
    default_hint = "Pull again; the damaged file was discarded."


class HubUnavailable(PullError):
    """The hub could not be reached."""

    status = 503
    code = "HUB_UNAVAILABLE"
    default_hint = "Check the network, HF_ENDPOINT and the proxy settings, then pull again."


class Offline(PullError):
    """The server is told to stay offline and the files are not here."""

    status = 503
    code = "OFFLINE"
    default_hint = "Pull once while connected, or without --offline."


class DiskFull(PullError):
    """There is no room for the model."""

    status = 507
    code = "DISK_FULL"
    default_hint = "Free some space, or move the store with TOLLAMA_HOME."


class ConfigError(TollamaError):
    """A setting or a file of ours is malformed; the program stops and names the line."""

    code = "CONFIG_ERROR"
    default_hint = "Correct it and try again; tollama doctor tells how things are."


class ServerUnreachable(TollamaError):
    """No server answers at the address that a client asks."""

    code = "SERVER_UNREACHABLE"
    default_hint = "Start one with: tollama serve"


class Internal(TollamaError):
    """A fault of ours; ``detail`` holds the request id."""

    status = 500
    code = "INTERNAL"
    default_hint = "Report it with the request id; the server's log has the cause."


def _leaves(cls: type[TollamaError]) -> Iterator[type[TollamaError]]:
    children = cls.__subclasses__()
    if not children:
        yield cls
    for child in children:
        yield from _leaves(child)


def http_table() -> dict[str, type[TollamaError]]:
    """Code -> class, for every error that HTTP can carry; the docs' table is made from it."""
    return {cls.code: cls for cls in _leaves(TollamaError) if cls not in (ConfigError, ServerUnreachable)}


def from_record(record: ErrorRecord) -> TollamaError:
    """The exception that ``record`` came from; an unknown code becomes ``Internal``."""
    cls = http_table().get(record.code, Internal)
    return cls(record.error, detail=record.detail, hint=record.hint)
