"""What a cluster would show to other machines, looked at when the graph is built: under plain ``serve run`` too."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

from tollama.errors import ConfigError
from tollama.network import on_loopback, require_guarded
from tollama.settings import Settings


def exposed(door: str | None, settings: Settings) -> bool:
    """Whether other machines reach the API at the door's host, or at Serve's own proxy.

    Raises :class:`ConfigError` where they would without an API key, or where Ray itself runs anybody's code.
    """
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token" and not settings.insecure:
        raise ConfigError(
            "This Ray cluster asks for no token, so whoever reaches one of its ports can run code.",
            hint="Start it with RAY_AUTH_MODE=token, or set TOLLAMA_INSECURE=1 where its ports are closed to others.",
        )
    _owners_only()
    found = False
    for host, what in ((door, "The API (args.door.host)"), (_proxy(), "Serve's proxy (http_options.host)")):
        if host is not None and not on_loopback(host):
            require_guarded(host, what, settings)
            found = True
    return found


def _proxy() -> str | None:
    """The host that Serve's proxy listens on; None where there is no proxy."""
    try:
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:  # built without Serve, as `serve build` does
        return None
    asked: list[Any] = [controller.get_proxy_location.remote(), controller.get_http_config.remote()]
    where, options = ray.get(asked)
    return None if where == "Disabled" else str(options.host or "0.0.0.0")


def _owners_only() -> None:
    """The token's file, which Ray writes readable by all, for its owner alone."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray/auth_token")
    with suppress(OSError):
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
