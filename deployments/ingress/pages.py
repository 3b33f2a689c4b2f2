"""Web pages of others: a browser lets any page ask any server that its machine reaches, this one too."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from socket import gethostname

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.ingress import faults
from deployments.ingress.guard import Keys
from tollama.errors import Forbidden
from tollama.network import on_loopback


class Pages:
    """ASGI middleware: 403 for pages that are neither this server's own nor of ``origins`` (``*`` is of all), 1 us.

    ``near`` says that only this machine reaches the server. While it asks for no key either, it has to be called by a
    name of this machine: any other may be one that a page's owner lets lead here, to read the answers as its own.
    """

    def __init__(self, app: ASGIApp, origins: Iterable[str], near: bool, keys: Keys) -> None:
        self._app = app
        self._origins = frozenset(origin.encode() for origin in origins)
        self._all = b"*" in self._origins
        self._near = near
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (error := self._refusal(scope["headers"])) is not None:
            await faults.response(error, Request(scope))(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, headers: Iterable[tuple[bytes, bytes]]) -> Forbidden | None:
        host = origin = site = b""
        for name, value in headers:
            if name == b"host":
                host = value
            elif name == b"origin":
                origin = value
            elif name == b"sec-fetch-site":
                site = value
        if origin and not (self._all or origin in self._origins or _own(origin, host, site)):
            return Forbidden(
                "Web pages of that origin may not ask this server.",
                hint="Add the page's origin to cors_origins on the server: tollama config set cors_origins ORIGIN.",
            )
        if self._near and host and not _of_this_machine(host) and not self._keys.asked():
            return Forbidden(
                "This server answers to no such host name.",
                hint="Ask for localhost or 127.0.0.1. For another name make an API key: tollama config key add.",
            )
        return None


def _own(origin: bytes, host: bytes, site: bytes) -> bool:
    """Whether the page came from here: the browser says so itself, also where a reverse proxy changed the host."""
    return site == b"same-origin" or bool(host and origin.lower().endswith(b"://" + host.lower()))


@lru_cache(64)
def _of_this_machine(host: bytes) -> bool:
    name = host.decode("latin-1").lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0].removesuffix(".")
    # The last ones are given to no public name: containers call their host so, and networks their machines.
    return on_loopback(name) or name == gethostname().lower() or name.endswith((".localhost", ".internal", ".local"))
