"""How the command line finds the server."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tollama.client import Client

Host = Annotated[
    str | None,
    typer.Option("--host", metavar="ADDRESS", help="Server, as host:port or a URL; else TOLLAMA_HOST, else config."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def connect(host: str | None) -> Client:
    """A client of the server that ``--host``, the environment or the config file names."""
    from tollama.client import Client
    from tollama.settings import load

    given = host or os.environ.get("TOLLAMA_HOST")
    if given and "://" in given:
        return Client(given)
    settings = load(host=host)
    name = f"[{settings.host}]" if ":" in settings.host else settings.host
    return Client(f"{name}:{settings.port}")
