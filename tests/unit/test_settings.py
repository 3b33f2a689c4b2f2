"""Where a setting comes from, and what a wrong one says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tollama.errors import ConfigError
from tollama.settings import Settings, env_name, load


def test_option_beats_environment_beats_config_beats_default(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"keep_alive": "1m", "max_queue": 7, "port": 1000}')
    env = {"TOLLAMA_HOME": str(tmp_path), "TOLLAMA_MAX_QUEUE": "8", "TOLLAMA_PORT": "2000"}
    settings = load(env, port=3000)
    assert (settings.keep_alive, settings.max_queue, settings.port) == ("1m", 8, 3000)
    assert settings.request_timeout == 300
    assert settings.sources == {
        "home": "environment",
        "keep_alive": "config",
        "max_queue": "environment",
        "port": "option",
    }


def test_defaults_are_the_contracts() -> None:
    settings = load({"HOME": "/nowhere"}, home="/nowhere")
    assert (settings.host, settings.port, settings.serve_port) == ("127.0.0.1", 11435, 11436)
    assert (settings.keep_alive, settings.family_linger, settings.request_timeout) == ("5m", 60, 300)
    assert (settings.max_body, settings.max_queue) == (128_000_000, 512)
    assert settings.runtimes == Path("/nowhere/runtimes")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("0.0.0.0", ("0.0.0.0", 11435)),
        ("127.0.0.1:12000", ("127.0.0.1", 12000)),
        ("http://box:12000/", ("box", 12000)),
        (":12000", ("127.0.0.1", 12000)),
        ("::1", ("::1", 11435)),
        ("[::1]:9000", ("::1", 9000)),
        ("2001:db8::10:1", ("2001:db8::10:1", 11435)),
        ("http://[2001:db8::1]:9000", ("2001:db8::1", 9000)),
        ("x.example/pre", ("x.example", 11435)),
        ("x.example:9000/pre", ("x.example", 9000)),
    ],
)
def test_host_is_written_as_for_ollama(tmp_path: Path, host: str, expected: tuple[str, int]) -> None:
    settings = load({"TOLLAMA_HOST": host, "TOLLAMA_HOME": str(tmp_path)})
    assert (settings.host, settings.port) == expected


def test_a_port_set_by_itself_beats_the_one_in_host(tmp_path: Path) -> None:
    settings = load({"TOLLAMA_HOST": "a:1", "TOLLAMA_PORT": "2", "TOLLAMA_HOME": str(tmp_path)})
    assert (settings.host, settings.port) == ("a", 2)


@pytest.mark.parametrize(
    ("config", "env", "option", "expected"),
    [
        ({}, {"PORT": "2"}, "b:9", ("b", 9)),
        ({}, {"PORT": "2"}, "b", ("b", 2)),
        ({}, {"HOST": "a:1"}, "b", ("b", 11435)),
        ({}, {"HOST": "a:1", "PORT": "2"}, "b", ("b", 2)),
        ({}, {"HOST": "a:1", "PORT": "2"}, "b:9", ("b", 9)),
        ({"host": "c:3"}, {"HOST": "a"}, None, ("a", 11435)),
        ({"host": "c:3"}, {"PORT": "2"}, None, ("c", 2)),
        ({"host": "c", "port": 3}, {"HOST": "a"}, "b", ("b", 3)),
        ({"port": 3}, {"HOST": "a:1"}, None, ("a", 1)),
    ],
)
def test_a_port_goes_with_its_host(
    tmp_path: Path, config: dict[str, Any], env: dict[str, str], option: str | None, expected: tuple[str, int]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    settings = load({f"TOLLAMA_{name}": value for name, value in env.items()}, home=tmp_path, host=option)
    assert (settings.host, settings.port) == expected


@pytest.mark.parametrize("host", ["a:b", "a:99999", "http://[", "[::1"])
def test_what_is_no_address_is_named(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match=r"^--host is not valid"):
        load({}, home=tmp_path, host=host)
    with pytest.raises(ConfigError, match=r"^TOLLAMA_HOST is not valid") as told:
        load({"TOLLAMA_HOST": host}, home=tmp_path)
    assert told.value.hint


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"port": 1,\n "prot": 2}', "line 2"),
        ('{"port": 1,\n "host" 2}', "line 2"),
        ("[]", "line 1"),
        ('{"port": "many"}', "config.json, line 1: port"),
        ('{"keep_alive": "5 minutes"}', "keep_alive"),
    ],
)
def test_a_malformed_config_file_names_the_fault(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=told):
        load({"TOLLAMA_HOME": str(tmp_path)})


def test_a_malformed_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="TOLLAMA_PORT"):
        load({"TOLLAMA_HOME": str(tmp_path), "TOLLAMA_PORT": "abc"})
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is"):
        load({"TOLLAMA_HOME": str(tmp_path), "HF_HUB_OFFLINE": "perhaps"})
    with pytest.raises(ConfigError, match="TOLLAMA_OFFLINE is"):
        load({"TOLLAMA_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "TOLLAMA_OFFLINE": "perhaps"})


@pytest.mark.parametrize("level", ["debug", "Debug", "DEBUG"])
def test_a_log_level_is_written_as_one_likes(tmp_path: Path, level: str) -> None:
    assert load({"TOLLAMA_HOME": str(tmp_path), "TOLLAMA_LOG_LEVEL": level}).log_level == "DEBUG"


def test_the_hubs_own_variables_are_read_when_ours_is_not_set(tmp_path: Path) -> None:
    env = {"TOLLAMA_HOME": str(tmp_path), "HF_ENDPOINT": "http://hub", "HF_TOKEN": "theirs", "TOLLAMA_HF_TOKEN": "ours"}
    settings = load(env)
    assert (settings.hf_endpoint, settings.hf_token) == ("http://hub", "ours")


def test_every_setting_has_a_name_and_a_help_line() -> None:
    for name, field in Settings.model_fields.items():
        assert env_name(name) == f"TOLLAMA_{name.upper()}"
        assert field.description
        assert field.description.endswith((".", ")."))
