"""The commands about models, each as a process."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.cli.fake_server import DIGEST, TEXT_SHA256, Fake, Run
from tollama.version import __version__

PS = ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"]


def test_every_reading_command_as_a_process(fake: Fake, process: Run) -> None:
    assert process("--version").stdout.decode() == f"tollama {__version__}\n"
    for command in ("list", "ps", "show naive", "list --json", "pull small", "stop small", "rm small", "runtime list"):
        done = process(*command.split(), host=fake.url)
        assert done.returncode == 0, done.stderr
    assert process("list", host="127.0.0.1:9").stderr.startswith(b"Error: No tollama server")


def test_importing_the_command_line_stays_cheap() -> None:
    heavy = {"pandas", "numpy", "httpx", "matplotlib", "ray", "pydantic"}
    code = f"import sys, tollama.cli; print({heavy!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_list(fake: Fake, tollama: Run) -> None:
    header, row = tollama("list", host=fake.url).stdout.decode().splitlines()
    assert header.split() == ["NAME", "ID", "SIZE", "FAMILY", "LICENSE", "MODIFIED"]
    assert row.split()[:6] == ["naive", DIGEST[:12], "191.0", "MB", "mock", "apache-2.0"]
    assert row.endswith("days ago")
    assert json.loads(tollama("ls", "--json", host=fake.url).stdout)[0]["license"]["id"] == "apache-2.0"


def test_list_tells_of_broken_models(fake: Fake, tollama: Run) -> None:
    fake.broken = [{"name": "bad", "reason": "the manifest is not JSON"}]
    done = tollama("list", host=fake.url)
    assert done.returncode == 0
    assert done.stderr.decode() == (
        "Warning: bad is broken: the manifest is not JSON. "
        "Mend it with: tollama rm bad, then pull it again as hf:ORG/NAME or with --from-dir\n"
    )
    assert json.loads(tollama("list", "--json", host=fake.url).stdout)[-1]["state"] == "broken"


def test_list_available(fake: Fake, tollama: Run) -> None:
    lines = tollama("list", "--available", host=fake.url).stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", "naive", "small", "gated"]
    assert "cc-by-nc-4.0 (to be accepted)" in lines[3]
    assert len(json.loads(tollama("list", "--available", "--json", host=fake.url).stdout)) == 3


def test_ps(fake: Fake, tollama: Run) -> None:
    header, row = tollama("ps", host=fake.url).stdout.decode().splitlines()
    assert header.split() == PS
    assert row.split()[-4:] == ["75%/25%", "CPU/GPU", "2048", "Forever"]
    assert json.loads(tollama("ps", "--json", host=fake.url).stdout)[0]["size"] == 400_000_000


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ({"expires_at": (datetime.now(UTC) + timedelta(minutes=90)).isoformat()}, "1 hour from now"),
        ({"expires_at": "2024-01-01T00:00:00+00:00", "in_use": 1}, "Stopping..."),
        ({"state": "loading"}, "Loading..."),
    ],
)
def test_ps_tells_until_when(told: dict[str, str], shown: str, fake: Fake, tollama: Run) -> None:
    fake.ps[0] |= told
    assert tollama("ps", host=fake.url).stdout.decode().splitlines()[1].endswith(f"2048      {shown}")


def test_ps_of_a_model_on_a_cpu(fake: Fake, tollama: Run) -> None:
    fake.ps[0] |= {"size_vram": 0, "device": "cpu"}
    assert "100% CPU" in tollama("ps", host=fake.url).stdout.decode()
    fake.ps.clear()
    assert tollama("ps", host=fake.url).stdout.decode().split() == PS
    assert json.loads(tollama("ps", "--json", host=fake.url).stdout) == []


def test_stop(fake: Fake, tollama: Run) -> None:
    fake.installed.add("small")
    done = tollama("stop", "naive", "small", host=fake.url)
    assert done.returncode == 0
    assert done.stdout.decode() == "Stopped naive.\nStopped small.\n"
    assert fake.loaded == {}
    assert tollama("stop", "naive", host=fake.url).returncode == 0
    unknown = tollama("stop", "nothing", host=fake.url)
    assert unknown.returncode == 1
    assert unknown.stderr.decode() == "Error: There is no such model.\nHint: Did you mean small?\n"


def test_show(fake: Fake, tollama: Run) -> None:
    shown = tollama("show", "naive", host=fake.url).stdout.decode()
    titles = [line for line in shown.splitlines() if line and not line.startswith(" ")]
    assert titles == ["Model", "Capabilities", "Limits", "License", "Files"]
    for fact in ("0.1, 0.5, 0.9 (interpolated)", "past numeric, future numeric", "1024", "model.safetensors", "c" * 40):
        assert fact in shown
    assert json.loads(tollama("show", "naive", "--json", host=fake.url).stdout)["state"] == "installed"


def test_show_prints_the_licence_and_no_more(fake: Fake, tollama: Run) -> None:
    assert tollama("show", "naive", "--license", host=fake.url).stdout.decode() == "The text of apache-2.0.\n"
    told = json.loads(tollama("show", "naive", "--license", "--json", host=fake.url).stdout)
    assert told == {"name": "naive", "license": "The text of apache-2.0.\n"}
    before = tollama("show", "gated", "--license", host=fake.url)
    assert before.stdout.decode() == "cc-by-nc-4.0\nNot for commercial use.\n"


def test_unknown_model_is_one_error_and_one_hint(fake: Fake, tollama: Run) -> None:
    done = tollama("show", "nothing", host=fake.url)
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.decode() == "Error: There is no such model.\nHint: Did you mean small?\n"


def test_rm(fake: Fake, tollama: Run) -> None:
    fake.installed.add("small")
    assert tollama("rm", "naive", "small", host=fake.url).stdout.decode() == "Removed naive.\nRemoved small.\n"
    assert fake.installed == set()
    assert tollama("rm", "naive", host=fake.url).returncode == 1


def test_pull_tells_progress_on_stderr(fake: Fake, tollama: Run) -> None:
    done = tollama("pull", "small", "--revision", "abc", "--no-runtime", host=fake.url)
    assert done.returncode == 0
    assert done.stdout == b""
    for status in ("pulling manifest", f"pulling {DIGEST[:12]}", "1.0/1.0 MB", "success"):
        assert status in done.stderr.decode()
    assert fake.pulls == [{"model": "small", "stream": True, "revision": "abc", "no_runtime": True}]


def test_pull_of_any_repository_of_the_hub(fake: Fake, tollama: Run) -> None:
    fake.licenses["hf:org/new@v2"] = fake.licenses["small"]
    assert tollama("pull", "hf:org/new@v2", "--name", "mine", host=fake.url).returncode == 0
    assert fake.pulls == [{"model": "hf:org/new@v2", "stream": True, "local_name": "mine"}]


def test_pull_by_a_way_of_its_own(fake: Fake, tollama: Run) -> None:
    way = {"token": "hf_mine", "endpoint": "http://hub.example", "proxy": "http://proxy.example:3128"}
    options = [word for name, value in way.items() for word in (f"--{name}", value)]
    done = tollama("pull", "small", *options, "--no-offline", host=fake.url)
    assert done.returncode == 0
    assert b"hf_mine" not in done.stdout + done.stderr
    assert fake.pulls == [{"model": "small", "stream": True, "offline": False, **way}]


@pytest.mark.parametrize(
    "wrong",
    [["m", "--license", "mit"], ["m", "--from-dir", ".", "--name", "n"], ["m", "--from-dir", ".", "--offline"],
     ["m", "--from-dir", ".", "--no-offline"], ["m", "--from-dir", ".", "--token", "t"]],
)  # fmt: skip
def test_pull_options_that_do_not_go_together(wrong: list[str], tollama: Run) -> None:
    assert tollama("pull", *wrong).returncode == 2


def test_pull_of_a_gated_model_without_a_terminal(fake: Fake, tollama: Run) -> None:
    done = tollama("pull", "gated", host=fake.url)
    assert done.returncode == 1
    assert done.stderr.decode().endswith("Hint: tollama pull gated --accept-license\n")
    assert "Traceback" not in done.stderr.decode()
    assert tollama("pull", "gated", "--accept-license", host=fake.url).returncode == 0
    assert "gated" in fake.installed


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"n\n", 1)])
def test_pull_asks_at_a_terminal(
    answer: bytes, code: int, fake: Fake, environment: dict[str, str], tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "tollama.cli", "pull", "gated", "--host", fake.url]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=tmp_path) as done:
        os.close(theirs)
        shown = b""
        while b"Do you accept it?" not in shown:
            shown += os.read(ours, 4096)
        os.write(ours, answer)
        while True:
            try:
                more = os.read(ours, 4096)
            except OSError:  # the other side has closed
                break
            if not more:
                break
            shown += more
        assert done.wait(30) == code
    os.close(ours)
    assert b"Not for commercial use." in shown
    assert b"The whole text." in shown
    assert ("gated" in fake.installed) is (code == 0)
    accepted = [(pull["accept_license"], pull["license_sha256"]) for pull in fake.pulls if "accept_license" in pull]
    assert accepted == ([(True, TEXT_SHA256)] if code == 0 else []), "the text that was shown, and no other"


def test_pull_tells_speed_and_time_left_at_a_terminal(fake: Fake, environment: dict[str, str], tmp_path: Path) -> None:
    """The rest of the file comes when both are on the screen."""
    told = threading.Event()

    def lines() -> Iterator[dict[str, object]]:
        line = {"status": f"pulling {DIGEST[:12]}", "digest": DIGEST, "total": 100_000_000}
        for done in range(1_000_000, 90_000_000, 1_000_000):
            yield line | {"completed": done}
            if told.wait(0.1):
                break
        yield line | {"completed": 100_000_000}
        yield {"status": "success"}

    fake.pull = lambda body: lines()  # type: ignore[method-assign]
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "tollama.cli", "pull", "small", "--host", fake.url]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=tmp_path) as done:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the other side has closed
            while more := os.read(ours, 4096):
                shown += more
                if re.search(rb"(?<!100\.0)/100\.0 MB[^\r]*?\d [kM]B/s[^\r]*?\d:\d\d:\d\d", shown):
                    told.set()
        assert done.wait(30) == 0
    os.close(ours)
    assert told.is_set(), shown
    assert b"success" in shown


def test_a_pull_that_breaks_off(fake: Fake, tollama: Run) -> None:
    fake.cut = True
    done = tollama("pull", "small", host=fake.url)
    assert done.returncode == 1
    assert "Error: The hub could not be reached.\nHint: Check the network" in done.stderr.decode()


@pytest.mark.parametrize(
    "command", ["list", "ps", "stop naive", "show naive", "rm naive", "pull naive", "forecast naive -n 1 -"]
)
def test_no_server(command: str, tollama: Run) -> None:
    done = tollama(*command.split(), host="127.0.0.1:9", stdin=b"ds,y\n2024-01-01,1\n")
    assert done.returncode == 1
    expected = "Error: No tollama server answers at http://127.0.0.1:9.\nHint: Start one with: tollama serve\n"
    assert done.stderr.decode() == expected


def test_the_address_comes_from_the_option_then_the_environment_then_the_config(
    fake: Fake, tollama: Run, tmp_path: Path
) -> None:
    assert tollama("list", "--host", fake.url, host="127.0.0.1:9").returncode == 0
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.json").write_text(json.dumps({"port": int(fake.url.rpartition(":")[2])}))
    assert tollama("list").returncode == 0


def test_the_options_port_is_asked_whatever_the_environment_says(tollama: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLAMA_PORT", "11500")
    for address, asked in (
        ("127.0.0.1:9", "http://127.0.0.1:9"),
        ("localhost", "http://localhost:11500"),
        ("[::1]:9", "http://[::1]:9"),
        ("::1", "http://[::1]:11500"),
        ("localhost:9/pre", "http://localhost:9/pre"),
    ):
        assert f"answers at {asked}.\n" in tollama("ps", "--host", address).stderr.decode()
    assert "answers at http://localhost:11500." in tollama("ps", "--host", "localhost", host="a:9").stderr.decode()
    monkeypatch.delenv("TOLLAMA_PORT")
    assert "answers at http://localhost:11435." in tollama("ps", "--host", "localhost", host="a:9").stderr.decode()


def test_a_malformed_config_is_an_error_not_a_traceback(tollama: Run, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.json").write_text('{"port": ')
    done = tollama("list")
    assert done.returncode == 1
    assert "line 1" in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_wrong_usage_is_2(tollama: Run) -> None:
    for wrong in (["nothing"], ["list", "--nothing"], ["serve", "--port", "x"], ["forecast"]):
        assert tollama(*wrong).returncode == 2


def test_runtime_list(tollama: Run) -> None:
    lines = tollama("runtime", "list").stdout.decode().splitlines()
    assert lines[0].split() == ["FAMILY", "STATE", "SIZE", "DIGEST", "REPAIR"]
    assert any(line.split()[:2] == ["mock", "ready"] for line in lines)
    assert any("tollama runtime install torch" in line for line in lines)
    rows = {row["family"]: row for row in json.loads(tollama("runtime", "list", "--json").stdout)}
    assert rows["mock"]["ready"] is True
    assert rows["torch"]["installed"] is False
    done = tollama("runtime", "install", "nothing")
    assert done.returncode == 1
    assert "Error: There is no such family." in done.stderr.decode()
    assert "was not installed" in tollama("runtime", "remove", "torch").stdout.decode()
