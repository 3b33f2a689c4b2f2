"""The ingress's own socket."""

from __future__ import annotations

import httpx

from deployments.door import Door
from tests.serving import free_port


def test_a_client_lets_go_of_an_idle_connection_before_the_server_does() -> None:
    door = Door(None, "127.0.0.1", free_port())
    kept = httpx.Limits().keepalive_expiry
    assert kept is not None
    assert door._server.config.timeout_keep_alive > 2 * kept
    door._socket.close()
