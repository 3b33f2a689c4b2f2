"""Where the values of a server's settings come from when the graph's own arguments have a say."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from deployments.ingress.desk import Desk
from deployments.ingress.info import _config
from tollama.settings import load, told


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOLLAMA_PORT", "TOLLAMA_HOST", "TOLLAMA_RUNTIMES_DIR", "TOLLAMA_SOURCES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TOLLAMA_HOME", str(tmp_path))


def config(home: Path, door: tuple[str, int] | None) -> dict[str, Any]:
    """As an ingress has it: the home is told by the graph's arguments, always."""
    return _config(cast(Desk, SimpleNamespace(settings=load(home=home), door=door)))


def test_under_serve_run_the_file_says_where_the_door_is(tmp_path: Path) -> None:
    shown = config(tmp_path, ("127.0.0.1", 5001))
    assert shown["port"] == {"value": 5001, "source": "serve_config.yaml", "env": "TOLLAMA_PORT"}
    assert shown["host"]["source"] == "default"
    assert shown["home"] == {"value": str(tmp_path), "source": "environment", "env": "TOLLAMA_HOME"}
    assert config(tmp_path, None)["port"]["source"] == "default"


def test_a_home_that_only_the_file_names(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"max_queue": 7}))
    shown = config(other, None)
    assert shown["home"] == {"value": str(other), "source": "serve_config.yaml", "env": "TOLLAMA_HOME"}
    assert shown["max_queue"] == {"value": 7, "source": "config", "env": "TOLLAMA_MAX_QUEUE"}


def test_under_tollama_serve_the_command_line_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOLLAMA_HOME")
    for name, value in (told(load(home=tmp_path, port=5002)) | {"TOLLAMA_RUNTIMES_DIR": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    shown = config(tmp_path, ("127.0.0.1", 5002))
    assert {name: shown[name]["source"] for name in ("home", "port", "host", "runtimes_dir")} == {
        "home": "option",
        "port": "option",
        "host": "default",
        "runtimes_dir": "default",
    }
