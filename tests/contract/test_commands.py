"""Commands about what is in memory, against the real server."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests.serving import TOLLAMA, Server, wait_for


def told(server: Server, *arguments: str) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(
        [str(TOLLAMA), *arguments], env=server.environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ps_shows_what_is_loaded_and_stop_takes_it_out(server: Server) -> None:
    def held() -> dict[str, Any]:
        return {model["name"]: model for model in json.loads(told(server, "ps", "--json"))}

    assert server.post("/v1/models/mock/load", {"keep_alive": "10m"}).status_code == 200
    assert held()["mock"]["state"] == "loaded"
    (row,) = [line.split() for line in told(server, "ps").splitlines() if line.startswith("mock ")]
    assert row[-4:] == ["9", "minutes", "from", "now"]
    assert told(server, "stop", "mock") == "Stopped mock.\n"
    wait_for(lambda: "mock" not in held(), 10, "the model's end")
    assert [line for line in told(server, "ps").splitlines() if line.startswith("mock ")] == []
