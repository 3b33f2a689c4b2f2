"""``tollama config``: what holds and why, the file that is changed, and the API keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.fake_server import Run
from tollama import keys
from tollama.settings import Settings, load


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "home/config.json"


def told(tollama: Run, *arguments: str, code: int = 0) -> str:
    """What ``tollama config`` prints where the result goes; where advice goes, for a failure."""
    done = tollama("config", *arguments)
    assert done.returncode == code, done.stderr
    return (done.stderr if code else done.stdout).decode()


def test_as_a_process(process: Run, file: Path) -> None:
    done = process("config", "set", "max_queue", "7")
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    assert process("config", "get", "max_queue").stdout == b"7\n"
    assert file.stat().st_mode & 0o777 == 0o600


def test_every_setting_is_listed_with_where_it_comes_from(
    tollama: Run, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLLAMA_KEEP_ALIVE", "1m")
    told(tollama, "set", "max_queue", "7")
    shown = json.loads(told(tollama, "list", "--json"))
    assert list(shown) == list(Settings.model_fields)
    assert shown["max_queue"] == {
        "value": 7,
        "default": 512,
        "source": "config",
        "env": "TOLLAMA_MAX_QUEUE",
        "description": "Waiting requests per family; more are answered 503.",
    }
    assert (shown["keep_alive"]["source"], shown["port"]["source"]) == ("environment", "default")
    rows = [line.split() for line in told(tollama, "list").splitlines()]
    assert rows[0] == ["KEY", "VALUE", "SOURCE", "DEFAULT", "ENVIRONMENT"]
    assert ["max_queue", "7", "config", "512", "TOLLAMA_MAX_QUEUE"] in rows
    one = json.loads(told(tollama, "get", "max_queue", "--json"))
    assert one == {"key": "max_queue", **shown["max_queue"]}


@pytest.mark.parametrize(
    ("key", "text", "kept"),
    [
        ("port", "12000", 12000),
        ("dashboard", "no", False),
        ("keep_alive", "10m", "10m"),
        ("keep_alive", "-1", "-1"),
        ("family_linger", "2.5", 2.5),
        ("cors_origins", "https://a.example, http://b.example:81", ["https://a.example", "http://b.example:81"]),
        ("log_format", "text", "text"),
    ],
)
def test_a_value_is_kept_in_its_own_type(tollama: Run, file: Path, key: str, text: str, kept: object) -> None:
    told(tollama, "set", key, text)
    assert json.loads(file.read_text()) == {key: kept}
    assert load({}, home=file.parent).sources[key] == "config"
    told(tollama, "unset", key)
    assert json.loads(file.read_text()) == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["set", "port", "many"], "port is not valid: "),
        (["set", "port", "0"], "port is not valid: "),
        (["set", "keep_alive", "5 minutes"], "keep_alive is not valid: "),
        (["set", "cors_origins", "a.example"], "an origin is a scheme, a host"),
        (["set", "prot", "1"], "Did you mean port?"),
        (["unset", "prot"], "'prot' is no setting"),
        (["get", "prot"], "'prot' is no setting"),
        (["set", "home", "/x"], "TOLLAMA_HOME"),
        (["set", "api_keys", "x"], "tollama config key add"),
        (["key", "add", "--name", "a b"], "A key's name has letters"),
        (["key", "revoke", "nobody"], "There is no such key"),
    ],
)
def test_what_cannot_be_set_changes_nothing(tollama: Run, file: Path, arguments: list[str], said: str) -> None:
    assert said in told(tollama, *arguments, code=1)
    assert not file.exists()


def test_a_wrong_value_in_the_file_is_named_and_can_be_mended(tollama: Run, file: Path) -> None:
    file.parent.mkdir()
    file.write_text('{\n "max_queue": "many",\n "port": 12000\n}')
    assert f"{file}, line 2: max_queue is not valid: " in told(tollama, "list", code=1)
    assert told(tollama, "path") == f"{file}\n"
    assert json.loads(told(tollama, "path", "--json")) == {"path": str(file)}
    assert "max_queue is not valid: " in told(tollama, "set", "port", "12001", code=1)
    told(tollama, "set", "max_queue", "9")
    assert json.loads(file.read_text()) == {"max_queue": 9, "port": 12000}
    file.write_text('{\n "max_queue": 9\n "port": 1}')
    assert f"{file}, line 3: " in told(tollama, "set", "port", "12001", code=1)
    assert "line 3" in told(tollama, "list", code=1)


def test_secrets_are_shown_when_asked_for_only(tollama: Run) -> None:
    told(tollama, "set", "hf_token", "Zq9-hidden-word")
    told(tollama, "set", "hf_endpoint", "https://user:Zq9-hidden-word@mirror.example")
    for arguments in (["list"], ["list", "--json"], ["get", "hf_token"], ["get", "hf_endpoint"]):
        assert "Zq9-hidden-word" not in told(tollama, *arguments)
    assert told(tollama, "get", "hf_endpoint") == "https://[redacted]@mirror.example\n"
    assert told(tollama, "get", "hf_token", "--reveal") == "Zq9-hidden-word\n"
    assert told(tollama, "get", "hf_endpoint", "--reveal", "--json").count("Zq9-hidden-word") == 1
    for shown in ([], ["--json"]):
        assert told(tollama, "list", "--reveal", *shown).count("Zq9-hidden-word") == 2


def test_a_key_is_shown_once_and_its_hash_is_kept(tollama: Run, file: Path) -> None:
    done = tollama("config", "key", "add", "--name", "laptop")
    made = done.stdout.decode().strip()
    assert made.startswith(keys.PREFIX)
    assert b"not shown again" in done.stderr
    assert made not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    second = json.loads(told(tollama, "key", "add", "--json"))
    assert second["name"] == "key-1"
    hashes = [key.sha256 for key in load({}, home=file.parent).api_keys]
    assert keys.matches(made.encode(), hashes)
    assert keys.matches(second["key"].encode(), hashes)
    assert "already" in told(tollama, "key", "add", "--name", "laptop", code=1)
    listed = json.loads(told(tollama, "key", "list", "--json"))
    assert [(one["name"], one["source"]) for one in listed] == [("laptop", "config"), ("key-1", "config")]
    assert "laptop" in told(tollama, "key", "list")
    told(tollama, "key", "revoke", "laptop")
    assert [key.name for key in load({}, home=file.parent).api_keys] == ["key-1"]
    done = tollama("config", "key", "revoke", "key-1")
    assert b"No key is left" in done.stderr
    assert json.loads(file.read_text()) == {}


def test_a_keys_text_in_the_file_is_told_and_not_kept(tollama: Run, file: Path) -> None:
    file.parent.mkdir()
    file.write_text(json.dumps({"api_keys": keys.PREFIX + "x" * 20}))
    for arguments in (["list"], ["set", "port", "12000"], ["key", "add"]):
        assert "tollama config key add, or set TOLLAMA_API_KEYS" in told(tollama, *arguments, code=1)
    assert "port" not in file.read_text()


def test_what_the_environment_hides_is_said(tollama: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLAMA_API_KEYS", "x" * 20)
    done = tollama("config", "key", "add")
    assert b"TOLLAMA_API_KEYS is set and hides the file's value." in done.stderr
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert b"HF_HUB_OFFLINE is set and hides" in tollama("config", "set", "offline", "no").stderr


def test_a_server_for_others_needs_a_key_or_to_be_told(tollama: Run) -> None:
    done = tollama("serve", "--host", "0.0.0.0")
    assert done.returncode == 1
    assert b"there is no API key" in done.stderr
    assert b"--insecure" in done.stderr
