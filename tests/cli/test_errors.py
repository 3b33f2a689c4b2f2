"""A failure is one line and one hint, whatever it is: no traceback, no advice that does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.fake_server import Run

HTTP = "http://192.0.2.1:9"
"""An address that is nobody's, so that proxies count."""


def failure(done: object) -> list[str]:
    """The two lines."""
    code, out, err = done.returncode, done.stdout, done.stderr.decode()  # type: ignore[attr-defined]
    assert (code, out) == (1, b""), err
    lines: list[str] = err.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["Error", "Hint"]
    assert all(line.partition(": ")[2] for line in lines)
    return lines


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("serve --config nowhere.yaml", "nowhere.yaml cannot be read: No such file"),
        ("serve --config .", "cannot be read: Is a directory"),
        *(
            (f"serve --config {name}.yaml", "is no Serve config")
            for name in ("broken", "listed", "latin", "odd", "no-app")
        ),
        ("serve --port 65535", "there is none for Serve's own proxy"),
        ("serve --insecure --host nowhere.invalid", "nowhere.invalid:11435 cannot be used"),
        ("serve --insecure --host 192.0.2.1", "Hint: Give an address of this machine"),
        ("serve --host 0.0.0.0", "there is no API key"),
        ("list --host a:b", "--host is not valid"),
        ("list --host http://[", "address is not valid"),
        ("config get prot", "no setting"),
        ("config set port many", "port is not valid"),
        ("config key add --name a/b", "A key's name has"),
        ("config key revoke nobody", "no such key"),
        ("runtime install nothing", "no such family"),
        ("pull --from-dir nowhere mine", "There is no such folder"),
    ],
)
def test_a_command_that_cannot_go_on(arguments: str, said: str, tmp_path: Path, tollama: Run) -> None:
    for name, content in {
        "broken": "applications: [",
        "listed": "[1]",
        "odd": "applications: [tollama]",
        "no-app": "applications: []",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(content)
    (tmp_path / "latin.yaml").write_bytes(b"applications: [\xe4]")
    assert said in "\n".join(failure(tollama(*arguments.split())))


@pytest.mark.parametrize(
    "content", ["[]", "3", '{"port": ', '{"prot": 1}', '{"port": "many"}', '{"host": "a:b"}', '{"api_keys": "x"}', None]
)
def test_a_config_file_that_cannot_be_used(content: str | None, tmp_path: Path, tollama: Run) -> None:
    file = tmp_path / "home/config.json"
    file.parent.mkdir()
    if content is None:
        file.mkdir()
    else:
        file.write_text(content)
    for arguments in ("list", "serve", "config list"):
        assert str(file) in failure(tollama(*arguments.split()))[0]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("TOLLAMA_PORT", "many", "Correct TOLLAMA_PORT"),
        ("TOLLAMA_HOST", "a:b", "Correct TOLLAMA_HOST"),
        ("TOLLAMA_API_KEYS", "short", "Correct TOLLAMA_API_KEYS"),
        ("TOLLAMA_API_KEY", "schl\u00fcssel", "printable ASCII"),
        ("TOLLAMA_API_KEY", "a\nb", "printable ASCII"),
        ("ALL_PROXY", "socks5://127.0.0.1:9", "SOCKS is not spoken"),
        ("ALL_PROXY", "ftp://127.0.0.1:9", "ALL_PROXY"),
    ],
)
def test_a_variable_that_cannot_be_used(
    name: str, value: str, said: str, tollama: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    host = HTTP if name in ("TOLLAMA_API_KEY", "ALL_PROXY") else None
    assert said in failure(tollama("list", host=host))[1]


def test_an_answer_without_a_hint_gets_one(tollama: Run, fake: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from tollama import errors

    monkeypatch.setattr(fake, "get", lambda path: (_ for _ in ()).throw(errors.HubError("The hub is at fault.")))
    lines = failure(tollama("list", host=fake.url))  # type: ignore[attr-defined]
    assert lines == ["Error: The hub is at fault.", "Hint: tollama doctor tells how things are here."]


def test_secrets_in_an_error_are_masked(tollama: Run, tmp_path: Path) -> None:
    done = tollama("pull", "--from-dir", "hf_abcdefghijklmnop0123", "mine")
    assert "hf_abcdefghijklmnop0123" not in "\n".join(failure(done))
    (tmp_path / "home").mkdir()
    (tmp_path / "home/config.json").write_text(
        json.dumps({"hf_endpoint": "https://u:sesame@hub.example/hf_" + "a" * 20})
    )
    for arguments in (["config", "get", "hf_endpoint"], ["config", "list", "--json"], ["config", "list"]):
        shown = tollama(*arguments).stdout.decode()
        assert "[redacted]@hub.example/[redacted]" in shown
        assert "sesame" not in shown
