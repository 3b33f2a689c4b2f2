from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.fake_server import Fake, Run, running
from tollama.cli import main

MONTHLY = "date,passengers\n" + "".join(f"{1949 + m // 12}-{m % 12 + 1:02},{100 + m}\n" for m in range(24))


@pytest.fixture
def fake() -> Iterator[Fake]:
    with running() as fake:
        yield fake


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a user who has set nothing, at home in the test's folder."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TOLLAMA_", "HF_"))}
    return kept | {"TOLLAMA_HOME": str(tmp_path / "home"), "COLUMNS": "100"}


@pytest.fixture
def tollama(
    tmp_path: Path,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> Run:
    """Runs the command in this process, which spares its imports: ``tollama("list", host=fake.url)``."""
    monkeypatch.chdir(tmp_path)
    for name in set(os.environ) - set(environment):
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str, host: str | None = None, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            if host:
                patch.setenv("TOLLAMA_HOST", host)
            capsysbinary.readouterr()
            with pytest.raises(SystemExit) as ended:
                main(list(arguments))
        code = ended.value.code
        assert isinstance(code, int)
        return subprocess.CompletedProcess(arguments, code, *capsysbinary.readouterr())

    return run


@pytest.fixture
def process(tmp_path: Path, environment: dict[str, str]) -> Run:
    """The same as a process of its own, as a user runs it."""

    def run(*arguments: str, host: str | None = None, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        more = {"TOLLAMA_HOST": host} if host else {}
        command = [sys.executable, "-m", "tollama.cli", *arguments]
        return subprocess.run(
            command, input=stdin, capture_output=True, cwd=tmp_path, env=environment | more, timeout=60, check=False
        )

    return run


@pytest.fixture
def monthly(tmp_path: Path) -> Path:
    path = tmp_path / "monthly.csv"
    path.write_text(MONTHLY)
    return path
