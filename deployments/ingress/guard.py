"""Who is asking, and under which id: the layer that every request passes, about 5 us of it."""

from __future__ import annotations

import logging
import time
import uuid
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.ingress import faults
from deployments.logs import REQUEST
from tollama import keys
from tollama.errors import ConfigError, Unauthorized
from tollama.settings import Settings, config_path, load

logger = logging.getLogger("ray.serve")

OPEN = frozenset(("/v1/health", "/health/live", "/health/ready"))
"""What is answered without a key: probes of orchestrators and load balancers send none."""
LOOK_S = 0.5
"""How often the config file is looked at for keys that were made or revoked."""
LONGEST_ID = 128


class Keys:
    """The API keys in force. A key that ``tollama config key`` makes or revokes counts within ``LOOK_S``.

    ``needed`` says that without any key nobody is answered, rather than everybody.
    """

    def __init__(self, settings: Settings, *, needed: bool = False) -> None:
        self._home = settings.home
        self._hashes = [key.sha256 for key in settings.api_keys]
        self._needed = needed
        self._from_file = settings.sources.get("api_keys", "config") == "config"
        self._path = config_path(settings.home)
        self._seen = _state(self._path)
        self._looked = time.monotonic()

    def admit(self, headers: list[tuple[bytes, bytes]]) -> bool:
        """Whether a request with these headers may pass."""
        return not self.asked() or self.known(headers)

    def asked(self) -> bool:
        """Whether a request needs a key."""
        if self._from_file and time.monotonic() - self._looked > LOOK_S:
            self._look()
        return self._needed or bool(self._hashes)

    def known(self, headers: list[tuple[bytes, bytes]]) -> bool:
        """Whether the headers hold a key that is in force."""
        for name, value in headers:
            if name == b"authorization":
                scheme, _, text = value.partition(b" ")
                return scheme.lower() == b"bearer" and keys.matches(text.strip(), self._hashes)
        return False

    def _look(self) -> None:
        self._looked = time.monotonic()
        state = _state(self._path)
        if state == self._seen:
            return
        self._seen = state
        try:
            # Only the keys: everything else is taken at the next start.
            self._hashes = [key.sha256 for key in load({}, home=self._home).api_keys]
            logger.info("the config file has changed; API keys: %d", len(self._hashes))
        except ConfigError as error:
            logger.error("the config file has changed and cannot be read, the API keys stay as they were: %s", error)


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class Identified:
    """ASGI middleware: gives each request its id, in ``request.state``, in the log and in the answer's header."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"] = known = _sane(scope["headers"]) or uuid.uuid4().hex

        def marked(message: Message) -> Any:
            # Serve's proxy adds the header by itself.
            if message["type"] == "http.response.start" and "door" in state:
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", known.encode())]
            return send(message)

        token = REQUEST.set(known)
        try:
            await self._app(scope, receive, marked)
        finally:
            REQUEST.reset(token)


def _sane(headers: list[tuple[bytes, bytes]]) -> str | None:
    """The id that the client sent, if it can stand in a header and in a line of a log."""
    for name, value in headers:
        if name == b"x-request-id":
            if 0 < len(value) <= LONGEST_ID and value.isascii():
                text = value.decode()
                return text if text.isprintable() and " " not in text else None
            return None
    return None


class Guarded:
    """ASGI middleware: 401 for who has no key, where there are keys."""

    def __init__(self, app: ASGIApp, admit: Keys) -> None:
        self._app = app
        self._keys = admit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN and not self._keys.admit(scope["headers"]):
            error = Unauthorized("This server wants an API key, and none that it knows was sent.")
            await faults.response(error, Request(scope))(scope, receive, send)
            return
        await self._app(scope, receive, send)
