"""The HTTP API as data: each call's request, and how its answer is read. Both clients share it; no connection here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from tollama.answers import Health, ModelDetail, ModelList, Readiness, Removed, Validation, Version
from tollama.capabilities import Capabilities
from tollama.contract import ForecastLine, ForecastRequest, ForecastResponse, LoadResponse
from tollama.errors import (
    DeadlineExceeded,
    ErrorRecord,
    InvalidRequest,
    ServerUnreachable,
    TollamaError,
    from_record,
)
from tollama.protocols.ollama import Processes, Running, Show, Status, Tag, Tags

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
Request = ForecastRequest | Mapping[str, Any]

CONNECT_TIMEOUT_S = 10.0
GRACE_S = 30.0
"""How much longer than a request's own deadline the client waits, so that the server's 504 gets through."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One HTTP request, and ``read``, which makes of the answer's JSON (of each line's, for a stream) what the caller
    gets. ``timeout`` is how long to wait for the server to say something, None for ever."""

    method: str
    path: str
    read: Callable[[Any], T]
    body: Any = None
    timeout: float | None = CONNECT_TIMEOUT_S + GRACE_S
    plain: bool = False
    """Whether the answer is text, not JSON."""
    also: int = 200
    """A status of 400 and above whose body may be the answer all the same."""

    def arguments(self) -> dict[str, Any]:
        """The request for httpx."""
        # json.dumps writes NaN, which the contract reads as a missing value; httpx's own json= refuses it.
        content = {} if self.body is None else {"content": json.dumps(self.body, separators=(",", ":"), default=_plain)}
        timeout = httpx.Timeout(self.timeout, connect=min(CONNECT_TIMEOUT_S, self.timeout or CONNECT_TIMEOUT_S))
        return {"method": self.method, "url": self.path, "timeout": timeout, **content}

    def answer(self, response: httpx.Response) -> T:
        """What the caller gets of a whole answer; raises the error that it holds."""
        failed = response.status_code >= 400
        if failed and (response.status_code != self.also or _record(_json(response.content)) is not None):
            raise_for(response)
        value = response.text if self.plain else _json(response.content)
        if value is None:
            raise TollamaError(
                f"The server at {response.request.url.host} did not answer in JSON.",
                hint="Check --host and TOLLAMA_HOST.",
            )
        return self.read(value)

    def line(self, line: str, response: httpx.Response) -> Iterator[T]:
        """What the caller gets of one line of a stream: nothing for an empty one; an error's is raised."""
        if not line.strip():
            return
        value = _json(line)
        if not isinstance(value, dict):
            raise TollamaError("The server broke off in the middle of its answer.", hint="Look at the server's log.")
        error = _record(value)
        if error is not None:
            error.request_id = response.headers.get("x-request-id")
            raise error
        yield self.read(value)


def _plain(value: Any) -> Any:
    """JSON of what has none by itself: numbers and arrays of numpy and pandas, times."""
    for method in ("tolist", "isoformat"):
        if hasattr(value, method):
            return getattr(value, method)()
    raise InvalidRequest(
        f"A {type(value).__name__} cannot be sent as JSON.", hint="Give numbers, texts, lists and mappings."
    )


def health() -> Call[Health]:
    return Call("GET", "/v1/health", _typed(Health))


def ready() -> Call[Readiness]:
    return Call("GET", "/health/ready", _typed(Readiness), also=503)


def version() -> Call[str]:
    return Call("GET", "/api/version", lambda value: _typed(Version)(value).version)


def info() -> Call[dict[str, Any]]:
    return Call("GET", "/api/info", dict)


def metrics() -> Call[str]:
    return Call("GET", "/metrics", str, plain=True)


def models() -> Call[ModelList]:
    return Call("GET", "/v1/models", _typed(ModelList))


def model(name: str) -> Call[ModelDetail]:
    return Call("GET", _model(name), _typed(ModelDetail))


def capabilities(name: str) -> Call[Capabilities]:
    return Call("GET", _model(name, "/capabilities"), _typed(Capabilities))


def show(name: str) -> Call[Show]:
    return Call("POST", "/api/show", _typed(Show), {"model": name})


def tags() -> Call[list[Tag]]:
    return Call("GET", "/api/tags", lambda value: _typed(Tags)(value).models)


def ps() -> Call[list[Running]]:
    return Call("GET", "/api/ps", lambda value: _typed(Processes)(value).models)


def load(
    name: str, keep_alive: float | str | None, timeout: float | None, patience: float | None
) -> Call[LoadResponse]:
    body = _given(keep_alive=keep_alive, timeout=timeout)
    return Call("POST", _model(name, "/load"), _typed(LoadResponse), body, _patience(timeout, patience))


def unload(name: str) -> Call[LoadResponse]:
    return Call("POST", _model(name, "/unload"), _typed(LoadResponse))


def delete(name: str) -> Call[Removed]:
    return Call("DELETE", _model(name), _typed(Removed))


def pull(name: str, *, accept_license: bool = False, no_runtime: bool = False, **options: Any) -> Call[Status]:
    options |= {"accept_license": accept_license or None, "no_runtime": no_runtime or None}
    return Call("POST", "/api/pull", _typed(Status), {"model": name, "stream": True, **_given(**options)}, None)


def validate(request: Request, patience: float | None) -> Call[Validation]:
    return _forecast("/api/validate", _typed(Validation), request, patience)


def forecast(request: Request, patience: float | None) -> Call[ForecastResponse]:
    return _forecast("/v1/forecast", _typed(ForecastResponse), request, patience)


def forecast_stream(request: Request, patience: float | None) -> Call[ForecastLine]:
    return _forecast("/api/forecast", _typed(ForecastLine), request, patience, stream=True)


def forecast_frame(
    frame: pd.DataFrame | pd.Series[Any],
    model: str,
    horizon: int,
    columns: Mapping[str, Any],
    freq: str,
    more: Mapping[str, Any],
    patience: float | None,
) -> Call[pd.DataFrame]:
    from tollama import frames

    given = frames.Columns(**columns)
    request = frames.request(frame, model, horizon, given, freq) | _given(**more)
    request["response_options"] = {**request.get("response_options", {}), "timestamps": True}
    read = _typed(ForecastResponse)
    return _forecast("/v1/forecast", lambda value: frames.like(frame, given, read(value)), request, patience)


def _forecast(
    path: str, read: Callable[[Any], T], request: Request, patience: float | None, *, stream: bool = False
) -> Call[T]:
    body = request.model_dump(exclude_unset=True) if isinstance(request, ForecastRequest) else dict(request)
    return Call("POST", path, read, body | {"stream": stream}, _patience(body.get("timeout"), patience))


def _patience(deadline: Any, limit: float | None) -> float | None:
    """Seconds to wait for an answer that the server gives by ``deadline``; without one it has its own, whatever that
    is set to, and is waited for."""
    if limit is not None:
        return limit
    return GRACE_S + deadline if isinstance(deadline, (int, float)) else None


def _given(**options: Any) -> dict[str, Any]:
    """The options that say something: None is left out, False and 0 are not."""
    return {name: value for name, value in options.items() if value is not None}


def _model(name: str, tail: str = "") -> str:
    return f"/v1/models/{quote(name, safe='')}{tail}"


def raise_for(response: httpx.Response) -> None:
    """Raise the error that an answer of 400 and above holds; its body is already read."""
    if response.status_code < 400:
        return
    error = _record(_json(response.content))
    if error is None:
        raise TollamaError(
            f"The server at {response.request.url.host} answered HTTP {response.status_code}, not as tollama does.",
            hint="Check --host and TOLLAMA_HOST.",
        )
    error.request_id = response.headers.get("x-request-id")
    retry = response.headers.get("retry-after", "")
    error.retry_after = float(retry) if retry.isdigit() else None
    raise error


def _record(body: Any) -> TollamaError | None:
    if not isinstance(body, dict) or not isinstance(body.get("error"), str):
        return None
    return from_record(ErrorRecord(body["error"], str(body.get("code")), body.get("detail"), body.get("hint") or ""))


def _json(content: bytes | str) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _typed(kind: type[M]) -> Callable[[Any], M]:
    def read(value: Any) -> M:
        try:
            return kind.model_validate(value)
        except ValidationError:
            raise TollamaError(
                "The server's answer is not what this client understands.", hint="Use the same version on both sides."
            ) from None

    return read


@contextmanager
def on_the_way(url: str) -> Iterator[None]:
    """What can go wrong on the way, as one sentence with advice."""
    try:
        yield
    except httpx.ConnectError:
        raise ServerUnreachable(f"No tollama server answers at {url}.") from None
    except httpx.TimeoutException:
        raise DeadlineExceeded(f"The server at {url} did not answer in time.") from None
    except httpx.HTTPError:
        raise TollamaError(
            f"The connection to {url} broke before the answer was complete.", hint="Look at the server's log."
        ) from None
