"""The client's pure parts."""

from __future__ import annotations

import pytest

from tollama.client import base_url
from tollama.errors import TollamaError


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
    assert base_url() == "http://127.0.0.1:11435"
    monkeypatch.setenv("TOLLAMA_HOST", "box:5")
    assert base_url() == "http://box:5"
    assert base_url("other") == "http://other:11435"


@pytest.mark.parametrize("host", ["box:port", "ftp://box", "http://[", "box:99999"])
def test_a_malformed_address_is_an_error_of_ours(host: str) -> None:
    with pytest.raises(TollamaError, match="address is not valid"):
        base_url(host)
