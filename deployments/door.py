"""The ingress's own listening socket: the same ASGI app on one stable address, without a proxy in between.

Serve's Python proxy costs about 6 ms a request; this socket costs 0.4 ms, works under plain ``serve run`` too, and
comes back on the same address when the ingress is replaced (``SO_REUSEPORT``).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn

DRAIN = "drain"
"""The file in the run folder that tells every ingress replica to close its door."""

KEPT_S = 75
"""Seconds that an idle connection is kept: longer than clients keep theirs (httpx, and so Ollama's client, 5 s). With
uvicorn's 5 s a request could meet a connection that was being closed: 3 of 871 in half an hour of mixed traffic."""


def listen(host: str, port: int) -> socket.socket:
    """A bound socket that several ingress replicas can share and a new one can take over at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((host, port))
    return sock


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are Ray's business in a replica."""
        yield


class Door:
    """A uvicorn server inside the current event loop. What came in by it has ``request.state.door``."""

    def __init__(self, app: Any, host: str, port: int) -> None:
        async def marked(scope: Any, receive: Any, send: Any) -> None:
            scope.setdefault("state", {})["door"] = True
            await app(scope, receive, send)

        # Without a log config of its own: setting one closes every handler of the process, Serve's too, and a replica
        # whose log handler is closed does not survive the loss of Serve's controller.
        config = uvicorn.Config(
            marked,
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="warning",
            proxy_headers=False,
            ws="none",
            timeout_keep_alive=KEPT_S,
        )
        self._server = _Server(config)
        self._socket = listen(host, port)
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Start to answer."""
        self._task = asyncio.ensure_future(self._server.serve(sockets=[self._socket]))

    async def close(self) -> None:
        """Refuse new connections, and return when what is in flight has been answered."""
        self._server.should_exit = True
        if self._task is not None:
            await asyncio.wait({self._task})  # who waits and is cancelled must not cancel the answers
