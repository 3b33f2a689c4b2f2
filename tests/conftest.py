"""Fixtures that cost much, once per session: one running server, one hub on loopback, the families' environments."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.environment import process
from tests.hub import LoopbackHub
from tests.serving import ORIGIN, PLANTED, RUNTIMES, Server
from tollama.families import families
from tollama.registry import find
from tollama.runtimes import Runtimes

Inside = Callable[..., tuple[list[Any], str]]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell has its background jobs ignore Ctrl-C, and so would every server that is started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    """A hub that the session's server pulls from."""
    with LoopbackHub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, hub: LoopbackHub) -> Iterator[Server]:
    """The session's server: the whole graph, a short linger, a small body limit and queue."""
    home: Path = tmp_path_factory.mktemp("home")
    with Server(
        home,
        TOLLAMA_HF_ENDPOINT=hub.url,
        TOLLAMA_FAMILY_LINGER="2",
        TOLLAMA_MAX_BODY_MB="70",
        TOLLAMA_MAX_QUEUE="80",
        TOLLAMA_CORS_ORIGINS=ORIGIN,
        HF_PLANTED_TOKEN=PLANTED,
        RAY_PLANTED_URL=f"http://user:{PLANTED}@proxy.example:3128",
    ) as running:
        yield running


@pytest.fixture(params=["door", "proxy"])
def base(request: pytest.FixtureRequest, server: Server) -> str:
    """Both ways in: the ingress's own door, and Serve's proxy."""
    return str(getattr(server, request.param))


@pytest.fixture(scope="session")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Inside:
    """``inside(family, (target, arguments), ...)``: what the targets returned, and what they printed.

    A target is ``module:function``, the module one in ``tests/families``. The family's environment is
    built if it is not there; nothing but this checkout is added to it, and no hub can be reached from it.
    """
    runtimes = Runtimes(RUNTIMES)

    def run(family: str, *calls: tuple[str, dict[str, Any]]) -> tuple[list[Any], str]:
        python = runtimes.install(families()[family])
        with process(python, HF_ENDPOINT="http://127.0.0.1:9") as there:
            returned = [there.call(target, arguments, seconds=240) for target, arguments in calls]
            there.close()
            return returned, there.printed

    return run


@pytest.fixture(scope="session")
def checkpoint(inside: Inside, hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Chronos-Bolt of random weights, which the hub serves as ``chronos-bolt-small``."""
    folder = tmp_path_factory.mktemp("checkpoint") / "bolt"
    inside("torch", ("checkpoints:build", {"name": "bolt-tiny", "folder": str(folder)}))
    source = find("chronos-bolt-small").source
    assert source.repo_id is not None
    hub.add(source.repo_id, {path.name: path for path in folder.iterdir()}, branch=str(source.revision))
    return folder
