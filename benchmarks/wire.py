"""A cheap HTTP client: prebuilt bytes over kept connections, so that what is measured is the server.

A general client costs more per request than the server's own share, and would share its cores.
"""

from __future__ import annotations

import asyncio
import re
import time
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._lost: Exception | None = None
        self._need = self._body = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._need:
            head = self._buffer.find(b"\r\n\r\n")
            if head < 0:
                return
            length = _LENGTH.search(self._buffer, 0, head)
            if length is None:
                self._settle(ConnectionError("the answer has no Content-Length"))
                return
            self._body = head + 4
            self._need = self._body + int(length[1])
        if len(self._buffer) >= self._need:
            status, body = int(self._buffer[9:12]), bytes(self._buffer[self._body : self._need])
            del self._buffer[: self._need]
            self._need = 0
            self._settle((status, body))

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = error or ConnectionError("the server closed the connection")
        self._settle(self._lost)

    def _settle(self, result: tuple[int, bytes] | Exception) -> None:
        if self._answer is None or self._answer.done():
            return
        if isinstance(result, Exception):
            self._answer.set_exception(result)
        else:
            self._answer.set_result(result)

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer to a request's bytes. Raises OSError when the connection is lost, or was."""
        assert self._transport is not None
        if self._lost is not None:
            raise self._lost
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()


async def connect(base: str) -> Connection:
    """A connection to the server at ``base`` (``http://host:port``)."""
    address = urlsplit(base)
    host, port = address.hostname or "127.0.0.1", address.port or 80
    _, connection = await asyncio.get_running_loop().create_connection(Connection, host, port)
    return connection


def get(path: str) -> bytes:
    """A GET request's bytes."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def post(path: str, body: bytes) -> bytes:
    """A POST request's bytes, with a JSON body."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


async def timed(connection: Connection, request: bytes) -> float:
    """Milliseconds that one request took. Raises on any status but 200."""
    start = time.perf_counter()
    status, body = await connection.ask(request)
    took = time.perf_counter() - start
    if status != 200:
        raise RuntimeError(f"status {status}: {body[:300].decode(errors='replace')}")
    return took * 1e3


async def hammer(
    base: str, request: bytes, clients: int, seconds: float, settle: float = 0.0
) -> tuple[float, list[float]]:
    """Requests per second, and each one's milliseconds, of ``clients`` that ask again as soon as they are answered.

    What is answered in the first ``settle`` seconds, and after ``seconds``, is not counted: a server that works in
    batches is neither filled nor emptied then.
    """
    connections = [await connect(base) for _ in range(clients)]
    start = time.perf_counter()
    times: list[float] = []

    async def one(connection: Connection) -> None:
        while (now := time.perf_counter() - start) < seconds:
            took = await timed(connection, request)
            if settle <= now + took / 1e3 <= seconds:
                times.append(took)

    await asyncio.gather(*map(one, connections))
    for connection in connections:
        connection.close()
    return len(times) / (seconds - settle), times


async def at_once(base: str, requests: list[bytes]) -> float:
    """Seconds until all of ``requests``, each on a connection of its own and sent together, are answered."""
    connections = [await connect(base) for _ in requests]
    start = time.perf_counter()
    pairs = zip(connections, requests, strict=True)
    await asyncio.gather(*(timed(connection, request) for connection, request in pairs))
    took = time.perf_counter() - start
    for connection in connections:
        connection.close()
    return took
