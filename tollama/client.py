"""A Python client of the HTTP API: one method per resource, the server's errors raised as :mod:`tollama.errors`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from tollama.capabilities import Capabilities
from tollama.contract import DEFAULT_TIMEOUT_S, ForecastRequest, ForecastResponse, LoadResponse
from tollama.errors import DeadlineExceeded, ErrorRecord, ServerUnreachable, TollamaError, from_record
from tollama.settings import DEFAULT_PORT

T = TypeVar("T", bound=BaseModel)

CONNECT_TIMEOUT_S = 10.0
GRACE_S = 30.0
"""How much longer than a request's own deadline the client waits, so that the server's 504 gets through."""


def base_url(host: str | None = None) -> str:
    """The server's URL from ``host`` (``host``, ``host:port``, ``:port`` or a URL), else ``TOLLAMA_HOST``.

    A wildcard address, which a server may listen on, is asked on loopback. Without a port it is ``TOLLAMA_PORT``, else
    11435 (https: 443).
    """
    text = (host or os.environ.get("TOLLAMA_HOST") or "127.0.0.1").strip()
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port or (443 if parts.scheme == "https" else int(os.environ.get("TOLLAMA_PORT") or DEFAULT_PORT))
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme not in ("http", "https"):
        raise TollamaError("The server's address is not valid.", hint="Give host:port or a URL, as 127.0.0.1:11435.")
    name = parts.hostname or "127.0.0.1"
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, name)
    return f"{parts.scheme}://{f'[{name}]' if ':' in name else name}:{port}{parts.path.rstrip('/')}"


@dataclass(frozen=True, slots=True)
class _Call:
    """One HTTP request as data; ``timeout`` is how long to wait for the server to say something, None for ever."""

    method: str
    path: str
    body: Any = None
    timeout: float | None = CONNECT_TIMEOUT_S + GRACE_S

    def arguments(self) -> dict[str, Any]:
        # json.dumps writes NaN, which the contract reads as a missing value; httpx's own json= refuses it.
        content = {} if self.body is None else {"content": json.dumps(self.body, separators=(",", ":"))}
        timeout = httpx.Timeout(self.timeout, connect=CONNECT_TIMEOUT_S)
        return {"method": self.method, "url": self.path, "timeout": timeout, **content}


def _forecast(request: ForecastRequest | Mapping[str, Any], limit: float | None, *, stream: bool, path: str) -> _Call:
    body = request.model_dump(exclude_unset=True) if isinstance(request, ForecastRequest) else dict(request)
    return _Call("POST", path, body | {"stream": stream}, _patience(body.get("timeout"), limit))


def _patience(deadline: Any, limit: float | None) -> float:
    """Seconds to wait for an answer that the server gives by ``deadline``."""
    if limit is not None:
        return limit
    return GRACE_S + (deadline if isinstance(deadline, (int, float)) else DEFAULT_TIMEOUT_S)


def _pull(name: str, options: Mapping[str, Any]) -> _Call:
    given = {key: value for key, value in options.items() if value not in (None, False)}
    return _Call("POST", "/api/pull", {"model": name, "stream": True, **given}, None)


def _model(name: str, tail: str = "") -> str:
    return f"/v1/models/{quote(name, safe='')}{tail}"


def _error(response: httpx.Response) -> TollamaError:
    """The error that an answer of 400 and above holds; its body is already read."""
    error = _record(_json(response.content))
    if error is None:
        return TollamaError(
            f"The server at {response.request.url.host} answered HTTP {response.status_code}, not as tollama does.",
            hint="Check --host and TOLLAMA_HOST.",
        )
    error.request_id = response.headers.get("x-request-id")
    retry = response.headers.get("retry-after", "")
    error.retry_after = float(retry) if retry.isdigit() else None
    return error


def _record(body: Any) -> TollamaError | None:
    if not isinstance(body, dict) or not isinstance(body.get("error"), str):
        return None
    return from_record(ErrorRecord(body["error"], str(body.get("code")), body.get("detail"), body.get("hint") or ""))


def _json(content: bytes | str) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _typed(model: type[T], value: Any) -> T:
    try:
        return model.model_validate(value)
    except ValidationError:
        raise TollamaError(
            "The server's answer is not what this client understands.", hint="Use the same version on both sides."
        ) from None


def _value(response: httpx.Response) -> Any:
    if response.status_code >= 400:
        raise _error(response)
    value = _json(response.content)
    if value is None:
        raise TollamaError(
            f"The server at {response.request.url.host} did not answer in JSON.", hint="Check --host and TOLLAMA_HOST."
        )
    return value


def _lines(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """NDJSON lines as objects; a line that is an error is raised."""
    for line in lines:
        if not line.strip():
            continue
        value = _json(line)
        if not isinstance(value, dict):
            raise TollamaError("The server broke off in the middle of its answer.", hint="Look at the server's log.")
        error = _record(value)
        if error is not None:
            raise error
        yield value


@contextmanager
def _transport(url: str) -> Iterator[None]:
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


class Client:
    """A connection to one server; use it as a context manager or call :meth:`close`.

    ``host`` as :func:`base_url` reads it, ``api_key`` else ``TOLLAMA_API_KEY``, ``timeout`` the seconds to wait for a
    forecast (default: the request's own deadline, and a little more). Every method raises
    :class:`tollama.errors.TollamaError`: the server's own errors by their class, and one that says so when no server
    answers::

        with Client() as client:
            print(client.forecast(request).forecasts[0].mean)
    """

    def __init__(self, host: str | None = None, api_key: str | None = None, timeout: float | None = None) -> None:
        self.url = base_url(host)
        self._timeout = timeout
        key = api_key or os.environ.get("TOLLAMA_API_KEY")
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        # A proxy from the environment must not swallow requests to this machine.
        local = httpx.URL(self.url).host in ("127.0.0.1", "::1", "localhost")
        self._http = httpx.Client(base_url=self.url, headers=headers, trust_env=not local)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _ask(self, call: _Call) -> Any:
        with _transport(self.url):
            return _value(self._http.request(**call.arguments()))

    def _stream(self, call: _Call) -> Iterator[dict[str, Any]]:
        with _transport(self.url), self._http.stream(**call.arguments()) as response:
            if response.status_code >= 400:
                response.read()
                raise _error(response)
            yield from _lines(response.iter_lines())

    def health(self) -> dict[str, Any]:
        """``{"status": "ok"}`` when the server is alive."""
        return dict(self._ask(_Call("GET", "/v1/health")))

    def ready(self) -> dict[str, Any]:
        """The readiness checks by name; raises while the server is not ready to forecast."""
        return dict(self._ask(_Call("GET", "/health/ready")))

    def version(self) -> str:
        """The server's version."""
        return str(self._ask(_Call("GET", "/api/version"))["version"])

    def info(self) -> dict[str, Any]:
        """What the server is made of and how it is: versions, config, paths, environment, registry, models, families,
        Ray; secrets are masked."""
        return dict(self._ask(_Call("GET", "/api/info")))

    def models(self) -> dict[str, list[dict[str, Any]]]:
        """``{"available": [...], "installed": [...]}``: every known model and those pulled."""
        return dict(self._ask(_Call("GET", "/v1/models")))

    def model(self, name: str) -> dict[str, Any]:
        """One model, with its manifest when it is installed."""
        return dict(self._ask(_Call("GET", _model(name))))

    def capabilities(self, name: str) -> Capabilities:
        """What a model takes and gives, with its limits."""
        return _typed(Capabilities, self._ask(_Call("GET", _model(name, "/capabilities"))))

    def tags(self) -> list[dict[str, Any]]:
        """The installed models: name, size in bytes, digest, modified_at, details."""
        return list(self._ask(_Call("GET", "/api/tags"))["models"])

    def ps(self) -> list[dict[str, Any]]:
        """The loaded models: name, size, device, context_length, expires_at."""
        return list(self._ask(_Call("GET", "/api/ps"))["models"])

    def load(self, name: str, keep_alive: float | str | None = None, timeout: float | None = None) -> LoadResponse:
        """Load a model ahead of its first forecast, or restart its timer; returns when it is in memory.

        ``keep_alive`` is in seconds or a Go duration (negative is for ever), ``timeout`` in seconds.
        """
        given = {"keep_alive": keep_alive, "timeout": timeout}
        body = {key: value for key, value in given.items() if value is not None}
        call = _Call("POST", _model(name, "/load"), body, _patience(timeout, self._timeout))
        return _typed(LoadResponse, self._ask(call))

    def unload(self, name: str) -> LoadResponse:
        """Unload a model: at once if idle, else as soon as it is. One that is not loaded is no error."""
        return _typed(LoadResponse, self._ask(_Call("POST", _model(name, "/unload"))))

    def delete(self, name: str) -> dict[str, Any]:
        """Remove an installed model; it is unloaded first."""
        return dict(self._ask(_Call("DELETE", _model(name))))

    def pull(
        self,
        name: str,
        *,
        accept_license: bool = False,
        revision: str | None = None,
        offline: bool = False,
        no_runtime: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """Pull a model; yields progress: ``{"status", "digest"?, "total"?, "completed"?}`` in bytes, to ``success``.

        Raises :class:`LicenseNotAccepted` when the licence needs ``accept_license``.
        """
        options = {"accept_license": accept_license, "revision": revision, "offline": offline, "no_runtime": no_runtime}
        return self._stream(_pull(name, options))

    def validate(self, request: ForecastRequest | Mapping[str, Any]) -> dict[str, Any]:
        """Check a forecast request without running it: ``{"valid": true, "warnings": [...]}``, or its error raised."""
        return dict(self._ask(_forecast(request, self._timeout, stream=False, path="/api/validate")))

    def forecast(self, request: ForecastRequest | Mapping[str, Any]) -> ForecastResponse:
        """Forecast; ``request`` is a :class:`ForecastRequest` or the same as a mapping (NaN is a missing value)."""
        call = _forecast(request, self._timeout, stream=False, path="/v1/forecast")
        return _typed(ForecastResponse, self._ask(call))

    def forecast_stream(self, request: ForecastRequest | Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Forecast with progress: yields ``{"status": ...}`` lines, at last ``{"done": true, "response": {...}}``."""
        return self._stream(_forecast(request, self._timeout, stream=True, path="/api/forecast"))
