"""API keys in the ingress: what is kept of them, what passes, and how the config file is followed."""

from __future__ import annotations

import hmac
import json
from pathlib import Path

import pytest

from deployments import exposure
from deployments.ingress import guard
from deployments.ingress.guard import Keys
from tollama import keys
from tollama.errors import ConfigError, http_table
from tollama.network import on_loopback, require_guarded
from tollama.redaction import MASK, text
from tollama.settings import Settings, load

OTHER = "tlm_" + "x" * 43


def sent(key: str, scheme: str = "Bearer") -> list[tuple[bytes, bytes]]:
    return [(b"host", b"a"), (b"authorization", f"{scheme} {key}".encode())]


def configured(home: Path, *made: keys.ApiKey) -> Settings:
    (home / "config.json").write_text(json.dumps({"api_keys": [key.model_dump(mode="json") for key in made]}))
    return load({}, home=home)


def test_of_a_key_only_a_hash_is_kept_and_its_text_is_known_by_its_shape() -> None:
    made, kept = keys.made("laptop")
    assert made not in kept.model_dump_json()
    assert keys.matches(made.encode(), [kept.sha256])
    assert not keys.matches(OTHER.encode(), [kept.sha256])
    assert keys.made("laptop")[0] != made
    assert text(f"the key is {made}, keep it") == f"the key is {MASK}, keep it"


def test_keys_are_compared_in_constant_time_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []

    def spy(sent: str, known: str) -> bool:
        compared.append((sent, known))
        return real(sent, known)

    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", spy)
    (one, first), (other, second) = keys.made("one"), keys.made("other")
    hashes = [first.sha256, second.sha256]
    for key, known in ((one, True), (other, True), (OTHER, False)):
        compared.clear()
        assert keys.matches(key.encode(), hashes) is known
        assert compared == [(keys.digest(key.encode()), kept) for kept in hashes]


def test_keys_of_the_environment_replace_those_of_the_file(tmp_path: Path) -> None:
    made, kept = keys.made("laptop")
    configured(tmp_path, kept)
    settings = load({"TOLLAMA_API_KEYS": f"{OTHER}, {'y' * 16}"}, home=tmp_path)
    admit = Keys(settings).admit
    assert [admit(sent(key)) for key in (OTHER, "y" * 16, made)] == [True, True, False]
    assert OTHER not in settings.model_dump_json()
    for wrong, said in (("short", "at least 16 characters"), ("\u00e4" * 16, "printable ASCII")):
        with pytest.raises(ConfigError, match=f"TOLLAMA_API_KEYS is not valid: an API key has {said}"):
            load({"TOLLAMA_API_KEYS": wrong}, home=tmp_path)


@pytest.mark.parametrize("written", [OTHER, [OTHER]])
def test_a_keys_text_is_not_taken_from_the_file(tmp_path: Path, written: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"port": 1, "api_keys": written}, indent=1))
    with pytest.raises(ConfigError, match="line 3: api_keys is not valid: keys are kept as hashes") as told:
        load({}, home=tmp_path)
    assert OTHER not in str(told.value)
    assert "tollama config key add" in str(told.value)


def test_two_keys_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two keys have one name"):
        configured(tmp_path, keys.made("a")[1], keys.made("a")[1])


def test_the_file_is_followed_while_the_server_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "LOOK_S", -1.0)
    first, kept = keys.made("first")
    known = Keys(configured(tmp_path))
    assert known.admit([]), "no key is asked for where there is none"
    configured(tmp_path, kept)
    assert [known.admit(sent(key)) for key in (first, OTHER)] == [True, False]
    assert not known.admit([])
    assert not known.admit(sent(first, "Basic"))
    (tmp_path / "config.json").write_text("{")
    assert [known.admit(sent(key)) for key in (first, OTHER)] == [True, False], "a broken file changes nothing"
    (tmp_path / "config.json").unlink()
    assert known.admit([])


def test_beyond_this_machine_no_key_at_all_is_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "LOOK_S", -1.0)
    made, kept = keys.made("only")
    known = Keys(configured(tmp_path, kept), needed=True)
    assert known.admit(sent(made))
    configured(tmp_path)
    assert not known.admit(sent(made))
    assert not known.admit([])


@pytest.mark.parametrize(
    ("host", "near"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True), ("localhost", True), ("0.0.0.0", False),
     ("::", False), ("192.168.1.2", False), ("box", False), ("", False), (None, False)],
)  # fmt: skip
def test_what_is_this_machine(host: str | None, near: bool) -> None:
    assert on_loopback(host) is near
    settings = Settings()
    if near:
        require_guarded(host, "The API", settings)
    else:
        with pytest.raises(ConfigError, match="no API key") as told:
            require_guarded(host, "The API", settings)
        assert "--insecure" in told.value.hint
    require_guarded(host, "The API", settings.model_copy(update={"insecure": True}))
    require_guarded(host, "The API", settings.model_copy(update={"api_keys": (keys.made("a")[1],)}))


@pytest.mark.parametrize(("door", "proxy", "what"), [("0.0.0.0", "127.0.0.1", "API"), (None, "0.0.0.0", "proxy")])
def test_a_graph_that_others_reach_is_not_built_without_keys(
    door: str | None, proxy: str, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.touch(mode=0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setattr(exposure, "_proxy", lambda: proxy)
    with pytest.raises(ConfigError, match=what):
        exposure.exposed(door, Settings())
    assert token.stat().st_mode & 0o777 == 0o600, "Ray writes it readable by all"
    assert exposure.exposed(door, Settings(insecure=True))
    monkeypatch.setattr(exposure, "_proxy", lambda: "127.0.0.1")
    assert not exposure.exposed("127.0.0.1", Settings())
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ConfigError, match="no token"):
        exposure.exposed("127.0.0.1", Settings(api_keys=(keys.made("a")[1],)))


def test_the_hints_of_errors_are_not_masked() -> None:
    for error in http_table().values():
        assert text(error.default_hint) == error.default_hint
