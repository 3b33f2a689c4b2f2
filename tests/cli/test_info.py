"""``tollama info``: of a server, and of this side alone; never a secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from filelock import FileLock

from tests.cli.fake_info import INFO
from tests.cli.fake_server import Fake, Run
from tollama.settings import SOURCES, Settings, load, told
from tollama.version import __version__

NOBODY = "127.0.0.1:9"


def test_as_a_process_with_and_without_a_server(fake: Fake, process: Run) -> None:
    done = process("info", "--json", host=fake.url)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert (shown["url"], shown["server"]) == (fake.url, INFO)
    assert shown["local"]["versions"]["tollama"] == __version__
    done = process("info", host=NOBODY)
    assert done.returncode == 0, done.stderr
    assert b"No tollama server answers at http://127.0.0.1:9. Start one with: tollama serve" in done.stdout


def test_sections_of_a_server(fake: Fake, tollama: Run) -> None:
    done = tollama("info", host=fake.url)
    shown = done.stdout.decode()
    titles = [line for line in shown.splitlines() if line and not line.startswith(" ")]
    groups = ["Server", "Versions", "Config", "Paths", "Environment", "Registry", "Models"]
    assert titles == [*groups, "Family mock", "Family torch"]
    for fact in (
        "http://127.0.0.1:8265 (log in: tollama info --dashboard-token)",
        "hf_token   [redacted]   (config)",
        "2 (mock 1, torch 1)",
        "torch, amazon/chronos-bolt-small@0123456789ab, 191.0 MB",
        "broken: the manifest is not JSON",
        "cpu, since 2026-01-01T00:00:00+00:00: mock (loaded)",
        "3 requests, 2 of them handed over",
        "crash 4",
        "crash at 2026-01-02T00:00:00+00:00 while it computed for mock",
        "RUNNER_FAILED at 2026-01-02T00:00:00+00:00",
        "is not installed. Repair: tollama runtime install torch",
        "its process failed to start several times",
    ):
        assert fact in shown
    assert f"Warning: this command is of tollama {__version__}, the server of 9.9.9." in done.stderr.decode()


def test_this_side_alone(tollama: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.json").write_text(json.dumps({"hf_token": "S3cr3t-word", "max_queue": 7}))
    monkeypatch.setenv("HTTPS_PROXY", "http://user:S3cr3t-word@proxy:3128")
    monkeypatch.setenv("HF_TOKEN", "S3cr3t-word")
    monkeypatch.setenv("TOLLAMA_HF_ENDPOINT", "https://user:S3cr3t-word@mirror.example")
    for arguments in (["info"], ["info", "--json"]):
        done = tollama(*arguments, host=NOBODY)
        assert done.returncode == 0
        assert b"S3cr3t-word" not in done.stdout + done.stderr
    shown = json.loads(done.stdout)
    assert shown["server"] is None
    here = shown["local"]
    assert here["config"]["hf_token"] == {"value": "[redacted]", "source": "environment", "env": "TOLLAMA_HF_TOKEN"}
    assert here["config"]["max_queue"] == {"value": 7, "source": "config", "env": "TOLLAMA_MAX_QUEUE"}
    assert here["config"]["hf_endpoint"]["value"] == "https://[redacted]@mirror.example"
    assert here["config"]["keep_alive"]["source"] == "default"
    assert set(here["config"]) == set(Settings.model_fields)
    assert here["environment"]["HTTPS_PROXY"] == "http://[redacted]@proxy:3128"
    assert here["environment"]["TOLLAMA_HOME"] == here["paths"]["home"] == str(tmp_path / "home")
    assert here["families"]["torch"]["runtime"]["repair"] == "tollama runtime install torch"
    assert here["families"]["mock"]["runtime"]["ready"] is True
    assert {model["name"] for model in here["models"]["installed"]} >= {"seasonal-naive", "mock"}
    assert here["registry"]["families"]["baseline"] == 3


def test_an_error_of_the_server_is_told(fake: Fake, tollama: Run) -> None:
    fake.api_key = "another"
    done = tollama("info", host=fake.url)
    assert done.returncode == 1
    assert done.stderr.decode().startswith("Error: An API key is needed.")


def test_the_dashboards_token_is_that_of_a_running_server(tollama: Run, tmp_path: Path) -> None:
    def asked(*more: str) -> tuple[int, str]:
        done = tollama("info", "--dashboard-token", *more)
        return done.returncode, (done.stdout + done.stderr).decode()

    home = tmp_path / "home"
    nobody = (1, f"Error: No server runs on the home {home}.\nHint: Start one with: tollama serve\n")
    assert asked() == nobody
    assert not home.exists()
    (home / "run").mkdir(parents=True)
    (home / "run/ray_token").write_text("0123abcd")
    (home / "run/serve.lock").touch()
    assert asked() == nobody, "a token that an earlier server left is of no use"
    with FileLock(home / "run/serve.lock"):
        assert asked() == (0, "0123abcd\n")
        assert asked("--json") == (0, '{\n  "dashboard_token": "0123abcd"\n}\n')
        (home / "run/ray_token").unlink()
        code, said = asked()
        assert (code, "RAY_ADDRESS" in said) == (1, True)
    assert asked("--host", NOBODY)[0] == 2


def test_a_servers_processes_are_told_where_settings_come_from(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"max_queue": 7, "hf_token": "word"}))
    given = load({"TOLLAMA_HOME": str(tmp_path), "TOLLAMA_KEEP_ALIVE": "1m"}, port=5000, dashboard=False)
    environment = told(given)
    assert json.loads(environment.pop(SOURCES)) == {
        "port": "option",
        "dashboard": "option",
        "max_queue": "config",
        "hf_token": "config",
        "home": "environment",
        "keep_alive": "environment",
    }
    assert environment == {"TOLLAMA_PORT": "5000", "TOLLAMA_DASHBOARD": "False"}
    again = load({"TOLLAMA_HOME": str(tmp_path), "TOLLAMA_KEEP_ALIVE": "1m", **environment})
    assert again.model_dump() == given.model_dump()
