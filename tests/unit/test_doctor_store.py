"""What the doctor sees in a store, and what it mends there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import LoopbackHub, safetensors
from tests.unit.test_store import install, staged
from tests.unit.test_store import manifest as manifest_of
from tollama import doctor, licenses
from tollama.doctor import Check
from tollama.settings import Settings
from tollama.store import Home, Manifest, Store, in_use

REPO = "org/tiny"
FILES: dict[str, bytes | Path] = {"config.json": b"{}", "model.safetensors": safetensors(3)}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LoopbackHub]:
    with LoopbackHub(tmp_path) as hub:
        yield hub


def settings(home: Home, **changed: object) -> Settings:
    return Settings(home=home.root, runtimes_dir=home.root / "runtimes").model_copy(update=changed)


def pulled(home: Home, hub: LoopbackHub) -> Manifest:
    """A model of the hub, installed from its branch, as the store has it."""
    commit = hub.add(REPO, FILES)
    files = {name: body for name, body in FILES.items() if isinstance(body, bytes)}
    return install(Store(home), files=files, commit=commit)


def models(home: Home, *, quick: bool = False, repair: bool = False, **changed: object) -> dict[str, Check]:
    found = doctor.models(settings(home, **changed), print, quick=quick, repair=repair)
    return {check.name: check for check in found}


def spoil(there: Manifest) -> None:
    path = there.snapshot / "model.safetensors"
    path.write_bytes(bytes(path.stat().st_size))


def test_a_file_with_another_content_is_found_unless_it_has_to_be_quick(home: Home, hub: LoopbackHub) -> None:
    there = pulled(home, hub)
    assert models(home) == {"models": Check("models", "ok", "1 pulled and whole")}
    spoil(there)
    found = models(home)
    assert (found["model tiny"].status, found["models"].detail) == ("fail", "0 pulled and whole")
    assert "model.safetensors has another content" in found["model tiny"].detail
    assert list(models(home, quick=True)) == ["models"]


@pytest.mark.parametrize("lost", [False, True])
def test_what_is_damaged_is_pulled_again_at_its_commit(home: Home, hub: LoopbackHub, lost: bool) -> None:
    there = pulled(home, hub)
    hub.add(REPO, FILES | {"config.json": b"[2]"})
    (there.snapshot / "model.safetensors").unlink() if lost else spoil(there)
    found = models(home, repair=True, hf_endpoint=hub.url)
    assert found == {"models": Check("models", "ok", "1 pulled and whole")}
    again = Store(home).get("tiny")
    assert again is not None
    assert (again.files, again.resolved.commit_sha, again.source) == (
        there.files,
        there.resolved.commit_sha,
        there.source,
    )
    assert models(home) == found


def test_one_that_cannot_be_pulled_says_why(home: Home, hub: LoopbackHub) -> None:
    spoil(pulled(home, hub))
    hub.status = 503
    (failed,) = (check for name, check in models(home, repair=True, hf_endpoint=hub.url).items() if name != "models")
    assert failed.status == "fail"
    assert "could not be pulled: The hub is overloaded" in failed.detail
    before = len(hub.requests)
    assert models(home, repair=True, hf_endpoint=hub.url, offline=True)["model tiny"].status == "fail"
    assert len(hub.requests) == before


def test_what_was_left_over_is_told_and_cleared_away(home: Home) -> None:
    assert doctor.store(settings(home), repair=True) == Check("store", "ok", "nothing is left over")
    assert not home.root.exists(), "a doctor leaves no traces"
    store = Store(home)
    for number in range(3):
        content = {"a": bytes([number])}
        there = store.install(manifest_of("tiny", content), staged(store, "tiny", content), keep=9)
        os.utime(there.snapshot, (number,) * 2)
    left = store.staging("other")
    found = doctor.store(settings(home), repair=False)
    assert (found.status, found.hint) == ("warn", "tollama doctor --fix")
    assert str(left) in found.detail
    assert found.detail.count("snapshot") == 1
    with in_use(home.cache):  # of a pull that is at work
        assert str(left) not in doctor.store(settings(home), repair=True).detail
        assert left.exists()
    assert doctor.store(settings(home), repair=True) == Check("store", "ok", "1 removed that were left over")
    assert not left.exists()
    assert len(list((home.models / "tiny").glob("snapshot*"))) == 2
    assert store.get("tiny") is not None


def test_a_receipt_that_cannot_be_read_is_told(home: Home) -> None:
    there = install(Store(home))
    licenses.accept(home, "fine", there.license)
    (home.licenses / "torn.json").write_text("{")
    found = doctor.store(settings(home), repair=True)
    assert (found.status, found.hint) == ("warn", "tollama pull torn --accept-license")
    assert "torn" in found.detail
    assert "fine" not in found.detail


def test_the_standard_proxy_stands_above_that_of_the_config_file(
    home: Home, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = settings(home, hf_endpoint="http://hub.invalid", proxies="http://proxy.invalid")
    ours._sources["proxies"] = "config"
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, hub.url)
    assert doctor.hub(ours).status == "ok"
    ours._sources["proxies"] = "environment"
    assert doctor.hub(ours).status == "warn"
