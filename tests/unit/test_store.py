"""Manifests and snapshots on disk: whole or absent, whatever happens in between."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.hub import entry
from tollama import store as module
from tollama.errors import DigestMismatch, ModelNotFound, ModelNotInstalled
from tollama.manifest import SCHEMA
from tollama.store import (
    Broken,
    Home,
    Manifest,
    Resolved,
    Store,
    StoredFile,
    StoredLicense,
    atomic_write,
    in_use,
)

FILES = {"config.json": b"{}", "sub/model.safetensors": b"weights"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(Home(tmp_path / "home"))


def manifest(name: str, files: dict[str, bytes], commit: str = "a" * 40) -> Manifest:
    known = entry(name)
    now = datetime.now(UTC)
    return Manifest(
        name=name,
        family=known.family,
        adapter=known.adapter,
        source=known.source,
        resolved=Resolved(commit_sha=commit),
        size_bytes=sum(map(len, files.values())),
        files=tuple(
            StoredFile(path=path, size=len(body), sha256=hashlib.sha256(body).hexdigest())
            for path, body in files.items()
        ),
        pulled_at=now,
        installed_at=now,
        license=StoredLicense(id="mit"),
        capabilities=known.capabilities,
        defaults=known.defaults,
        requires=known.requires,
        details=known.details,
    )


def staged(store: Store, name: str, files: dict[str, bytes]) -> Path:
    folder = store.staging(name)
    for path, body in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(body)
    return folder


def install(store: Store, name: str = "tiny", files: dict[str, bytes] = FILES, commit: str = "a" * 40) -> Manifest:
    return store.install(manifest(name, files, commit), staged(store, name, files))


def path_of(store: Store, name: str = "tiny") -> Path:
    return store.home.models / name / "manifest.json"


def test_an_installed_model_is_found_with_its_files(store: Store) -> None:
    assert store.get("tiny") is None
    assert store.all() == []
    there = install(store)
    assert store.get("TINY") is there
    assert store.all() == [there]
    assert there.snapshot == store.home.models / "tiny" / "snapshot"
    assert (there.snapshot / "sub" / "model.safetensors").read_bytes() == b"weights"
    written = json.loads(path_of(store).read_text())
    assert written["resolved"] == {"commit_sha": "a" * 40, "snapshot_path": "snapshot"}
    assert written["schema_version"] == SCHEMA
    assert os.listdir(store.home.cache / "staging") == []


def test_a_manifest_reads_back_as_it_was_written(store: Store) -> None:
    there = install(store)
    assert Store(store.home).get("tiny") == there


def test_a_moved_home_still_works(store: Store, tmp_path: Path) -> None:
    install(store)
    os.rename(store.home.root, tmp_path / "elsewhere")
    moved = Store(Home(tmp_path / "elsewhere")).get("tiny")
    assert moved is not None
    assert (moved.snapshot / "config.json").read_bytes() == b"{}"


def test_the_digest_covers_names_and_contents(store: Store) -> None:
    one = manifest("tiny", FILES)
    assert len(one.digest) == 64
    assert one.digest == manifest("other", dict(reversed(FILES.items())), "b" * 40).digest
    assert one.digest != manifest("tiny", {"config.json": b"weights", "sub/model.safetensors": b"{}"}).digest


def test_a_manifest_is_parsed_once_until_it_changes(store: Store) -> None:
    first = install(store)
    assert store.get("tiny") is first
    atomic_write(path_of(store), path_of(store).read_bytes())
    again = store.get("tiny")
    assert again is not first
    assert again == first


def test_fields_of_a_newer_version_are_ignored(store: Store) -> None:
    there = install(store)
    raw = json.loads(path_of(store).read_text())
    raw["new"] = 1
    raw["capabilities"]["new"] = {"deep": True}
    raw["defaults"]["new"] = 1
    atomic_write(path_of(store), json.dumps(raw).encode())
    assert store.get("tiny") == there


def older(store: Store, **license: object) -> dict[str, object]:
    """Write the installed manifest as the first version had it."""
    raw = json.loads(path_of(store).read_text())
    raw["license"] = {key: raw["license"][key] for key in ("id", "needs_acceptance", "notice")} | license
    raw["schema_version"] = 1
    atomic_write(path_of(store), json.dumps(raw).encode())
    return raw


@pytest.mark.parametrize("text", [None, "the very terms"])
def test_a_manifest_of_the_first_version_is_read_as_one_of_this(store: Store, text: str | None) -> None:
    files = FILES | ({"LICENSE": text.encode()} if text else {})
    there = install(store, files=files)
    raw = older(store, needs_acceptance=True, notice="a notice")
    read = store.get("tiny")
    assert read is not None
    assert read.schema_version == SCHEMA
    assert read.license.text_sha256 == hashlib.sha256((text or "a notice").encode()).hexdigest()
    assert read.model_dump(exclude={"license"}) == there.model_dump(exclude={"license"})
    assert json.loads(path_of(store).read_text()) == raw, "an older tollama can still read it"
    updated = store.update(read)
    assert updated is not None
    assert updated.license == read.license
    assert json.loads(path_of(store).read_text())["schema_version"] == SCHEMA


def test_one_of_the_first_version_that_lacks_something_is_only_broken(store: Store) -> None:
    other = install(store, "other")
    install(store)
    raw = older(store, needs_acceptance=True)
    for spoilt in ({"license": 5}, {"license": None}, {"resolved": []}, {"resolved": {"snapshot_path": "../other"}}):
        atomic_write(path_of(store), json.dumps(raw | spoilt).encode())
        assert store.get("tiny") is None
        assert store.get("other") is other


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda raw: "{not json", "malformed"),
        (lambda raw: raw.replace('"tiny"', '"other"'), "another model"),
        (lambda raw: raw.replace('"snapshot"', '"../../out"'), "inside"),
        (lambda raw: raw.replace(f'"schema_version": {SCHEMA}', '"schema_version": 9'), "schema_version"),
        (lambda raw: raw.replace('"family"', '"famly"'), "family"),
    ],
)
def test_one_broken_manifest_is_reported_and_harms_nothing(store: Store, damage, reason: str) -> None:  # type: ignore[no-untyped-def]
    install(store)
    other = install(store, "other")
    path_of(store).write_text(damage(path_of(store).read_text()))
    assert store.get("tiny") is None
    assert store.get("other") is other
    broken, fine = sorted(store.all(), key=lambda found: found.name, reverse=True)
    assert fine is other
    assert isinstance(broken, Broken)
    assert reason in broken.reason
    install(store)
    assert store.get("tiny") is not None


def test_a_lost_file_makes_the_model_broken(store: Store) -> None:
    there = install(store)
    (there.snapshot / "config.json").unlink()
    assert store.all() == [Broken("tiny", "the file config.json is missing")]
    shutil.rmtree(there.snapshot)
    os.unlink(path_of(store))
    assert store.all() == [Broken("tiny", "it has no manifest")]


def test_another_revision_takes_over_and_the_old_goes(store: Store) -> None:
    old = install(store)
    new = install(store, files={"config.json": b"new"}, commit="b" * 40)
    assert store.get("tiny") is new
    assert new.digest != old.digest
    assert new.snapshot != old.snapshot
    assert (new.snapshot / "config.json").read_bytes() == b"new"
    assert not old.snapshot.exists()
    third = install(store)
    assert third.snapshot == old.snapshot
    assert sorted(os.listdir(store.home.models / "tiny")) == ["manifest.json", "snapshot"]


def test_as_many_snapshots_are_kept_as_asked(store: Store) -> None:
    first = install(store)
    second = store.install(manifest("tiny", {"a": b"1"}, "b" * 40), staged(store, "tiny", {"a": b"1"}), keep=2)
    assert first.snapshot.exists()
    third = store.install(manifest("tiny", {"a": b"2"}, "c" * 40), staged(store, "tiny", {"a": b"2"}), keep=2)
    assert not first.snapshot.exists()
    assert second.snapshot.exists()
    assert third.snapshot.exists()


def test_what_was_removed_is_not_updated(store: Store) -> None:
    there = install(store)
    shutil.rmtree(there.snapshot)
    assert store.update(there) is None
    store.remove("tiny")
    assert store.update(there) is None
    assert not (store.home.models / "tiny").exists()


def test_one_that_goes_or_is_replaced_while_it_is_looked_at(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    looked, fault_of = [], module.fault_of

    def meanwhile(manifest: Manifest) -> str:
        looked.append(manifest)
        if len(looked) == 1:
            install(store, files={"config.json": b"new"}, commit="b" * 40)
        elif len(looked) == 3:
            store.remove("tiny")
        return fault_of(manifest)

    install(store)
    monkeypatch.setattr(module, "fault_of", meanwhile)
    assert store.all() == [store.get("tiny")]
    assert store.all() == []
    assert len(looked) == 3


def test_everything_is_on_the_disk_before_it_is_seen(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace, rename = os.fsync, os.replace, os.rename

    def note(act: str, path: object) -> None:
        place = Path(str(path)).name
        done.append(f"{act} {'manifest' if place.startswith('.manifest') else place}")

    def synced(handle: int) -> None:
        note("sync", os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    def replaced(old: object, new: object) -> None:
        note("replace", old)
        replace(old, new)  # type: ignore[arg-type]

    def renamed(old: object, new: object) -> None:
        note("rename", new)
        rename(old, new)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(os, "rename", renamed)
    install(store)
    files, rest = done[:4], done[4:]
    assert set(files) == {"sync config.json", "sync sub", "sync model.safetensors", "sync tiny"}
    assert rest == [
        "rename snapshot",
        "sync manifest",
        "replace manifest",
        "sync .new-tiny",
        "rename tiny",
        "sync models",
    ]


@pytest.mark.parametrize("at", ["os.rename", "os.replace"])
@pytest.mark.parametrize("before", [False, True])
def test_an_install_cut_short_leaves_what_was(
    store: Store, monkeypatch: pytest.MonkeyPatch, at: str, before: bool
) -> None:
    there = install(store) if before else None

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(at, cut)
        with pytest.raises(KeyboardInterrupt):
            install(store, files={"config.json": b"new"}, commit="b" * 40)
    assert Store(store.home).all() == ([there] if there else [])
    install(store, files={"config.json": b"new"}, commit="b" * 40)
    assert len(os.listdir(store.home.models / "tiny")) == 2


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda folder: (folder / "config.json").unlink(), "missing"),
        (lambda folder: (folder / "config.json").write_bytes(b"longer"), "another size"),
        (lambda folder: (folder / "more.bin").write_bytes(b""), "does not belong"),
        (lambda folder: (folder / "link").symlink_to("/etc/passwd"), "link"),
    ],
)
def test_what_is_not_the_manifests_is_not_installed(store: Store, spoil, fault: str) -> None:  # type: ignore[no-untyped-def]
    folder = staged(store, "tiny", FILES)
    spoil(folder)
    with pytest.raises(DigestMismatch, match=fault):
        store.install(manifest("tiny", FILES), folder)
    assert store.all() == []


def test_a_link_in_a_files_place_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"{}")
    folder = staged(store, "tiny", FILES)
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(tmp_path / "outside")
    with pytest.raises(DigestMismatch, match="link"):
        store.install(manifest("tiny", FILES), folder)


def test_nothing_is_tidied_away_under_a_removal(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tidied: list[bool] = []
    rmtree = shutil.rmtree

    def meanwhile(path: Path, **how: bool) -> None:
        with in_use(store.home.cache, alone=True) as free:
            tidied.append(free)
        rmtree(path, **how)

    install(store)
    monkeypatch.setattr(shutil, "rmtree", meanwhile)
    store.remove("tiny")
    assert tidied
    assert not any(tidied)


def test_removal_leaves_nothing(store: Store) -> None:
    install(store)
    store.remove("Tiny")
    assert store.get("tiny") is None
    assert not (store.home.models / "tiny").exists()
    assert os.listdir(store.home.cache / "staging") == []
    with pytest.raises(ModelNotInstalled):
        store.remove("tiny")


@pytest.mark.parametrize("name", ["../../etc", "a/b", ".locks", "", "a\0b", "x" * 129])
def test_a_name_that_is_none_does_not_reach_the_disk(store: Store, name: str) -> None:
    for act in (store.get, store.remove, store.staging):
        with pytest.raises(ModelNotFound):
            act(name)
    assert not store.home.root.exists()


def test_strangers_in_the_models_folder_are_passed_over(store: Store) -> None:
    there = install(store)
    (store.home.models / "Not A Model").mkdir()
    (store.home.models / ".hidden").mkdir()
    assert store.all() == [there]
