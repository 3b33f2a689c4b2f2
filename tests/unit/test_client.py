"""The client's pure parts."""

from __future__ import annotations

import pytest

from tollama.async_client import AsyncClient
from tollama.client import Client, base_url
from tollama.errors import ConfigError, TollamaError


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1:9000", "http://127.0.0.1:9000"),
        (":9000", "http://127.0.0.1:9000"),
        ("box", "http://box:11435"),
        ("0.0.0.0", "http://127.0.0.1:11435"),
        ("http://box:1/", "http://box:1"),
        ("https://box/api/", "https://box:443/api"),
        ("[::1]:9000", "http://[::1]:9000"),
        ("[::]", "http://[::1]:11435"),
    ],
)
def test_base_url(host: str, url: str) -> None:
    assert base_url(host) == url


def test_base_url_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOLLAMA_HOST", raising=False)
    monkeypatch.delenv("TOLLAMA_PORT", raising=False)
    assert base_url() == "http://127.0.0.1:11435"
    monkeypatch.setenv("TOLLAMA_HOST", "box:5")
    assert base_url() == "http://box:5"
    assert base_url("other") == "http://other:11435"
    for host in ("box:5", "http://box:5"):
        monkeypatch.setenv("TOLLAMA_HOST", host)
        monkeypatch.setenv("TOLLAMA_PORT", "6")
        assert base_url() == "http://box:6", "as the server takes it"
        assert base_url("other:7") == "http://other:7"
    monkeypatch.setenv("TOLLAMA_HOST", "https://box")
    assert base_url() == "https://box:443"


@pytest.mark.parametrize("host", ["box:port", "ftp://box", "http://[", "box:99999"])
def test_a_malformed_address_is_an_error_of_ours(host: str) -> None:
    with pytest.raises(TollamaError, match="address is not valid"):
        base_url(host)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("key", ["schl\u00fcssel", "a\nb"])
def test_a_key_that_no_header_holds_is_an_error_of_ours(
    kind: type[Client | AsyncClient], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="API key"):
        kind(api_key=key)
    monkeypatch.setenv("TOLLAMA_API_KEY", key)
    with pytest.raises(ConfigError, match="TOLLAMA_API_KEY"):
        kind()


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "ftp://127.0.0.1:9"])
def test_a_proxy_that_is_not_spoken_to_is_an_error_of_ours(
    kind: type[Client | AsyncClient], proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(ConfigError, match="proxy"):
        kind("box.example")
    kind()  # this machine is asked without one
