"""Python clients of the HTTP API: a method per thing to ask, the server's errors raised as :mod:`tollama.errors`.

:class:`Client` waits, :class:`tollama.async_client.AsyncClient` is awaited; what they send and how they
read the answers is in :mod:`tollama.calls`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx

from tollama import calls
from tollama.answers import Health, ModelDetail, ModelList, Readiness, Removed, Validation
from tollama.calls import Call, Request
from tollama.capabilities import Capabilities
from tollama.contract import ForecastLine, ForecastResponse, LoadResponse
from tollama.errors import ConfigError, TollamaError
from tollama.keys import sendable
from tollama.protocols.ollama import Running, Show, Status, Tag
from tollama.settings import DEFAULT_PORT

if TYPE_CHECKING:
    import pandas as pd

H = TypeVar("H")
T = TypeVar("T")


def base_url(host: str | None = None) -> str:
    """The server's URL from ``host`` (``host``, ``host:port``, ``:port`` or a URL), else ``TOLLAMA_HOST``.

    A wildcard address, which a server may listen on, is asked on loopback. Without a port it is ``TOLLAMA_PORT``, else
    11435 (https: 443); beside ``TOLLAMA_HOST``, ``TOLLAMA_PORT`` goes before the port in it, as it does for a server.
    """
    beside = os.environ.get("TOLLAMA_PORT")
    text = (host or os.environ.get("TOLLAMA_HOST") or "127.0.0.1").strip()
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        if parts.scheme == "https":
            port = parts.port or 443
        elif beside and not host:
            port = int(beside)
        else:
            port = parts.port or int(beside or DEFAULT_PORT)
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme not in ("http", "https"):
        raise TollamaError("The server's address is not valid.", hint="Give host:port or a URL, as 127.0.0.1:11435.")
    name = parts.hostname or "127.0.0.1"
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, name)
    return f"{parts.scheme}://{f'[{name}]' if ':' in name else name}:{port}{parts.path.rstrip('/')}"


def opened(kind: Callable[..., H], url: str, api_key: str | None) -> H:
    """An HTTP client for a server: its address, the key's header, and the proxy or none.

    Raises :class:`ConfigError` for a key that no header can hold, or a proxy that is not spoken to.
    """
    key = api_key or os.environ.get("TOLLAMA_API_KEY") or ""
    if not sendable(key):
        raise ConfigError(
            "The API key, or TOLLAMA_API_KEY, holds what no key does.",
            hint="A key has printable ASCII characters only.",
        )
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    # A proxy from the environment must not swallow requests to this machine.
    local = httpx.URL(url).host in ("127.0.0.1", "::1", "localhost")
    try:
        return kind(base_url=url, headers=headers, trust_env=not local)
    except (ImportError, ValueError):  # from httpx, for an https server or one elsewhere
        raise ConfigError(
            "The proxy settings of the environment cannot be used.",
            hint="HTTP_PROXY, HTTPS_PROXY and ALL_PROXY are to be unset or http://host:port; SOCKS is not spoken.",
        ) from None


class Client:
    """A connection to one server; use it as a context manager or call :meth:`close`.

    ``host`` as :func:`base_url` reads it, ``api_key`` else ``TOLLAMA_API_KEY``, ``timeout`` the seconds to wait for a
    forecast (default: the request's own deadline and a little more; of one that names none, the server's). Making one
    raises :class:`tollama.errors.ConfigError` for an address, a key or a proxy that cannot be used. Every method raises
    :class:`tollama.errors.TollamaError`: the server's own errors by their class, with ``code``, ``detail``,
    ``hint`` and ``request_id``, and one that says so when no server answers::

        with Client() as client:
            print(client.forecast(request).forecasts[0].mean)
    """

    def __init__(self, host: str | None = None, api_key: str | None = None, timeout: float | None = None) -> None:
        self.url = base_url(host)
        self._timeout = timeout
        self._http = opened(httpx.Client, self.url, api_key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ask(self, call: Call[T]) -> T:
        """Send one call of :mod:`tollama.calls`; the methods below are all made of it."""
        with calls.on_the_way(self.url):
            return call.answer(self._http.request(**call.arguments()))

    def _stream(self, call: Call[T]) -> Iterator[T]:
        with calls.on_the_way(self.url), self._http.stream(**call.arguments()) as response:
            if response.status_code >= 400:
                response.read()
                calls.raise_for(response)
            for line in response.iter_lines():
                yield from call.line(line, response)

    def health(self) -> Health:
        """``status`` is ``ok`` when the server is alive."""
        return self.ask(calls.health())

    def ready(self) -> Readiness:
        """``status`` is ``ready`` while the server is well, else ``unwell``; ``checks`` say what is wrong."""
        return self.ask(calls.ready())

    def version(self) -> str:
        """The server's version."""
        return self.ask(calls.version())

    def info(self) -> dict[str, Any]:
        """What the server is made of and how it is: versions, config, paths, environment, registry, models, families,
        Ray; secrets are masked."""
        return self.ask(calls.info())

    def metrics(self) -> str:
        """The server's metrics in Prometheus's text format."""
        return self.ask(calls.metrics())

    def models(self) -> ModelList:
        """Every known model (``available``), those pulled (``installed``) and those that are ``broken``."""
        return self.ask(calls.models())

    def model(self, name: str) -> ModelDetail:
        """One model, with its manifest when it is installed."""
        return self.ask(calls.model(name))

    def capabilities(self, name: str) -> Capabilities:
        """What a model takes and gives, with its limits."""
        return self.ask(calls.capabilities(name))

    def show(self, name: str) -> Show:
        """An installed model as Ollama shows it: its licence's text, parameters, details, capabilities."""
        return self.ask(calls.show(name))

    def tags(self) -> list[Tag]:
        """The installed models: name, size in bytes, digest, modified_at, details."""
        return self.ask(calls.tags())

    def ps(self) -> list[Running]:
        """The loaded models: name, size, device, context_length, expires_at."""
        return self.ask(calls.ps())

    def load(self, name: str, keep_alive: float | str | None = None, timeout: float | None = None) -> LoadResponse:
        """Load a model ahead of its first forecast, or restart its timer; returns when it is in memory.

        ``keep_alive`` is in seconds or a Go duration (negative is for ever), ``timeout`` in seconds.
        """
        return self.ask(calls.load(name, keep_alive, timeout, self._timeout))

    def unload(self, name: str) -> LoadResponse:
        """Unload a model: at once if idle, else as soon as it is. One that is not loaded is no error."""
        return self.ask(calls.unload(name))

    def delete(self, name: str) -> Removed:
        """Remove an installed model; it is unloaded first."""
        return self.ask(calls.delete(name))

    def pull(
        self,
        name: str,
        *,
        accept_license: bool = False,
        revision: str | None = None,
        local_name: str | None = None,
        offline: bool | None = None,
        no_runtime: bool = False,
        token: str | None = None,
        endpoint: str | None = None,
        proxy: str | None = None,
        license_sha256: str | None = None,
    ) -> Iterator[Status]:
        """Pull a model; yields progress: ``status``, and of a file ``digest``, ``total`` and ``completed`` in bytes.

        ``name`` may be any repository of the hub, as ``hf:org/name``; it is called ``local_name`` then, else
        ``org--name``. ``offline`` is as the server is set unless it says otherwise; ``token`` (for gated repositories),
        ``endpoint`` and ``proxy`` are the hub's for this pull, the last two only from the server's own machine or with
        an API key. The last status is ``success``. Raises :class:`LicenseNotAccepted`, whose ``detail`` has the text
        and its ``text_sha256``, when the licence needs ``accept_license``; with ``license_sha256`` that text is
        accepted and no other.
        """
        flags: dict[str, Any] = {"accept_license": accept_license, "offline": offline, "no_runtime": no_runtime}
        flags["license_sha256"] = license_sha256
        way: dict[str, Any] = {"token": token, "endpoint": endpoint, "proxy": proxy}
        return self._stream(calls.pull(name, revision=revision, local_name=local_name, **flags, **way))

    def validate(self, request: Request) -> Validation:
        """Check a forecast request without running it: its ``warnings``, or its error raised."""
        return self.ask(calls.validate(request, self._timeout))

    def forecast(self, request: Request) -> ForecastResponse:
        """Forecast; ``request`` is a :class:`ForecastRequest` or the same as a mapping (NaN is a missing value)."""
        return self.ask(calls.forecast(request, self._timeout))

    def forecast_stream(self, request: Request) -> Iterator[ForecastLine]:
        """Forecast with progress: yields lines with a ``status``, the last is ``done`` and has the ``response``."""
        return self._stream(calls.forecast_stream(request, self._timeout))

    def forecast_frame(
        self,
        frame: pd.DataFrame | pd.Series[Any],
        model: str,
        horizon: int,
        *,
        id_column: str | None = None,
        time_column: str | None = None,
        target_column: str | None = None,
        known_future: tuple[str, ...] = (),
        freq: str = "auto",
        **more: Any,
    ) -> pd.DataFrame:
        """Forecast a long table (a row per series and time), or one series with its times as the index.

        Columns are recognised as :mod:`tollama.frames` says. Gives a row per series and step: the table's own id and
        time columns, ``mean`` and a column per quantile (``0.1`` ...). ``more`` are fields of the request:
        ``quantiles``, ``options``, ``timeout``, ``keep_alive`` ...
        """
        columns = {"id": id_column, "time": time_column, "target": target_column, "known_future": known_future}
        return self.ask(calls.forecast_frame(frame, model, horizon, columns, freq, more, self._timeout))
