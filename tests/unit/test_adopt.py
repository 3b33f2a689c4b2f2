"""Checkpoints of this machine, taken into the store."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from tests.hub import safetensors
from tests.unit.test_architectures import BOLT
from tests.unit.test_pull import NoRuntimes
from tests.unit.test_pull_hub import Evil
from tollama import adopt as module
from tollama import licenses
from tollama.adopt import adopt, describe
from tollama.catalog import Catalog
from tollama.cli.pulling import adopt_model
from tollama.errors import (
    DigestMismatch,
    DiskFull,
    InvalidRequest,
    LicenseNotAccepted,
    ModelNotFound,
    TollamaError,
    UnsupportedRepository,
)
from tollama.manifest import sha256_of_text
from tollama.pull import pull
from tollama.registry import Source
from tollama.runtimes import Runtimes
from tollama.settings import Settings
from tollama.store import Home, Manifest, Store
from tollama.wanted import PullRequest, target

WEIGHTS = safetensors(2_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What ``save_pretrained`` leaves behind, and what lies around beside it."""
    made = tmp_path / "saved"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(BOLT))
    (made / "model.safetensors").write_bytes(WEIGHTS)
    (made / "training.log").write_text("loss")
    (made / "optimizer.pt").write_bytes(pickle.dumps(Evil(tmp_path / "it-ran")))
    return made


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", runtimes_dir=tmp_path / "runtimes")


def taken(
    folder: Path, settings: Settings, name: str = "mine", license: str | None = "mit", *, accept: bool | str = False
) -> Manifest:
    entry = describe(folder, name, license)
    return adopt(folder, entry, settings, lambda _: None, accept_license=accept)


def nothing_is_there(settings: Settings) -> bool:
    home = Home(settings.home)
    return Store(home).all() == [] and not list((home.cache / "staging").glob("*"))


def test_a_folder_becomes_a_model(folder: Path, settings: Settings) -> None:
    said: list[dict[str, Any]] = []
    there = adopt(folder, describe(folder, "Mine", "mit"), settings, said.append, accept_license=False)
    assert (there.name, there.family, there.adapter, there.license.id) == ("mine", "torch", "chronos-bolt", "MIT")
    assert there.source.type == "local"
    assert {path.name for path in there.snapshot.iterdir()} == {"config.json", "model.safetensors"}
    assert there.details.parameter_size == "2K"
    assert said[-1] == {"status": "success"}
    assert [line["completed"] for line in said if line["status"] == "copying model.safetensors"] == [0, len(WEIGHTS)]
    assert Catalog(Home(settings.home)).runnable("mine").manifest == there


def test_the_copy_is_a_copy(folder: Path, settings: Settings) -> None:
    there = taken(folder, settings)
    with (folder / "model.safetensors").open("r+b") as file:
        file.write(b"\0" * 100)
    assert (there.snapshot / "model.safetensors").read_bytes() == WEIGHTS
    shutil.rmtree(folder)
    assert (there.snapshot / "config.json").exists()


def test_again_it_is_another_snapshot(folder: Path, settings: Settings) -> None:
    first = taken(folder, settings)
    (folder / "model.safetensors").write_bytes(safetensors(3))
    second = taken(folder, settings)
    assert second.digest != first.digest
    assert Store(Home(settings.home)).get("mine") == second


def test_the_licence_is_that_of_the_card_or_the_given_one(folder: Path, settings: Settings) -> None:
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert describe(folder, "mine").license.id == "Apache-2.0"
    assert describe(folder, "mine", "CC-BY-NC-4.0").license.needs_acceptance
    (folder / "README.md").unlink()
    assert describe(folder, "mine").license.id == "unknown"


def test_a_licence_that_is_not_permissive_is_gated_with_the_folders_text(folder: Path, settings: Settings) -> None:
    (folder / "LICENSE").write_text("for friends")
    with pytest.raises(LicenseNotAccepted) as caught:
        taken(folder, settings, license=None)
    assert caught.value.detail["text"] == "for friends"
    assert "--accept-license" in caught.value.hint
    assert nothing_is_there(settings)
    (folder / "LICENSE").write_text("for good friends")
    with pytest.raises(LicenseNotAccepted):
        taken(folder, settings, license=None, accept=caught.value.detail["text_sha256"])
    there = taken(folder, settings, license=None, accept=sha256_of_text("for good friends"))
    assert there.license.needs_acceptance
    home = Home(settings.home)
    assert licenses.accepted(home, "mine", there.license)
    (home.licenses / "mine.json").unlink()
    with pytest.raises(LicenseNotAccepted):
        Catalog(home).runnable("mine")
    with pytest.raises(LicenseNotAccepted) as caught:
        target(PullRequest(name="mine"), Store(home))
    assert caught.value.detail["text"] == "for good friends"
    asked = PullRequest(name="mine", accept_license=True)
    pull(target(asked, Store(home)), asked, home, Runtimes(settings.runtimes), settings, lambda _: None)
    assert Catalog(home).runnable("mine").manifest == there
    with pytest.raises(InvalidRequest, match="from a folder"):
        target(PullRequest(name="mine"), Store(home))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "README.md", "LICENSE"])
def test_links_out_of_the_folder_are_refused(folder: Path, settings: Settings, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "secret"
    outside.write_text(json.dumps(BOLT))
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside)
    with pytest.raises(InvalidRequest, match=f"{name} is a link"):
        taken(folder, settings)
    assert nothing_is_there(settings)


def test_links_within_the_folder_are_followed(folder: Path, settings: Settings) -> None:
    os.rename(folder / "model.safetensors", folder / "step-9")
    (folder / "model.safetensors").symlink_to("step-9")
    copy = taken(folder, settings).snapshot / "model.safetensors"
    assert not copy.is_symlink()
    assert copy.read_bytes() == WEIGHTS


def test_what_is_no_file_is_refused(folder: Path, settings: Settings) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(InvalidRequest, match="not a file"):
        taken(folder, settings)


def test_a_name_with_a_line_break_is_refused(folder: Path, settings: Settings) -> None:
    (folder / "a\nb.safetensors").write_bytes(WEIGHTS)
    with pytest.raises(InvalidRequest, match="a name that is none"):
        taken(folder, settings)


@pytest.mark.parametrize(
    ("name", "error"),
    [("../out", ModelNotFound), ("/etc/x", ModelNotFound), ("chronos-2", InvalidRequest), ("mock", InvalidRequest)],
)
def test_a_name_that_it_cannot_have(folder: Path, name: str, error: type[TollamaError]) -> None:
    with pytest.raises(error):
        describe(folder, name, "mit")


def test_a_name_is_not_taken_from_a_model_of_the_hub(folder: Path, settings: Settings) -> None:
    there = taken(folder, settings)
    home = Home(settings.home)
    source = Source(type="huggingface", repo_id="a/b", revision="main")
    held = Store(home).update(there.model_copy(update={"source": source}))
    with pytest.raises(InvalidRequest, match="another model, from a/b"):
        taken(folder, settings)
    assert Store(home).get("mine") == held


def test_accepting_for_a_copy_that_is_damaged_is_no_success(folder: Path, settings: Settings) -> None:
    home = Home(settings.home)
    there = taken(folder, settings, license=None, accept=True)
    (there.snapshot / "model.safetensors").unlink()
    asked = PullRequest(name="mine", accept_license=True)
    with pytest.raises(InvalidRequest, match="damaged") as caught:
        pull(target(asked, Store(home)), asked, home, Runtimes(settings.runtimes), settings, lambda _: None)
    assert caught.value.hint == "tollama pull --from-dir DIR mine"


@pytest.mark.parametrize("left_out", [False, True])
def test_the_runtime_comes_along(
    folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, left_out: bool
) -> None:
    monkeypatch.setenv("TOLLAMA_HOME", str(settings.home))
    fake = NoRuntimes()
    monkeypatch.setattr("tollama.runtimes.Runtimes", lambda *_, **__: fake)
    adopt_model(folder, "mine", "mit", no_runtime=left_out)
    assert Store(Home(settings.home)).get("mine") is not None
    assert fake.installed == ([] if left_out else ["torch"])


def test_weights_in_parts_come_with_their_index(folder: Path, settings: Settings) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    with pytest.raises(UnsupportedRepository, match="index"):
        describe(folder, "mine", "mit")
    (folder / "model.safetensors.index.json").write_text("{}")
    assert "model.safetensors.index.json" in {file.path for file in taken(folder, settings).files}


def test_a_folder_that_holds_no_model(folder: Path, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no such folder"):
        describe(tmp_path / "nowhere", "mine")
    (folder / "model.safetensors").write_bytes(WEIGHTS[:-1])
    with pytest.raises(UnsupportedRepository, match="not whole"):
        taken(folder, settings)
    assert nothing_is_there(settings)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UnsupportedRepository, match="hold code"):
        describe(folder, "mine")
    (folder / "config.json").unlink()
    with pytest.raises(UnsupportedRepository, match=r"no config\.json"):
        describe(folder, "mine")
    assert not (tmp_path / "it-ran").exists()


def test_no_room_and_a_disk_that_fills_up(folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))
        with pytest.raises(DiskFull, match="GB are free"):
            taken(folder, settings)

    def full(source: Path, copy: Path) -> None:
        copy.write_bytes(b"some")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(DiskFull):
        taken(folder, settings)
    assert nothing_is_there(settings)


def test_a_file_that_changes_meanwhile(folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "copyfile", lambda source, copy: copy.write_bytes(b"another"))
    with pytest.raises(DigestMismatch, match="changed while"):
        taken(folder, settings)
    assert nothing_is_there(settings)
