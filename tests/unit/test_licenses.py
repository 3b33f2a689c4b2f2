"""Receipts: what makes a licence accepted, and what does not."""

from __future__ import annotations

import getpass
import hashlib
import json
from pathlib import Path

import pytest

from tests.hub import entry
from tollama import licenses
from tollama.errors import LicenseNotAccepted
from tollama.store import Home

GATED = entry("tiny", gated=True).license
FREE = entry("tiny").license


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_a_licence_that_asks_for_nothing_is_accepted(home: Home) -> None:
    assert licenses.accepted(home, "tiny", FREE)
    licenses.require(home, "tiny", FREE, text="whatever")
    assert not home.licenses.exists()


def test_one_that_asks_is_refused_until_accepted(home: Home) -> None:
    assert not licenses.accepted(home, "tiny", GATED)
    with pytest.raises(LicenseNotAccepted) as caught:
        licenses.require(home, "tiny", GATED)
    assert caught.value.hint == "tollama pull tiny --accept-license"
    assert caught.value.detail == {"license": GATED.id, "notice": GATED.notice, "url": GATED.url}
    licenses.accept(home, "Tiny", GATED)
    assert licenses.accepted(home, "TINY", GATED)
    licenses.require(home, "tiny", GATED)


def test_the_receipt_says_who_accepted_what_and_when(home: Home) -> None:
    licenses.accept(home, "tiny", GATED, text="the text", revision="a" * 40)
    receipt = json.loads((home.licenses / "tiny.json").read_text())
    assert receipt["license"] == GATED.id
    assert receipt["text_sha256"] == hashlib.sha256(b"the text").hexdigest()
    assert receipt["notice"] == GATED.notice
    assert receipt["by"].startswith(f"{getpass.getuser()}@")
    assert receipt["revision"] == "a" * 40
    assert set(receipt) > {"accepted_at", "tollama", "name"}


def test_the_acceptance_is_of_that_licence_and_that_model(home: Home) -> None:
    licenses.accept(home, "tiny", GATED)
    assert not licenses.accepted(home, "tiny", GATED.model_copy(update={"id": "another"}))
    assert not licenses.accepted(home, "other", GATED)


def test_another_text_wants_another_acceptance(home: Home) -> None:
    licenses.accept(home, "tiny", GATED, text="old")
    licenses.require(home, "tiny", GATED, text="old")
    with pytest.raises(LicenseNotAccepted, match="not the one"):
        licenses.require(home, "tiny", GATED, text="new")


def test_a_changed_receipt_is_seen_and_a_damaged_one_proves_nothing(home: Home) -> None:
    licenses.accept(home, "tiny", GATED)
    assert licenses.accepted(home, "tiny", GATED)
    path = home.licenses / "tiny.json"
    path.write_text('{"license": "test-nc"}')
    assert not licenses.accepted(home, "tiny", GATED)
    path.unlink()
    assert not licenses.accepted(home, "tiny", GATED)


def test_the_text_is_the_file_among_the_models_or_the_notice(tmp_path: Path) -> None:
    assert licenses.text(GATED, None) == GATED.notice
    assert licenses.text(GATED, tmp_path) == GATED.notice
    (tmp_path / "LICENSE.md").write_text("the licence")
    assert licenses.text(GATED, tmp_path) == "the licence"


def test_a_user_without_a_name_can_accept(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert licenses.accept(home, "tiny", GATED).by.startswith("unknown@")
