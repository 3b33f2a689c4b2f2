"""The ingress's own socket."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from deployments.door import Door
from tests.serving import free_port


def test_a_client_lets_go_of_an_idle_connection_before_the_server_does() -> None:
    door = Door(None, "127.0.0.1", free_port())
    kept = httpx.Limits().keepalive_expiry
    assert kept is not None
    assert door._server.config.timeout_keep_alive > 2 * kept
    door._socket.close()


def test_who_gives_up_waiting_for_the_door_to_close_does_not_drop_the_answers() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        entered.set()
        await leave.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def main() -> None:
        port = free_port()
        door = Door(app, "127.0.0.1", port)
        door.open()
        async with httpx.AsyncClient(trust_env=False, transport=httpx.AsyncHTTPTransport(retries=5)) as http:
            asked = asyncio.ensure_future(http.get(f"http://127.0.0.1:{port}/"))
            await entered.wait()
            impatient = asyncio.ensure_future(door.close())
            await asyncio.sleep(0.2)
            impatient.cancel()
            closing = asyncio.ensure_future(door.close())
            await asyncio.sleep(0.2)
            leave.set()
            assert (await asked).status_code == 204
        await asyncio.wait_for(closing, 10)

    asyncio.run(main())
