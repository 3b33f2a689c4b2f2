"""How the command line finds the server."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

if TYPE_CHECKING:
    from tollama.client import Client

Host = Annotated[
    str | None,
    typer.Option("--host", metavar="ADDRESS", help="Server, as host:port or a URL; else TOLLAMA_HOST, else config."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _portless(given: str) -> bool:
    """Whether a URL leaves the port to the settings, and has no path before the API's."""
    try:
        parts = urlsplit(given)
        return parts.scheme == "http" and parts.port is None and parts.path in ("", "/")
    except ValueError:
        return False


def connect(host: str | None) -> Client:
    """A client of the server that ``--host``, the environment or the config file names."""
    from tollama.client import Client
    from tollama.errors import ConfigError
    from tollama.keys import sendable
    from tollama.network import address
    from tollama.settings import load

    if not sendable(os.environ.get("TOLLAMA_API_KEY", "")):
        raise ConfigError("TOLLAMA_API_KEY holds what no key does.", hint="A key has printable ASCII characters only.")
    given = host or os.environ.get("TOLLAMA_HOST") or ""
    if "/" not in given or _portless(given):
        settings = load(host=host)
        given = address(settings.host, settings.port)
    try:
        return Client(given)
    except (ImportError, ValueError):  # from httpx, for an https server or one elsewhere
        raise ConfigError(
            "The proxy settings of the environment cannot be used.",
            hint="HTTP_PROXY, HTTPS_PROXY and ALL_PROXY are to be unset or http://host:port; SOCKS is not spoken.",
        ) from None
