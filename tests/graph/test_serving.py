"""How servers start and stop: from a wheel, beside another, under plain ``serve run``, with strangers' code around."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from uv import find_uv_bin

from tests.serving import CHECKOUT, RUNTIMES, Server, wait_for
from tollama.launcher import RAY_ENVIRONMENT, render
from tollama.settings import load

DECOYS = ("tollama", "deployments", "numpy", "ray", "statsforecast", "json")


def uv(*arguments: str) -> None:
    done = subprocess.run([find_uv_bin(), *arguments], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel_tollama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tollama`` installed from a wheel into an empty environment."""
    folder = tmp_path_factory.mktemp("wheel")
    uv("build", "--wheel", "--quiet", "--out-dir", str(folder))
    uv("venv", "--quiet", "--python", sys.executable, str(folder / "venv"))
    (wheel,) = folder.glob("*.whl")
    constraints = str(CHECKOUT / "runtime_envs/base.txt")
    uv("pip", "install", "--quiet", "--python", str(folder / "venv"), "--constraints", constraints, str(wheel))
    return folder / "venv/bin/tollama"


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ``python`` and packages that fail loudly when they are used."""
    folder = tmp_path_factory.mktemp("decoys")
    for name in ("python", "python3"):
        (folder / name).write_text("#!/bin/sh\necho decoy python >&2\nexit 66\n")
        (folder / name).chmod(0o755)
    for name in DECOYS:
        (folder / f"{name}.py").write_text("raise SystemExit('a decoy package was imported')\n")
    return folder


@pytest.fixture(scope="module")
def second(
    server: Server, wheel_tollama: Path, strange: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A second server beside the session's: from the wheel, with decoys in front, without the family torch."""
    home = tmp_path_factory.mktemp("second")
    runtimes = tmp_path_factory.mktemp("runtimes")
    (runtimes / "baseline").symlink_to(RUNTIMES / "baseline")
    other = Server(
        home,
        [str(wheel_tollama), "serve"],
        TOLLAMA_RUNTIMES_DIR=str(runtimes),
        PATH=f"{strange}:{os.environ['PATH']}",
        PYTHONPATH="",
    )
    other.environment["PYTHONPATH"] = str(tmp_path_factory.mktemp("elsewhere"))
    other.cwd = strange
    with other:
        yield other


def test_two_servers_live_side_by_side(server: Server, second: Server) -> None:
    first = server.forecast(model="seasonal-naive")
    other = second.forecast(model="seasonal-naive")
    assert first.status_code == other.status_code == 200, other.text
    assert first.json()["forecasts"] == other.json()["forecasts"]
    assert {model["name"] for model in second.ps()} == {"seasonal-naive"}
    assert second.processes("ServeReplica:tollama:baseline")


def test_replicas_are_named_as_their_families_in_the_dashboard(second: Server) -> None:
    second.forecast(model="seasonal-naive")
    address = json.loads((second.home / "run/ray.json").read_text())["dashboard"]
    token = (second.home / "run/ray_token").read_text()
    url = f"http://{address}/api/serve/applications/"
    assert httpx.get(url, timeout=30).status_code == 401
    shown = httpx.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=30).json()
    deployments = shown["applications"]["tollama"]["deployments"]
    assert {"ingress", "mock", "baseline", "torch"} <= set(deployments)
    assert [replica["state"] for replica in deployments["baseline"]["replicas"]] == ["RUNNING"]


def test_the_token_file_is_for_its_owner_only(second: Server) -> None:
    assert (second.home / "run/ray_token").stat().st_mode & 0o777 == 0o600


def test_a_taken_port_and_a_second_server_on_one_home_are_told_at_once(second: Server, tmp_path: Path) -> None:
    def start(**environment: str) -> subprocess.CompletedProcess[str]:
        env = {**second.environment, **environment}
        return subprocess.run(second.command, env=env, capture_output=True, text=True, timeout=30)

    taken = start(TOLLAMA_HOME=str(tmp_path))
    assert (taken.returncode, "Hint:" in taken.stderr) == (1, True)
    assert str(second.port) in taken.stderr
    same = start()
    assert same.returncode == 1
    assert "already" in same.stderr


def test_sigterm_answers_what_is_in_flight_and_leaves_nothing(second: Server) -> None:
    """Last in this module: it stops the second server."""
    second.forecast()
    answers: list[httpx.Response] = []
    slow = threading.Thread(target=lambda: answers.append(second.forecast(options={"delay_s": 3.0})))
    slow.start()
    wait_for(lambda: any(model["name"] == "mock" for model in second.ps()))
    asked = threading.Event()
    threading.Timer(0.5, asked.set).start()
    asked.wait()
    assert second.stop(signal.SIGTERM) == 0
    slow.join(30)
    assert answers[0].status_code == 200, answers[0].text
    assert second.processes("") == []
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", second.port))


def test_plain_serve_run_gives_the_same_graph(server: Server, tmp_path: Path) -> None:
    plain = Server(tmp_path / "home", TOLLAMA_FAMILY_LINGER="2")
    settings = load({"TOLLAMA_HOME": str(plain.home)}, port=plain.port, proxy_port=plain.proxy_port)
    config = tmp_path / "serve_config.yaml"
    config.write_text(render(CHECKOUT / "serve_config.yaml", settings))
    plain.command = [str(Path(sys.executable).with_name("serve")), "run", str(config)]
    plain.cwd = CHECKOUT
    # A test's cluster of its own; everything else is as a person has it who types `serve run serve_config.yaml`.
    plain.environment |= {"RAY_TMPDIR": str(server_folder(tmp_path)), "RAY_ADDRESS": "local"}
    assert not set(RAY_ENVIRONMENT) & set(plain.environment)
    with plain:
        for base in (plain.door, plain.proxy):
            answer = plain.forecast(base, model="seasonal-naive")
            assert answer.status_code == 200, answer.text
            assert answer.json()["forecasts"] == server.forecast(model="seasonal-naive").json()["forecasts"]


def server_folder(tmp_path: Path) -> Path:
    """A short path: a Unix socket's may have 107 characters."""
    import tempfile

    return Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))


def test_the_config_that_ships_has_the_documented_addresses() -> None:
    config = yaml.safe_load((CHECKOUT / "serve_config.yaml").read_text())
    assert config["http_options"] == {"host": "127.0.0.1", "port": 11436}
    assert config["applications"][0]["args"]["door"] == {"host": "127.0.0.1", "port": 11435}
