"""The README's commands and the demo, executed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.serving import CHECKOUT, TOLLAMA, Server

README = (CHECKOUT / "README.md").read_text()
BLOCKS = re.findall(r"^```\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands(program: str) -> list[str]:
    """The README's commands of one program, comments left out, in order."""
    text = re.sub(r" +# .*", "", "\n".join(BLOCKS))
    found = re.findall(rf"^{program} (?:[^\n']|'[^']*')*", text, re.MULTILINE)
    return [command.strip() for command in found]


def shell(command: str, server: Server, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**server.environment, "TOLLAMA_URL": server.door, "PATH": f"{TOLLAMA.parent}:{os.environ['PATH']}"}
    return subprocess.run(command, shell=True, env=env, cwd=cwd, capture_output=True, text=True, timeout=240)


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    asked = commands("make")
    assert {"make demo", "make test", "make serve"} <= set(asked)
    for command in asked:
        done = subprocess.run(["make", "-n", *command.split()[1:]], cwd=CHECKOUT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_the_curl_command_answers(server: Server, tmp_path: Path) -> None:
    (command,) = commands("curl")
    done = shell(command.replace("127.0.0.1:11435", f"127.0.0.1:{server.port}"), server, tmp_path)
    answer = json.loads(done.stdout)
    assert answer["forecasts"][0]["start_timestamp"] == "2025-01-01T00:00:00"
    assert len(answer["forecasts"][0]["mean"]) == 3


def test_the_tollama_commands_work_in_order(server: Server, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(CHECKOUT / "examples")
    asked = commands("tollama")
    assert len(asked) >= 4
    try:
        for command in asked:
            done = shell(command, server, tmp_path)
            assert done.returncode == 0, (command, done.stderr)
            assert done.stdout or command.startswith("tollama pull"), command
    finally:
        shell("tollama rm chronos-bolt-small", server, tmp_path)


def test_the_demo_draws_three_series(server: Server, tmp_path: Path) -> None:
    demo = str(CHECKOUT / "examples/demo.py")
    done = subprocess.run(
        [sys.executable, demo], env=server.environment, cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "forecast-airline_passengers.png",
        "forecast-seattle_weather.png",
        "forecast-sf_temps.png",
    }
    for word in ("seasonal-naive", "auto-ets", "tollama pull"):
        assert word in done.stdout
