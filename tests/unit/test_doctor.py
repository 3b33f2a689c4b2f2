"""What the doctor sees in each thing it looks at."""

from __future__ import annotations

import json
import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.cli.fake_server import running
from tests.hub import LoopbackHub
from tests.unit.test_runtimes import make
from tollama import doctor
from tollama.client import Client
from tollama.doctor import Check, examine
from tollama.errors import ConfigError, RunnerUnavailable
from tollama.families import FamilySpec
from tollama.runtimes import Runtimes
from tollama.settings import Settings


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is set but a home."""
    for name in ("HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE", "TOLLAMA_RUNTIMES_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TOLLAMA_HOME", str(tmp_path / "home"))


@pytest.fixture
def spec(tmp_path: Path) -> FamilySpec:
    lock = tmp_path / "tiny.txt"
    lock.write_text("six==1.17.0\nother==1\n")
    lock.with_suffix(".in").write_text("# what it is about\n\nsix==1.17.*\nother  # needed by six\n")
    return FamilySpec("tiny", {}, lock=lock, probe=("six",))


@pytest.fixture
def runtimes(tmp_path: Path) -> Runtimes:
    return Runtimes(tmp_path / "runtimes")


LIBRARIES = {"ray": version("ray"), "six": "1.17.0", "other": "1"}


def installed(runtimes: Runtimes, spec: FamilySpec, **changed: Any) -> Path:
    return make(runtimes.folder(spec), **({"libraries": LIBRARIES} | changed))


def look(runtimes: Runtimes, spec: FamilySpec, *, quick: bool = True, repair: bool = False) -> Check:
    return doctor.runtime(runtimes, spec, lambda line: None, quick=quick, repair=repair)


def settings(tmp_path: Path, **changed: Any) -> Settings:
    return Settings(home=tmp_path / "home", **changed)


def test_python(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.python() == Check("python", "ok", platform.python_version())
    monkeypatch.setattr(platform, "python_version", lambda: "3.9.1")
    found = doctor.python()
    assert found.status == "fail"
    assert found.detail.startswith("3.9.1; tollama needs ")


def test_a_malformed_config_fails_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/config.json").write_text('{"offline": true}')
    found, check = doctor.configuration()
    assert found.offline
    assert check.status == "ok"
    (tmp_path / "home/config.json").write_text('{\n"port": }')
    found, check = doctor.configuration()
    assert found.home == tmp_path / "home"
    assert (check.status, "line 2" in check.detail, check.hint != "") == ("fail", True, True)


def test_home(tmp_path: Path) -> None:
    assert doctor.home(settings(tmp_path)).status == "ok"
    assert not (tmp_path / "home").exists(), "a doctor leaves no traces"
    (tmp_path / "home").mkdir()
    assert doctor.home(settings(tmp_path)).detail == str(tmp_path / "home")
    assert list((tmp_path / "home").iterdir()) == []
    (tmp_path / "file").touch()
    found = doctor.home(Settings(home=tmp_path / "file/below"))
    assert found.status == "fail"
    assert "TOLLAMA_HOME" in found.hint


@pytest.mark.parametrize(("free", "status"), [(6e9, "ok"), (4e9, "warn"), (5e7, "fail")])
def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, status: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    found = doctor.disk(settings(tmp_path))
    assert (found.status, bool(found.hint)) == (status, status != "ok")
    assert f"{free / 1e9:.1f} GB" in found.detail


def test_the_fuller_of_two_disks_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "far").mkdir()
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: SimpleNamespace(free=1e9 if path == tmp_path / "far" else 9e9)
    )
    found = doctor.disk(settings(tmp_path, runtimes_dir=tmp_path / "far/runtimes"))
    assert found.detail == f"1.0 GB free for {tmp_path / 'far/runtimes'}"


def test_a_runtime_that_is_absent_is_a_warning(runtimes: Runtimes, spec: FamilySpec) -> None:
    assert look(runtimes, FamilySpec("mock", {})).status == "ok"
    found = look(runtimes, spec)
    assert (found.status, found.hint) == ("warn", "tollama runtime install tiny")
    runtimes.folder(spec).mkdir(parents=True)  # somebody is installing it, or was
    found = look(runtimes, spec)
    assert (found.status, found.hint) == ("warn", "tollama runtime repair tiny")


def test_a_runtime_that_is_whole_tells_its_libraries(runtimes: Runtimes, spec: FamilySpec) -> None:
    installed(runtimes, spec)
    assert look(runtimes, spec) == Check("runtime tiny", "ok", f"ray {version('ray')}, six 1.17.0")


def test_a_runtime_that_is_broken_is_a_failure(runtimes: Runtimes, spec: FamilySpec) -> None:
    folder = installed(runtimes, spec)
    (folder / "bin/python").unlink()
    found = look(runtimes, spec)
    assert (found.status, found.hint) == ("fail", "tollama runtime repair tiny")
    assert "no Python" in found.detail
    assert spec.lock is not None
    spec.lock.unlink()
    assert look(runtimes, spec).status == "fail"


def test_a_runtime_that_does_not_import_is_a_failure(
    runtimes: Runtimes, spec: FamilySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(runtimes, spec)

    def probe(*_: object) -> dict[str, Any]:
        raise RunnerUnavailable("The runtime of family 'tiny' could not be installed: its libraries do not import.")

    monkeypatch.setattr(doctor, "probe", probe)
    found = look(runtimes, spec, quick=False)
    assert (found.status, found.hint) == ("fail", "tollama runtime repair tiny")
    assert found.detail == "It is installed, but its libraries do not import."
    assert look(runtimes, spec, quick=True).status == "ok"
    monkeypatch.setattr(doctor, "probe", lambda *_: {"libraries": LIBRARIES | {"six": "1.16.0"}})
    assert look(runtimes, spec, quick=False).status == "fail"
    monkeypatch.setattr(doctor, "probe", lambda *_: {"libraries": LIBRARIES})
    assert look(runtimes, spec, quick=False).status == "ok"


def test_what_is_broken_is_repaired_where_asked_for(
    runtimes: Runtimes, spec: FamilySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def repair(self: Runtimes, spec: FamilySpec, say: object) -> Path:
        asked.append(spec.name)
        if len(asked) == 1:
            raise RunnerUnavailable("It could not be installed: why.", hint="do this")
        (runtimes.folder(spec) / "bin/python").symlink_to(sys.executable)
        return runtimes.python(spec)

    monkeypatch.setattr(Runtimes, "repair", repair)
    assert look(runtimes, spec, repair=True).status == "warn", "what is absent is not broken"
    folder = installed(runtimes, spec)
    assert look(runtimes, spec, repair=True).status == "ok"
    assert asked == []
    (folder / "bin/python").unlink()
    runtimes._ready_at.clear()
    assert look(runtimes, spec, repair=True) == Check(
        "runtime tiny", "fail", "It could not be installed: why.", "do this"
    )
    assert look(runtimes, spec, repair=True).status == "ok"
    assert asked == ["tiny"] * 2


def test_models(tmp_path: Path) -> None:
    assert [check.status for check in doctor.models(settings(tmp_path), print, quick=True, repair=False)] == ["ok"]
    models = tmp_path / "home/models"
    manifest = {
        "adapter": "mock",
        "source": {"type": "embedded"},
        "resolved": {"commit_sha": ""},
        "size_bytes": 0,
        "files": [],
        "pulled_at": "2026-01-01T00:00:00Z",
        "installed_at": "2026-01-01T00:00:00Z",
        "license": {"id": "x"},
        "capabilities": {"max_context": 9, "max_horizon": 9},
        "defaults": {},
        "requires": {},
        "details": {"format": "x", "parameter_size": "x", "quantization_level": "x"},
    }
    gated = {"id": "x", "needs_acceptance": True, "notice": "x", "url": "http://localhost"}
    changed: dict[str, dict[str, Any]] = {
        "well": {},
        "stray": {"family": "strays"},
        "gated": {"license": gated},
        "short": {"files": [{"path": "a", "size": 1, "sha256": "0" * 64}]},
    }
    for name, changes in changed.items():
        (models / name).mkdir(parents=True)
        (models / name / "manifest.json").write_text(json.dumps(manifest | {"name": name, "family": "mock"} | changes))
    (models / "torn").mkdir()
    (models / "torn/manifest.json").write_text("{")
    found = {check.name: check for check in doctor.models(settings(tmp_path), print, quick=True, repair=False)}
    assert {name: check.status for name, check in found.items()} == {
        "model short": "fail",
        "model torn": "fail",
        "model stray": "warn",
        "model gated": "warn",
        "models": "ok",
    }
    assert found["model torn"].hint.startswith("tollama rm torn, then pull it again")
    assert "the file a is missing" in found["model short"].detail
    assert "--accept-license" in found["model gated"].hint
    assert "strays" in found["model stray"].detail


@pytest.fixture
def loopback(tmp_path: Path) -> Iterator[LoopbackHub]:
    with LoopbackHub(tmp_path) as hub:
        yield hub


def test_the_hub_answers(tmp_path: Path, loopback: LoopbackHub) -> None:
    secret = loopback.url.replace("//", "//somebody:sesame@")
    found = doctor.hub(settings(tmp_path, hf_endpoint=secret, hf_token="hf_own"))
    assert (found.status, found.detail) == ("ok", f"{loopback.url} answers")
    ((method, _, headers),) = loopback.requests
    assert method == "HEAD"
    assert "hf_own" not in str(dict(headers))
    loopback.status = 502
    found = doctor.hub(settings(tmp_path, hf_endpoint=secret))
    assert (found.status, found.detail) == ("warn", f"{loopback.url} answers with HTTP 502")


def test_no_secret_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = "hf_abcdefghijklmnop0123"
    monkeypatch.setenv("TOLLAMA_HF_ENDPOINT", f"http://u:sesame@127.0.0.1:9/{token}")
    monkeypatch.setenv("TOLLAMA_RUNTIMES_DIR", str(tmp_path / token))

    def nowhere() -> Client:
        raise ConfigError(f"There is no {token}.", hint=f"Bearer {token}")

    found = {check.name: f"{check.detail} {check.hint}" for check in examine(nowhere, lambda line: None, quick=True)}
    assert "[redacted]" in found["hub"]
    assert "[redacted]" in found["server"]
    assert token not in str(found)
    assert "sesame" not in str(found)


def test_an_offline_hub_is_not_asked(tmp_path: Path, loopback: LoopbackHub) -> None:
    assert doctor.hub(settings(tmp_path, hf_endpoint=loopback.url, offline=True)).status == "ok"
    assert list(loopback.requests) == []


@pytest.mark.parametrize("listens", [False, True])
def test_a_hub_that_does_not_answer_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listens: bool
) -> None:
    monkeypatch.setattr(doctor, "HUB_TIMEOUT_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listens:
            silent.listen()
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        found = doctor.hub(settings(tmp_path, hf_endpoint=f"http://u:sesame@{where}/hub?key=sesame"))
    assert found.status == "warn"
    assert ("within 0.2 s" in found.detail) is listens
    assert f"http://{where}/hub" in found.detail
    assert "sesame" not in found.detail + found.hint


@pytest.mark.parametrize(
    ("endpoint", "proxy", "status"),
    [("huggingface", "", "fail"), ("ftp://x", "", "fail"), ("http://hub.invalid", "http://[", "warn")],
)
def test_addresses_that_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str, proxy: str, status: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("http_proxy", proxy)
    found = doctor.hub(settings(tmp_path, hf_endpoint=endpoint))
    assert found.status == status
    assert found.hint


def test_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as fake:
        found = doctor.server(lambda: Client(fake.url))
        assert (found.status, "9.9.9" in found.detail) == ("warn", True)
        monkeypatch.setattr(doctor, "__version__", "9.9.9")
        assert doctor.server(lambda: Client(fake.url)) == Check("server", "ok", f"tollama 9.9.9 at {fake.url}")
        found = doctor.server(lambda: Client("127.0.0.1:9"))
        assert (found.status, found.hint) == ("warn", "Start one with: tollama serve")


def test_what_cannot_be_looked_at_is_a_failure_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLLAMA_RUNTIMES_DIR", str(tmp_path / "with a space"))
    monkeypatch.setenv("TOLLAMA_OFFLINE", "1")

    def full(path: Path) -> None:
        raise OSError(5, "Input/output error", str(path))

    def nowhere() -> Client:
        raise ConfigError("The address is not valid.", hint="Give another.")

    monkeypatch.setattr(shutil, "disk_usage", full)
    found = {check.name: check for check in examine(nowhere, lambda line: None)}
    assert list(found) == ["python", "config", "home", "disk", "runtimes", "models", "store", "hub", "server"]
    assert {name for name, check in found.items() if check.status == "fail"} == {"disk", "runtimes", "server"}
    assert "Input/output error" in found["disk"].detail
