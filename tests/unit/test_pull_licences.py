"""The licence of what is pulled: of which text, of which model, for how long; and what is said before it is settled."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hub import EMBEDDED, entry
from tests.unit import test_pull_hub
from tests.unit.test_pull_hub import FILES, NAME, REPO, World, text_of
from tollama import licenses
from tollama.catalog import Catalog
from tollama.errors import InvalidRequest, LicenseNotAccepted, RevisionNotFound, TollamaError, UnsupportedRepository
from tollama.manifest import sha256_of_text
from tollama.pull import pull
from tollama.registry import Entry
from tollama.store import Manifest
from tollama.wanted import PullRequest

world = test_pull_hub.world

OTHER = "acme/other"
NC = {"license": "cc-by-nc-4.0"}


def of_registry(world: World, known: Entry, **request: Any) -> Manifest:
    world.lines = []
    asked = PullRequest(name=known.name, **{"no_runtime": True} | request)
    return pull(known, asked, world.home, world.runtimes, world.settings, world.lines.append)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["LICENSE", "License.txt"])
def test_a_text_is_not_changed_by_the_ends_of_its_lines(world: World, name: str) -> None:
    world.hub.cards[REPO] = NC
    world.hub.add(REPO, FILES | {name: b"no trade\r\nno lease\r\n"})
    with pytest.raises(LicenseNotAccepted) as caught:
        world.pull()
    assert caught.value.detail["text"] == "no trade\nno lease\n"
    world.pull(accept_license=True)
    assert text_of(Catalog(world.home).runnable(NAME)) == "no trade\nno lease\n"
    world.store.remove(NAME)
    world.pull()


def test_a_receipt_is_not_one_for_another_repository_of_that_name(world: World) -> None:
    world.hub.add(OTHER, FILES)
    world.hub.cards |= {REPO: NC, OTHER: NC}
    world.pull(local_name="mine", accept_license=True)
    world.store.remove("mine")
    with pytest.raises(LicenseNotAccepted, match="accepted first"):
        world.pull(f"hf:{OTHER}", local_name="mine")
    world.pull(local_name="mine")


def test_a_name_is_not_taken_from_a_model_of_another_place(world: World) -> None:
    world.hub.add(OTHER, FILES)
    there = world.pull(local_name="mine")
    with pytest.raises(InvalidRequest, match="another model") as caught:
        world.pull(f"hf:{OTHER}", local_name="mine")
    assert caught.value.hint.endswith("tollama rm mine")
    assert world.lines == []
    for later in (entry("mine"), entry("mine", source=EMBEDDED)):  # a registry that has come to know the name
        with pytest.raises(InvalidRequest, match="another model"):
            of_registry(world, later)
    assert world.store.get("mine") == there
    world.hub.add(REPO.lower(), FILES)
    assert world.pull(f"hf:{REPO.lower()}", local_name="mine").files == there.files
    world.store.remove("mine")
    assert world.pull(f"hf:{OTHER}", local_name="mine").source.repo_id == OTHER


def test_accepting_mends_what_is_damaged_before_it_says_success(world: World) -> None:
    world.hub.cards[REPO] = NC
    world.hub.add(REPO, FILES | {"LICENSE": b"no trade"})
    for name in ("LICENSE", "model.safetensors"):
        there = world.pull(accept_license=True)
        (world.home.licenses / f"{NAME}.json").unlink()
        path = there.snapshot / name
        if name == "LICENSE":
            path.unlink()
            path.write_bytes(b"no TRADE")
        else:
            path.unlink()
        world.pull(accept_license=True)
        again = Catalog(world.home).runnable(NAME)
        assert text_of(again) == "no trade"
        assert world.store.all() == [again.manifest]


def test_what_was_read_is_what_is_accepted(world: World) -> None:
    world.hub.cards[REPO] = NC
    world.hub.add(REPO, FILES | {"LICENSE": b"no trade"})
    with pytest.raises(LicenseNotAccepted) as caught:
        world.pull()
    read = caught.value.detail["text_sha256"]
    assert read == sha256_of_text("no trade")
    world.hub.add(REPO, FILES | {"LICENSE": b"no trade at all"})
    with pytest.raises(LicenseNotAccepted) as caught:
        world.pull(accept_license=True, license_sha256=read)
    assert caught.value.detail["text"] == "no trade at all"
    assert world.hub.asked("GET", "model.safetensors") == 0
    assert world.lines == []
    assert licenses.receipt(world.home, NAME) is None
    there = world.pull(accept_license=True, license_sha256=caught.value.detail["text_sha256"])
    (world.home.licenses / f"{NAME}.json").unlink()
    with pytest.raises(LicenseNotAccepted):
        world.pull(NAME, accept_license=True, license_sha256=read)
    assert world.pull(NAME, accept_license=True, license_sha256=there.license.text_sha256) == there


def test_the_same_for_a_model_of_the_registry(world: World) -> None:
    known = entry("known", gated=True, source={"type": "huggingface", "repo_id": REPO, "revision": "main"})
    world.hub.add(REPO, FILES | {"LICENSE": b"no trade"})
    with pytest.raises(LicenseNotAccepted):
        of_registry(world, known, accept_license=True, license_sha256="0" * 64)
    of_registry(world, known, accept_license=True, license_sha256=sha256_of_text("no trade"))
    world.hub.add(REPO, FILES | {"LICENSE": b"no trade at all"})
    with pytest.raises(LicenseNotAccepted, match="not the one"):
        of_registry(world, known, no_runtime=False)
    assert world.lines == [], "no runtime is built for it either"


@pytest.mark.parametrize(
    ("spoils", "request_", "error"),
    [
        ({"config.json": b'{"model_type": "llama"}'}, {}, UnsupportedRepository),
        ({"config.json": b"["}, {}, UnsupportedRepository),
        ({"README.md": b"---\nlicense: cc-by-nc-4.0\n---\n"}, {}, LicenseNotAccepted),
        ({}, {"revision": "nope", "token": "hf_right"}, RevisionNotFound),
    ],
)
def test_nothing_is_said_before_what_can_be_refused(
    world: World, spoils: dict[str, bytes], request_: dict[str, Any], error: type[TollamaError]
) -> None:
    world.hub.add(REPO, FILES | spoils)
    with pytest.raises(error):
        world.pull(**request_)
    assert world.lines == []


def test_nothing_is_said_before_a_changed_licence_is_refused(world: World) -> None:
    world.hub.cards[REPO] = NC
    world.hub.add(REPO, FILES | {"LICENSE": b"no trade"})
    world.pull(accept_license=True)
    world.hub.add(REPO, FILES | {"LICENSE": b"no trade at all"})
    with pytest.raises(LicenseNotAccepted, match="not the one"):
        world.pull()
    assert world.lines == []


def test_weights_in_parts_come_with_their_index(world: World) -> None:
    files = {name: body for name, body in FILES.items() if name != "model.safetensors"}
    parts = {f"model-0000{part}-of-00002.safetensors": FILES["model.safetensors"] for part in (1, 2)}
    world.hub.add(REPO, files | parts)
    with pytest.raises(UnsupportedRepository, match="index"):
        world.pull()
    world.hub.add(REPO, files | parts | {"model.safetensors.index.json": b"{}"})
    assert {file.path for file in world.pull().files} == {"config.json", "model.safetensors.index.json", *parts}
