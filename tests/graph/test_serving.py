"""How servers start and stop: from a wheel, beside another, under plain ``serve run``, with strangers' code around."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
import yaml

from tests.graph.conftest import install_stranger
from tests.serving import CHECKOUT, RUNTIMES, Server, free_port, wait_for
from tollama.launcher import RAY_ENVIRONMENT, render
from tollama.settings import load

DECOYS = ("tollama", "deployments", "numpy", "ray", "statsforecast", "json")


EXAMPLE = {
    "pyproject.toml": """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "tollama-example"
version = "1"
[project.entry-points."tollama.families"]
example = "tollama_example:family"
""",
    "tollama_example/registry.yaml": """
models:
- name: example-last
  family: example
  adapter: last-value
  source: {type: embedded}
  license: {id: apache-2.0, needs_acceptance: false, verified: true, notice: Apache License 2.0., url: "https://www.apache.org/licenses/LICENSE-2.0"}
  capabilities: {max_context: 100, max_horizon: 10, missing_values: true, quantiles: {method: analytic}}
  details: {format: builtin, parameter_size: "0", quantization_level: none}
  description: The last value again.
""",
    "tollama_example/adapter.py": """
import importlib.util, sys
import numpy as np
from tollama.seam import ItemForecast

class LastValue:
    chunk = 100
    def hello(self): return {"numpy": np.__version__}
    def ping(self): pass
    def capabilities(self, model, declared): return declared
    def load(self, ref, placement): return sys.prefix
    def unload(self, model): pass
    def forecast(self, model, items, task):
        assert importlib.util.find_spec("huggingface_hub") is None, "this is not the server's environment"
        last = [item.target[~np.isnan(item.target)][-1] for item in items]
        flat = lambda value, rows: np.full((rows, task.horizon), value)
        return [ItemForecast(flat(v, 1)[0], flat(v, len(task.quantiles))) for v in last]
""",
    "tollama_example/__init__.py": """
from pathlib import Path
from tollama.families import FamilySpec

def family():
    here = Path(__file__).parent
    return FamilySpec("example", {"last-value": "tollama_example.adapter:LastValue"},
                      lock=here / "requirements.txt", probe=("ray.serve", "numpy"), registry=here / "registry.yaml")
""",
}
"""A stranger's family: one package, none of our files touched."""


@pytest.fixture(scope="module")
def example(wheel_tollama: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The stranger's package, installed beside the server."""
    folder = tmp_path_factory.mktemp("example")
    for name, text in EXAMPLE.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    lock = (CHECKOUT / "runtime_envs/baseline.txt").read_text()
    (folder / "tollama_example/requirements.txt").write_text(lock)
    install_stranger(wheel_tollama, folder)


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
    server: Server, wheel_tollama: Path, example: None, strange: Path, tmp_path_factory: pytest.TempPathFactory
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
        TOLLAMA_FAMILY_LINGER="2",
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


def test_a_strangers_family_is_served_from_its_own_environment(second: Server) -> None:
    missing = second.forecast(model="example-last")
    assert (missing.status_code, missing.json()["code"]) == (503, "RUNNER_UNAVAILABLE")
    assert "tollama runtime install example" in missing.json()["hint"]
    done = subprocess.run(
        [*second.command[:1], "runtime", "install", "example"], env=second.environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    answer = second.forecast(model="example-last")
    assert answer.status_code == 200, answer.text
    assert answer.json()["forecasts"][0]["mean"] == [33.0, 33.0, 33.0]
    assert answer.json()["usage"]["runner"] == "example"
    second.forecast(model="example-last", keep_alive=0)


def test_a_family_that_cannot_start_is_503_with_the_repair_and_recovers(second: Server) -> None:
    wait_for(lambda: not second.processes("ServeReplica:tollama:example"), 90, "the end of the family's process")
    for package in (second.runtimes / "example/current").resolve().glob("lib/python3*/site-packages/numpy"):
        shutil.rmtree(package)
    broken = second.forecast(model="example-last", timeout=100)
    assert (broken.status_code, broken.json()["code"]) == (503, "RUNNER_UNAVAILABLE"), broken.text
    assert "tollama runtime repair example" in broken.json()["hint"]
    assert second.get("/health/ready").json()["checks"]["families"]["example"].startswith("unavailable")
    assert second.forecast(model="seasonal-naive").status_code == 200
    done = subprocess.run(
        [*second.command[:1], "runtime", "repair", "example"], env=second.environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

    def mended() -> bool:
        return second.forecast(model="example-last", timeout=60).status_code == 200

    wait_for(mended, 120, "the family's recovery")


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


UNREGISTERED = grpc.StatusCode.UNIMPLEMENTED
SERVICES = (
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.ObjectManagerService/Push",
    "/ray.rpc.CoreWorkerService/PushTask",
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.ReporterService/GetTraceback",
    "/ray.serve.ASGIService/HandleRequest",
)
"""A method of each kind of gRPC server that Ray has."""
PAGES = ("/", "/api/serve/applications/", "/api/jobs/", "/api/v0/actors", "/api/tags", "/metrics", "/run")


def by_http(host: str, port: int) -> set[str]:
    """How a port answers HTTP without a key or a token: ``refused``, ``metrics``, a ``page`` without data, ``open``."""
    found = set()
    for path in PAGES:
        try:
            answer = httpx.get(f"http://{host}:{port}{path}", timeout=10, trust_env=False)
        except httpx.RemoteProtocolError:  # it speaks something else
            return found
        if answer.status_code == 401:
            found.add("refused")
        elif answer.text.startswith("# HELP"):
            found.add("metrics")
        elif answer.status_code == 200:
            found.add("page" if answer.text.startswith("<!doctype html>") else "open")
    return found


def by_grpc(host: str, port: int) -> set[str]:
    """The same of gRPC; ``open`` for whatever is neither refused nor unknown."""
    found = set()
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        for method in SERVICES:
            try:
                channel.unary_unary(method)(b"", timeout=10)
                found.add("open")
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    found.add("refused")
                elif error.code() is not UNREGISTERED:
                    found.add("open")
    return found


def test_no_port_answers_without_a_key_or_a_token(second: Server) -> None:
    """Every port that any process of the server listens on. Ray's metrics and the dashboard's empty page are open."""
    second.forecast()
    command = [*second.command[:1], "config", "key"]
    run = partial(subprocess.run, env=second.environment, capture_output=True, check=True)
    run([*command, "add", "--name", "knock"])
    try:
        wait_for(lambda: second.get("/api/tags").status_code == 401, 5, "the key")
        assert second.process is not None
        processes = psutil.Process(second.process.pid).children(recursive=True)
        ports: dict[tuple[str, int], str] = {}
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                for one in process.net_connections("tcp"):
                    if one.status == psutil.CONN_LISTEN:
                        ports[one.laddr.ip, one.laddr.port] = " ".join(process.cmdline())
        names = " ".join(ports.values())
        assert len(ports) > 12
        for name in ("ingress", "ProxyActor", "mock", "ServeController", "raylet", "gcs_server", "RuntimeEnvAgent"):
            assert name in names
        for (ip, port), name in ports.items():
            host = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(ip, ip)
            found = by_http(host, port) or by_grpc(host, port)
            assert found in ({"refused"}, {"metrics"}, {"refused", "page"}), (found, ip, port, name)
            assert ("metrics" in found) <= (ip in ("0.0.0.0", "::")), "the documented ones"
        local = {"127.0.0.1", "::1"}
        assert {ip for ip, port in ports if port in (second.port, second.proxy_port, 8265)} <= local
    finally:
        run([*command, "revoke", "knock"])
        wait_for(lambda: second.get("/api/tags").status_code == 200, 5, "the key's end")


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


def test_plain_serve_run_gives_the_same_graph(server: Server, tmp_path: Path) -> None:
    plain = Server(tmp_path / "home", TOLLAMA_FAMILY_LINGER="2")
    del plain.environment["TOLLAMA_RUNTIMES_DIR"]
    plain.home.mkdir()
    (plain.home / "runtimes").symlink_to(RUNTIMES)
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
        assert plain.get("/api/info").json()["config"]["family_linger"]["value"] == 2
        assert plain.forecast(model="seasonal-naive", keep_alive=0).status_code == 200
        baseline = "ServeReplica:tollama:baseline"
        wait_for(lambda: not plain.processes(baseline), 30, "the end of the empty process, after 2 s and not 60")


def test_plain_serve_run_opens_no_address_to_others_without_a_key(tmp_path: Path) -> None:
    home = tmp_path / "home"
    settings = load({"TOLLAMA_HOME": str(home)}, port=free_port(), proxy_port=free_port())
    graph = yaml.safe_load(render(CHECKOUT / "serve_config.yaml", settings))
    graph["http_options"]["host"] = "0.0.0.0"
    config, said = tmp_path / "serve_config.yaml", tmp_path / "said.txt"
    config.write_text(yaml.safe_dump(graph))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TOLLAMA_", "RAY_"))}
    environment |= {"RAY_TMPDIR": str(server_folder(tmp_path)), "RAY_ADDRESS": "local", "HOME": str(tmp_path)}
    with said.open("w") as out:
        command = [str(Path(sys.executable).with_name("serve")), "run", str(config)]
        process = subprocess.Popen(command, env=environment, cwd=CHECKOUT, stdout=out, stderr=out)
        try:
            wait_for(lambda: "there is no API key" in said.read_text(), 120, "the refusal")
            assert "Serve's proxy (http_options.host) would listen on 0.0.0.0" in said.read_text()
            answer = httpx.get(f"http://127.0.0.1:{settings.serve_port}/api/tags", timeout=10)
            assert answer.status_code == 404, "the application is not there"
            assert (tmp_path / ".ray/auth_token").stat().st_mode & 0o777 == 0o600
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def server_folder(tmp_path: Path) -> Path:
    """A short path: a Unix socket's may have 107 characters."""
    import tempfile

    return Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))


def test_the_config_that_ships_has_the_documented_addresses() -> None:
    config = yaml.safe_load((CHECKOUT / "serve_config.yaml").read_text())
    assert config["http_options"] == {"host": "127.0.0.1", "port": 11436}
    assert config["applications"][0]["args"]["door"] == {"host": "127.0.0.1", "port": 11435}
