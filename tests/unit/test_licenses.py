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
from tollama.manifest import StoredLicense, sha256_of_text
from tollama.registry import Source, registry
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
    assert caught.value.detail == {
        "license": GATED.id,
        "notice": GATED.notice,
        "url": GATED.url,
        "text": GATED.notice,
        "text_sha256": sha256_of_text(GATED.notice),
    }
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


def test_a_manifests_licence_is_that_text_and_no_other(home: Home) -> None:
    stored = StoredLicense(id=GATED.id, needs_acceptance=True, notice="n", text_sha256=sha256_of_text("terms"))
    licenses.accept(home, "tiny", GATED, text="other terms")
    assert licenses.accepted(home, "tiny", GATED)
    assert not licenses.accepted(home, "tiny", stored)
    with pytest.raises(LicenseNotAccepted, match="not the one"):
        licenses.require(home, "tiny", stored)
    licenses.accept(home, "tiny", GATED, text="terms")
    licenses.accept(home, "tiny", GATED, text="newer terms")
    assert licenses.accepted(home, "tiny", stored), "what was accepted once stays accepted"
    licenses.accept(home, "tiny", GATED.model_copy(update={"id": "another"}), text="newer terms")
    assert not licenses.accepted(home, "tiny", stored)


def test_what_is_refused_shows_the_text_to_accept(home: Home, tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("x" * 5000 + "\x1b[2J")
    with pytest.raises(LicenseNotAccepted) as caught:
        licenses.require(home, "tiny", GATED, snapshot=tmp_path, hint="so")
    text = caught.value.detail["text"]
    assert text == "x" * licenses.SHOWN + "\n[... 1003 more characters]"
    assert caught.value.hint == "so"
    assert licenses.summary("a\x1b\tb\n\u202e") == "a\tb\n"


@pytest.mark.parametrize("name", ["License.txt", "LICENCE", "license.md"])
@pytest.mark.parametrize("saved", [b"one\r\ntwo\xff\n", b"one\ntwo\xff\n", b"one\rtwo\xff\r"])
def test_a_text_is_the_same_by_whichever_name_and_line_ends(tmp_path: Path, name: str, saved: bytes) -> None:
    (tmp_path / name).write_bytes(saved)
    assert licenses.text(GATED, tmp_path) == "one\ntwo\ufffd\n"


def test_a_receipt_is_of_the_model_from_one_place(home: Home) -> None:
    one, two = (Source(type="huggingface", repo_id=repo, revision="main") for repo in ("A/One", "b/two"))
    licenses.accept(home, "mine", GATED, one)
    assert licenses.accepted(home, "mine", GATED, one)
    assert licenses.accepted(home, "mine", GATED, one.model_copy(update={"repo_id": "a/one", "revision": "v2"}))
    for other in (two, Source(type="local")):
        assert not licenses.accepted(home, "mine", GATED, other)
        with pytest.raises(LicenseNotAccepted, match="accepted first"):
            licenses.require(home, "mine", GATED, other)
    assert licenses.accept(home, "mine", GATED, two, text="x").earlier == ()


def test_an_older_receipt_knows_no_place_and_is_of_the_registrys_or_the_installed_model(home: Home) -> None:
    source = Source(type="huggingface", repo_id="a/one", revision="main")
    stored = StoredLicense(id=GATED.id, needs_acceptance=True, text_sha256=sha256_of_text(GATED.notice))
    for name in ("chronos-2", "mine"):
        licenses.accept(home, name, GATED)
    assert licenses.accepted(home, "chronos-2", GATED, source)
    assert licenses.accepted(home, "mine", stored, source)
    assert not licenses.accepted(home, "mine", GATED, source)


def test_a_licence_that_is_a_link_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "LICENSE").symlink_to(tmp_path / "secret")
    assert licenses.text(GATED, tmp_path / "snapshot") == GATED.notice


@pytest.mark.parametrize(
    ("id", "called", "asks"),
    [
        ("apache-2.0", "Apache-2.0", False),
        ("MIT", "MIT", False),
        ("cc-by-nc-4.0", "CC-BY-NC-4.0", True),
        ("acme-1", "acme-1", True),
        (None, "unknown", True),
        ("", "unknown", True),
        ("a" * 65, "unknown", True),
        ("\n", "unknown", True),
    ],
)
def test_licences_by_their_id(id: str | None, called: str, asks: bool) -> None:
    terms = licenses.named(id)
    assert (terms.id, terms.needs_acceptance) == (called, asks)
    assert terms.notice


def test_a_licence_that_the_registry_takes_for_free_is_permissive_and_the_other_way_round() -> None:
    for known in registry().values():
        if known.license.id.lower() in licenses.known() and known.license.verified:
            assert licenses.named(known.license.id).needs_acceptance == known.license.needs_acceptance
