"""What a shell offers after ``tollama ...<TAB>``: names from the server, else from this machine, and never an error."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.fake_server import Fake

NOBODY = "127.0.0.1:9"


def offered(environment: dict[str, str], host: str, *words: str) -> set[str]:
    """What the shell's script would get for these words, of which the last is to be completed."""
    asked = {"_TOLLAMA_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(("tollama", *words))}
    environment = environment | asked | {"COMP_CWORD": str(len(words)), "TOLLAMA_HOST": host}
    done = subprocess.run(
        [Path(sys.executable).with_name("tollama")], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("show", ""), {"naive", "small", "gated"}),
        (("pull", "g"), {"gated"}),
        (("forecast", "n"), {"naive"}),
        (("rm", ""), {"naive"}),
        (("stop", ""), {"naive"}),
        (("pu",), {"pull"}),
    ],
)
def test_names_come_from_the_server(
    words: tuple[str, ...], names: set[str], fake: Fake, environment: dict[str, str]
) -> None:
    assert offered(environment, fake.url, *words) == names


def test_without_a_server_names_come_from_this_machine(environment: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "home/models/mine"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    assert offered(environment, NOBODY, "rm", "") == {"mine"}
    assert "chronos-bolt-small" in offered(environment, NOBODY, "pull", "chronos-bolt")
    assert offered(environment, NOBODY, "stop", "") == set()


def test_a_broken_config_and_a_wrong_key_are_silent(fake: Fake, environment: dict[str, str], tmp_path: Path) -> None:
    fake.api_key = "secret"
    assert offered(environment, fake.url, "stop", "") == set()
    (tmp_path / "home").mkdir(exist_ok=True)
    (tmp_path / "home/config.json").write_text("{")
    assert offered(environment, NOBODY, "rm", "") == set()


def test_a_server_that_does_not_answer_is_not_waited_for(environment: dict[str, str]) -> None:
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.monotonic()
        assert offered(environment, f"127.0.0.1:{silent.getsockname()[1]}", "stop", "") == set()
        assert time.monotonic() - start < 10  # the client's own patience is 40 s


def test_the_scripts_are_there(environment: dict[str, str]) -> None:
    for shell in ("bash", "zsh", "fish"):
        done = subprocess.run(
            [Path(sys.executable).with_name("tollama"), "--show-completion", shell],
            env=environment
            | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "SHELL": os.environ.get("SHELL", "")},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert "_TOLLAMA_COMPLETE" in done.stdout
