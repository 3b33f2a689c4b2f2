"""Main memory over families: what one of them holds idle goes to a load of another; what is in use is waited for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deployments.memory import host
from tests.graph.conftest import STRANGERS, install_stranger
from tests.hub import LoopbackHub
from tests.serving import Server, series, wait_for

MARGIN_MB = 4000.0
"""What may be used beyond what is used when the server starts; it takes about a third of that itself."""


def fraction() -> float:
    """Of the machine's memory: what is used now, and the margin."""
    whole = host(1.0)
    assert whole is not None
    return (whole.limit - whole.free + MARGIN_MB) / whole.limit


@pytest.fixture(scope="module")
def cramped(wheel_tollama: Path, tmp_path_factory: pytest.TempPathFactory, hub: LoopbackHub) -> Iterator[Server]:
    """A server with the families ``greedy`` and ``modest``, whose processes have both been started once."""
    source = tmp_path_factory.mktemp("greedy") / "source"
    shutil.copytree(STRANGERS / "greedy", source)
    install_stranger(wheel_tollama, source)
    home = tmp_path_factory.mktemp("cramped")
    with Server(
        home,
        [str(wheel_tollama), "serve", "--no-dashboard"],
        TOLLAMA_MAX_MEMORY_FRACTION=f"{fraction():.9f}",
        TOLLAMA_HF_ENDPOINT=hub.url,
        GREEDY_BLOCK=str(home / "block"),
    ) as running:
        assert running.forecast(model="greedy-light", keep_alive=-1).status_code == 200
        yield running


def free_mb(server: Server) -> float:
    space = host(float(server.environment["TOLLAMA_MAX_MEMORY_FRACTION"]))
    assert space is not None
    return space.free


def claim(server: Server, hub: LoopbackHub, megabytes: float) -> None:
    """The model of ``modest`` says from now on that its weights are so large. They are not there."""
    header = {"w": {"dtype": "F32", "shape": [int(megabytes * 1e6 / 4)], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    hub.add("modest/stored", {"model.safetensors": len(text).to_bytes(8, "little") + text + bytes(4)})
    pulled = server.post("/v1/models/pull", {"name": "modest-stored"})
    assert pulled.status_code == 200, pulled.text


def held(server: Server) -> set[str]:
    return {model["name"] for model in server.ps()}


def block(server: Server, megabytes: float) -> None:
    """Have ``greedy`` hold so much."""
    (server.home / "block").write_text(str(megabytes))
    assert server.forecast(model="greedy-block", keep_alive=-1).status_code == 200


def test_idle_models_of_another_family_give_way(cramped: Server, hub: LoopbackHub) -> None:
    free = free_mb(cramped)
    block(cramped, 0.5 * free)
    assert cramped.forecast(model="greedy-light", keep_alive=-1).status_code == 200
    claim(cramped, hub, 0.75 * free)
    answer = cramped.forecast(model="modest-stored", keep_alive=-1)
    assert answer.status_code == 200, answer.text
    assert held(cramped) == {"greedy-light", "modest-stored"}, "the one whose memory helps went, at -1"
    assert free_mb(cramped) > 0.75 * free


def test_models_in_use_are_waited_for(cramped: Server, hub: LoopbackHub) -> None:
    cramped.forecast(model="modest-stored", keep_alive=0)
    free = free_mb(cramped)
    block(cramped, 0.5 * free)
    claim(cramped, hub, 0.8 * free)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(cramped.forecast, model="greedy-block", series=[series("slow")], keep_alive=-1)
        wait_for(lambda: any(model["in_use"] for model in cramped.ps() if model["name"] == "greedy-block"))
        short = cramped.forecast(model="modest-stored", timeout=1.5)
        assert (short.status_code, short.json()["code"]) == (504, "DEADLINE_EXCEEDED"), short.text
        assert "MB of memory" in short.json()["error"]
        answer = cramped.forecast(model="modest-stored")
        assert answer.status_code == 200, answer.text
        assert slow.result().status_code == 200
    assert "greedy-block" not in held(cramped)


def test_what_can_never_fit_is_told_at_once_and_nobody_gives_way(cramped: Server, hub: LoopbackHub) -> None:
    cramped.forecast(model="modest-stored", keep_alive=0)
    block(cramped, 100.0)
    claim(cramped, hub, 10_000_000.0)
    answer = cramped.forecast(model="modest-stored")
    assert (answer.status_code, answer.json()["code"]) == (503, "RUNNER_UNAVAILABLE"), answer.text
    assert answer.json()["detail"]["needed_mb"] == 10_000_000.0
    assert "greedy-block" in held(cramped)
