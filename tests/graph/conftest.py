"""Servers that strangers' packages are installed beside: from a wheel, in an environment of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from uv import find_uv_bin

from tests.serving import CHECKOUT, Server

STRANGERS = CHECKOUT / "tests/strangers"

Faults = Callable[..., None]


def uv(*arguments: str) -> None:
    """Run uv; it must succeed."""
    done = subprocess.run([find_uv_bin(), *arguments], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def wheel_tollama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tollama`` installed from a wheel into an empty environment."""
    folder = tmp_path_factory.mktemp("wheel")
    uv("build", "--wheel", "--quiet", "--out-dir", str(folder))
    uv("venv", "--quiet", "--python", sys.executable, str(folder / "venv"))
    (wheel,) = folder.glob("*.whl")
    constraints = str(CHECKOUT / "runtime_envs/base.txt")
    uv("pip", "install", "--quiet", "--python", str(folder / "venv"), "--constraints", constraints, str(wheel))
    return folder / "venv/bin/tollama"


def install_stranger(tollama: Path, package: Path) -> None:
    """A stranger's package, installed beside the server."""
    uv("pip", "install", "--quiet", "--python", str(tollama.parent.parent), "--no-deps", str(package))


def restarts(server: Server, family: str, reason: str) -> int:
    """How many processes of the family have ended for this reason, as ``/metrics`` has it."""
    name = f'tollama_restarts_total{{family="{family}",reason="{reason}"}} '
    return sum(int(float(line[len(name) :])) for line in server.get("/metrics").text.splitlines() if name in line)


@pytest.fixture(scope="module")
def faulty(wheel_tollama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the family ``faulty``, whose models fail as the folder ``home/faults`` says."""
    source = tmp_path_factory.mktemp("faulty") / "source"
    shutil.copytree(STRANGERS / "faulty", source)
    install_stranger(wheel_tollama, source)
    home = tmp_path_factory.mktemp("faulty-home")
    (home / "faults").mkdir()
    with Server(
        home,
        [str(wheel_tollama), "serve", "--no-dashboard"],
        FAULTS=str(home / "faults"),
        TOLLAMA_FAMILY_LINGER="30",
        TOLLAMA_RESTART_MAX="3",
        TOLLAMA_RESTART_BACKOFF="5",
        TOLLAMA_MAX_QUEUE="40",
    ) as running:
        yield running


@pytest.fixture
def faults(faulty: Server) -> Iterator[Faults]:
    """``faults(name="text")`` puts faults in place, and takes them away with None; none is left after the test."""
    folder = faulty.home / "faults"

    def put(**texts: str | None) -> None:
        for name, text in texts.items():
            file = folder / name.replace("_", "-")
            if text is None:
                file.unlink(missing_ok=True)
            else:
                file.write_text(text)

    yield put
    for file in folder.iterdir():
        file.unlink()
