"""A planted secret never comes out, wherever it was put; what is none stays readable."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollama.redaction import MASK, redacted, secret, text

NAMES = [
    "token", "HF_TOKEN", "hfToken", "TOLLAMA_API_KEYS", "api_key", "apiKey", "x-api-key", "key", "OPENAI_API_KEY",
    "password", "DB_PASSWORD", "passwd", "pwd", "db_pass", "secret", "client_secret", "AWS_SECRET_ACCESS_KEY",
    "Authorization", "Proxy-Authorization", "Cookie", "credentials", "access_token", "signature", "sshkey",
]  # fmt: skip
HARMLESS = [
    "host", "port", "home", "keep_alive", "keep_runtimes", "max_queue", "hf_endpoint", "RAY_AUTH_TOKEN_PATH",
    "RAY_AUTH_MODE", "key_file", "author", "tokenizer", "device", "monitor", "compass", "PATH", "HUB_UNAUTHORIZED",
]  # fmt: skip

LETTERS = st.characters(min_codepoint=33, max_codepoint=126)
bare = st.text(LETTERS.filter(lambda c: c not in "&\"'\\"), min_size=6, max_size=24).map(lambda s: f"Zq{s}qZ")
wordy = st.text(LETTERS | st.just(" "), min_size=6, max_size=24).map(lambda s: f"Zq{s}qZ")
alphanumeric = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789", min_size=34, max_size=40)
harmless = st.sampled_from(["", "INFO", "/home/somebody", "http://127.0.0.1:11435", "5m"]) | st.integers() | st.none()

Plant = Callable[[str, str], Any]
BARE: list[Plant] = [
    lambda name, hidden: f"https://user:{hidden}@hub.example/models",
    lambda name, hidden: f"http://:{hidden}@proxy.example:3128",
    lambda name, hidden: f"see https://hub.example/a?x=1&{name}={hidden}&y=2 for more",
    lambda name, hidden: f"{name}={hidden}",
    lambda name, hidden: f"curl --{name} {hidden} http://127.0.0.1",
    lambda name, hidden: f"Authorization: Bearer {hidden}",
    lambda name, hidden: f"sent with Bearer {hidden}",
    lambda name, hidden: f"Authorization: Basic {hidden}",
    lambda name, hidden: {f"https://user:{hidden}@hub.example": 1},
]
QUOTED: list[Plant] = [
    lambda name, hidden: {name: hidden},
    lambda name, hidden: {name: [{"value": hidden}]},
    lambda name, hidden: {name: {"source": hidden}},
    lambda name, hidden: [{"name": name, "value": hidden}],
    lambda name, hidden: [{"key": name, "value": hidden, "source": "config"}],
    lambda name, hidden: ["serve", f"--{name}", hidden],
    lambda name, hidden: [("Accept", "*/*"), (name, hidden)],
    lambda name, hidden: {name: hidden.encode()},
    lambda name, hidden: "sent " + json.dumps({"a": 1, name: hidden}),
    lambda name, hidden: json.dumps({"inner": json.dumps({name: hidden, "b": 2})}),
]


def leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(key)
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    else:
        yield str(value)


def nested(planted: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """``planted`` somewhere inside lists, tuples and mappings, beside what is harmless."""
    around = st.sampled_from(["families", "environment", "0", "config", "value"])

    def deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        listed = st.tuples(harmless, inner, harmless)
        return listed | listed.map(list) | st.builds(lambda name, value: {name: value, "n": 1}, around, inner)

    return st.recursive(planted, deeper, max_leaves=4)


@settings(deadline=None)
@given(data=st.data())
def test_a_planted_secret_never_survives(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(NAMES))
    hidden, plants = data.draw(st.tuples(bare, st.just(BARE)) | st.tuples(wordy, st.just(QUOTED)))
    planted = data.draw(st.sampled_from(plants))(name, hidden)
    shown = redacted(data.draw(nested(st.just(planted))))
    for leaf in leaves(shown):
        assert hidden not in leaf
        assert json.dumps(hidden)[1:-1] not in leaf
    assert any(MASK in leaf for leaf in leaves(shown))
    assert redacted(shown) == shown


@settings(deadline=None)
@given(before=st.text(max_size=10), hidden=alphanumeric, after=st.text(" ,.;)\n", max_size=5))
def test_a_hubs_token_is_known_by_its_shape(before: str, hidden: str, after: str) -> None:
    assert hidden not in text(f"{before}hf_{hidden}{after}")


@settings(deadline=None)
@given(st.recursive(harmless | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_any_json_is_taken_and_masking_twice_is_masking_once(value: Any) -> None:
    once = redacted(value)
    assert redacted(once) == once
    json.dumps(once)


@pytest.mark.parametrize("name", NAMES)
def test_names_of_secrets(name: str) -> None:
    assert secret(name)
    assert redacted({name: 12345}) == {name: MASK}


@pytest.mark.parametrize("name", HARMLESS)
def test_names_of_other_things(name: str) -> None:
    assert not secret(name)
    assert redacted({name: "plain words, http://127.0.0.1:11435/x?y=1"}) == {
        name: "plain words, http://127.0.0.1:11435/x?y=1"
    }


def test_what_is_not_set_is_no_secret() -> None:
    unset = {"hf_token": None, "password": "", "api_keys": [], "secret": False}
    assert redacted(unset) == unset


def test_what_is_around_a_secret_stays() -> None:
    assert text("https://user:word@hub.example:8443/a?b=1") == f"https://{MASK}@hub.example:8443/a?b=1"
    assert text("x?token=abc&page=2") == f"x?token={MASK}&page=2"
    assert text('{"token": "abc", "page": 2}') == f'{{"token": "{MASK}", "page": 2}}'
    assert text("Authorization: Bearer abc") == f"Authorization: {MASK}"
    assert text("user:word@proxy.example:3128") == f"{MASK}@proxy.example:3128"


@pytest.mark.parametrize("plain", ["disk-usage-forecaster-of-mine", "/srv/task-forecasting-experiments/models"])
def test_words_that_look_like_a_key_in_their_middle_stay(plain: str) -> None:
    assert text(plain) == plain
    assert MASK in text("sk-abcdefghijklmnopqrst")


def test_other_types_become_text_and_sequences_lists() -> None:
    class Odd:
        def __str__(self) -> str:
            return "https://a:b@c"

    given: Mapping[str, Any] = {"home": Path("/tmp/x"), "pair": (1, 2.5), "odd": Odd(), "raw": b"token=x"}
    assert redacted(given) == {"home": "/tmp/x", "pair": [1, 2.5], "odd": f"https://{MASK}@c", "raw": f"token={MASK}"}


def test_long_texts_take_no_time_to_speak_of() -> None:
    for part in ("a=", "a-", "://", "x:", "token=", '"token":', "bearer ", "@", "a@", "https://a:", "eyJaaaaaaaaa."):
        assert len(text(part * 2_000)) > 0
