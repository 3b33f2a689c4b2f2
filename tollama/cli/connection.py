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
    from tollama.network import address
    from tollama.settings import load

    given = host or os.environ.get("TOLLAMA_HOST") or ""
    if "/" not in given or _portless(given):
        settings = load(host=host)
        return Client(address(settings.host, settings.port))
    return Client(host)
