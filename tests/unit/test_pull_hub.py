"""Pulls of what the registry does not know: any repository of a hub on loopback, as ``hf:ORG/NAME[@REVISION]``."""

from __future__ import annotations

import asyncio
import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub import LoopbackHub, entry, safetensors
from tests.unit.test_architectures import BOLT
from tests.unit.test_pull import NoRuntimes
from tollama import licenses
from tollama.catalog import Catalog, Model
from tollama.errors import (
    HubError,
    InvalidRequest,
    LicenseNotAccepted,
    ModelNotFound,
    Offline,
    RevisionNotFound,
    UnsupportedRepository,
)
from tollama.pull import pull
from tollama.pull_child import pull_in_child
from tollama.registry import Entry, find
from tollama.settings import Settings
from tollama.store import Home, Manifest, Store
from tollama.wanted import PullRequest, Repository, proxies, target

REPO = "Acme/Sales-Bolt"
NAME = "acme--sales-bolt"
CARD = b"---\nlicense: apache-2.0\n---\n# Sales\n"
FILES: dict[str, bytes | Path] = {
    "config.json": json.dumps(BOLT).encode(),
    "model.safetensors": safetensors(1_200_000),
    "README.md": CARD,
    "modeling.py": b"raise SystemExit",
    "checkpoints/model.safetensors": b"an older one",
}


class World:
    """A home, a hub, and what a pull said."""

    def __init__(self, root: Path, hub: LoopbackHub) -> None:
        self.hub = hub
        self.home = Home(root / "home")
        self.store = Store(self.home)
        self.settings = Settings(home=self.home.root, hf_endpoint=hub.url, runtimes_dir=root / "runtimes")
        self.runtimes = NoRuntimes()
        self.lines: list[dict[str, Any]] = []

    def pull(self, name: str = f"hf:{REPO}", **request: Any) -> Manifest:
        self.lines = []
        asked = PullRequest(name=name, **request)
        wanted = target(asked, self.store)
        return pull(wanted, asked, self.home, self.runtimes, self.settings, self.lines.append)  # type: ignore[arg-type]


def text_of(model: Model) -> str:
    """The licence's text as a person reads it."""
    return licenses.text(model.about.license, model.snapshot)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with LoopbackHub(tmp_path) as hub:
        hub.add(REPO, FILES)
        yield World(tmp_path, hub)


def test_a_repository_becomes_a_model_like_any_other(world: World) -> None:
    there = world.pull()
    assert (there.name, there.family, there.adapter) == (NAME, "torch", "chronos-bolt")
    assert [file.path for file in there.files] == ["config.json", "model.safetensors"]
    assert there.source.repo_id == REPO
    assert there.source.revision == "main"
    assert there.resolved.commit_sha == world.hub.refs[REPO, "main"]
    assert there.license.id == "Apache-2.0"
    assert not there.license.needs_acceptance
    assert (there.details.parameter_size, there.details.quantization_level) == ("1.2M", "F32")
    assert world.runtimes.installed == ["torch"]
    assert world.lines[0] == {"status": "pulling manifest"}
    assert world.lines[-1] == {"status": "success"}
    catalog = Catalog(world.home)
    assert catalog.runnable("ACME--sales-bolt").manifest == there
    assert NAME in {model.name for model in catalog.installed()}
    world.store.remove(NAME)
    with pytest.raises(ModelNotFound):
        catalog.runnable(NAME)


def test_a_name_and_a_revision_of_ones_own(world: World) -> None:
    commit = world.hub.add(REPO, FILES | {"model.safetensors": safetensors(10)}, "v2")
    assert world.pull(f"HF:{REPO}@v2", local_name="Mine").resolved.commit_sha == commit
    assert world.pull(f"hf:{REPO}", revision=commit, local_name="pinned").source.revision == commit
    assert world.pull(f"hf:{REPO}@{commit}", local_name="pinned").source.revision == commit
    assert sorted(manifest.name for manifest in world.store.all()) == ["mine", "pinned"]


@pytest.mark.parametrize(
    ("repo", "name"),
    [
        ("org/name", "org--name"),
        ("Org/Na.me_1", "org--na.me_1"),
        (f"o/{'n' * 96}", f"o--{'n' * 96}"),
        (f"{'o' * 96}/{'n' * 96}", f"{'o' * 96}--{'n' * 30}"),
    ],
)
def test_the_default_name_fits_the_rule(world: World, repo: str, name: str) -> None:
    assert target(PullRequest(name=f"hf:{repo}"), world.store) == Repository(name, repo, "main")


@pytest.mark.parametrize(
    "name",
    ["hf:", "hf:org", "hf:org/", "hf:../etc", "hf:a/b/c", "hf:org/..", "hf:a/b@", "hf:a/b@../x", "hf:-a/b", "hf:a/b\n"],
)
def test_what_is_no_repository_is_refused(world: World, name: str) -> None:
    with pytest.raises(InvalidRequest, match="not a repository"):
        target(PullRequest(name=name), world.store)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (PullRequest(name="mock", local_name="mine"), "can be given a name"),
        (PullRequest(name="hf:a/b", local_name="Chronos-2"), "of the registry"),
        (PullRequest(name="hf:a/b@v1", revision="v2"), "given twice"),
    ],
)
def test_other_requests_that_are_refused(world: World, request_: PullRequest, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        target(request_, world.store)


def test_a_model_of_the_registry_stays_one(world: World) -> None:
    assert target(PullRequest(name="Chronos-2"), world.store) == find("chronos-2")
    with pytest.raises(ModelNotFound):
        target(PullRequest(name="chronos-3"), world.store)


def test_an_installed_one_is_pulled_again_by_its_name(world: World) -> None:
    first = world.pull(local_name="mine")
    assert world.pull("mine") == first
    world.hub.add(REPO, FILES | {"model.safetensors": safetensors(7)})
    second = world.pull("mine")
    assert second.resolved.commit_sha != first.resolved.commit_sha
    assert second.details.parameter_size == "7"
    assert first.snapshot.exists(), "a model that is being loaded still finds its files"


@pytest.mark.parametrize("spoilt", ["config.json", "model.safetensors"])
def test_another_architecture_or_other_weights_install_nothing(world: World, spoilt: str) -> None:
    bad = {"config.json": b'{"architectures": ["LlamaForCausalLM"]}', "model.safetensors": b"no header at all"}
    world.hub.add(REPO, FILES | {spoilt: bad[spoilt]})
    with pytest.raises(UnsupportedRepository):
        world.pull()
    assert world.store.all() == []
    assert not list((world.home.cache / "staging").glob("*"))


def test_weights_are_not_fetched_for_another_architecture(world: World) -> None:
    world.hub.add(REPO, FILES | {"config.json": b'{"model_type": "llama"}'})
    with pytest.raises(UnsupportedRepository, match="llama"):
        world.pull()
    assert world.hub.asked("GET", "safetensors") == 0
    assert world.runtimes.installed == []


class Evil:
    """Pickled, it writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickles_and_code_of_a_repository_are_neither_run_nor_fetched(world: World, tmp_path: Path) -> None:
    sign = tmp_path / "it-ran"
    code = f"open({str(sign)!r}, 'w')".encode()
    files = {**FILES, "pytorch_model.bin": pickle.dumps(Evil(sign)), "modeling.py": code, "setup.py": code}
    world.hub.add(REPO, files)
    there = world.pull()
    assert {path.name for path in there.snapshot.iterdir()} == {"config.json", "model.safetensors"}
    del files["model.safetensors"]
    world.hub.add(REPO, files)
    with pytest.raises(UnsupportedRepository, match="hold code"):
        world.pull()
    world.hub.add(REPO, FILES | {"config.json": json.dumps(BOLT | {"auto_map": {"AutoModel": "modeling.M"}}).encode()})
    with pytest.raises(UnsupportedRepository, match="auto_map"):
        world.pull()
    assert world.hub.asked("GET", ".py") == world.hub.asked("GET", ".bin") == 0
    assert not sign.exists()
    assert world.store.get(NAME) == there


@pytest.mark.parametrize("path", ["../out.safetensors", "/etc/x.safetensors", "a\nb.safetensors"])
def test_a_hub_that_lists_files_outside_is_refused(world: World, path: str) -> None:
    rows = world.hub.rows(REPO, "main")
    assert rows is not None
    next(row for row in rows[1] if row["rfilename"] == "model.safetensors")["rfilename"] = path
    with pytest.raises(HubError):
        world.pull()
    assert world.store.all() == []


def test_two_names_that_differ_in_case_only_are_refused(world: World) -> None:
    world.hub.add(REPO, FILES | {"MODEL.safetensors": safetensors(3)})
    with pytest.raises(HubError, match="case only"):
        world.pull()


def test_a_repository_or_revision_that_is_not_there(world: World) -> None:
    for name in (f"hf:{REPO}@nope", "hf:org/none"):
        with pytest.raises(RevisionNotFound):
            world.pull(name, token="hf_right")


def test_offline_takes_what_was_pulled_before(world: World) -> None:
    with pytest.raises(Offline):
        world.pull(offline=True)
    there = world.pull()
    world.store.remove(NAME)
    before = len(world.hub.requests)
    assert world.pull(offline=True).files == there.files
    shutil.rmtree(world.home.cache)
    assert world.pull(offline=True).files == there.files
    assert world.pull(f"hf:{REPO}@{there.resolved.commit_sha}").files == there.files  # a commit that is here
    assert len(world.hub.requests) == before


@pytest.mark.parametrize(
    ("card", "readme", "id", "asks"),
    [
        ({"license": "mit"}, b"", "MIT", False),
        ({"license": "cc-by-nc-4.0"}, CARD, "CC-BY-NC-4.0", True),
        ({"license": "other", "license_name": "acme-1.0"}, CARD, "acme-1.0", True),
        ({"license": ["mit", "gpl-3.0"]}, CARD, "unknown", True),
        ({"license": "\x1b]evil"}, CARD, "unknown", True),
        ({"tags": ["a"]}, CARD, "Apache-2.0", False),
        ({}, b"# no front matter", "unknown", True),
    ],
)
def test_the_licence_is_the_one_on_the_model_card(
    world: World, card: dict[str, object], readme: bytes, id: str, asks: bool
) -> None:
    world.hub.cards[REPO] = card
    world.hub.add(REPO, FILES | {"README.md": readme})
    if asks:
        with pytest.raises(LicenseNotAccepted) as caught:
            world.pull(local_name="mine")
        assert caught.value.detail["license"] == id
        assert caught.value.detail["url"]
        assert caught.value.hint == f"tollama pull hf:{REPO} --name mine --accept-license"
        assert world.hub.asked("GET", "model.safetensors") == 0
    there = world.pull(local_name="mine", accept_license=True)
    assert (there.license.id, there.license.needs_acceptance) == (id, asks)
    assert text_of(Catalog(world.home).runnable("mine")) == there.license.notice


def test_its_licence_text_is_shown_accepted_and_asked_for_again_when_it_changes(world: World) -> None:
    world.hub.cards[REPO] = {"license": "cc-by-nc-4.0"}
    world.hub.add(REPO, FILES | {"LICENSE.md": b"no trade\x1b[2J"})
    with pytest.raises(LicenseNotAccepted) as caught:
        world.pull()
    assert caught.value.detail["text"] == "no trade[2J"
    old = world.pull(accept_license=True)
    world.hub.add(REPO, FILES | {"LICENSE.md": b"no trade at all", "model.safetensors": safetensors(5)})
    with pytest.raises(LicenseNotAccepted, match="not the one") as caught:
        world.pull()
    assert caught.value.detail["text"] == "no trade at all"
    assert world.hub.asked("GET", "model.safetensors") == 1, "no weights under terms that nobody has accepted"
    catalog = Catalog(world.home)
    assert catalog.runnable(NAME).manifest == old, "what was accepted goes on"
    new = world.pull(accept_license=True)
    assert text_of(catalog.runnable(NAME)) == "no trade at all"
    receipt = licenses.receipt(world.home, NAME)
    assert receipt is not None
    assert new.license.text_sha256 == receipt.text_sha256
    assert receipt.earlier == (old.license.text_sha256,)


def test_accepting_for_an_installed_model_writes_the_receipt_and_nothing_else(world: World) -> None:
    world.hub.cards[REPO] = {"license": "cc-by-nc-4.0"}
    there = world.pull(accept_license=True)
    (world.home.licenses / f"{NAME}.json").unlink()
    catalog = Catalog(world.home)
    with pytest.raises(LicenseNotAccepted) as caught:
        catalog.runnable(NAME)
    assert caught.value.hint == f"tollama pull {NAME} --accept-license"
    before, stat = len(world.hub.requests), (world.home.models / NAME / "manifest.json").stat()
    world.hub.status = 500
    assert world.pull(NAME, accept_license=True) == there
    assert [line["status"] for line in world.lines] == ["licence accepted", "success"]
    assert len(world.hub.requests) == before
    assert (world.home.models / NAME / "manifest.json").stat().st_mtime_ns == stat.st_mtime_ns
    assert catalog.runnable(NAME).manifest == there


def test_the_same_for_a_model_of_the_registry(world: World) -> None:
    gated = entry("gated", gated=True, source={"type": "huggingface", "repo_id": REPO, "revision": "main"})
    asked = PullRequest(name="gated", accept_license=True)

    def again() -> Manifest:
        return pull(gated, asked, world.home, world.runtimes, world.settings, world.lines.append)  # type: ignore[arg-type]

    there = again()
    (world.home.licenses / "gated.json").unlink()
    before = len(world.hub.requests)
    assert again() == there
    assert len(world.hub.requests) == before
    assert licenses.accepted(world.home, "gated", there.license)


def collected(world: World, request: PullRequest, settings: Settings) -> list[dict[str, Any]]:
    async def run() -> list[dict[str, Any]]:
        return [line async for line in pull_in_child(target(request, world.store), request, settings)]

    return asyncio.run(run())


def test_the_child_pulls_it_through_a_proxy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    settings = world.settings.model_copy(update={"hf_endpoint": "http://hub.invalid"})
    request = PullRequest(name=f"hf:{REPO}", no_runtime=True, proxy=world.hub.url)
    assert collected(world, request, settings)[-1] == {"status": "success"}
    assert {path.split("/")[2] for _, path, _ in world.hub.requests} == {"hub.invalid"}
    monkeypatch.delenv("no_proxy")
    world.store.remove(NAME)
    before = len(world.hub.requests)
    request = PullRequest(name=f"hf:{REPO}", no_runtime=True)
    lines = collected(world, request, settings.model_copy(update={"proxies": world.hub.url}))
    assert lines[-1] == {"status": "success"}
    assert len(world.hub.requests) > before


def test_which_proxy_is_used(world: World) -> None:
    standard = {"HTTPS_PROXY": "http://theirs", "PATH": "/bin", "no_proxy": "internal"}
    plain = PullRequest(name="a")
    assert proxies(plain, world.settings, standard) == standard
    asked = proxies(PullRequest(name="a", proxy="http://asked"), world.settings, standard)
    assert asked == {"PATH": "/bin", "http_proxy": "http://asked", "https_proxy": "http://asked"}
    ours = world.settings.model_copy(update={"proxies": "http://ours"})
    ours._sources["proxies"] = "environment"
    both = {"http_proxy": "http://ours", "https_proxy": "http://ours", "PATH": "/bin", "no_proxy": "internal"}
    assert proxies(plain, ours, standard) == both
    ours._sources["proxies"] = "config"
    assert proxies(plain, ours, standard) == standard
    assert proxies(plain, ours, {"PATH": "/bin"})["https_proxy"] == "http://ours"


def test_an_entry_and_a_repository_are_told_apart(world: World) -> None:
    assert isinstance(target(PullRequest(name="chronos-2"), world.store), Entry)
    assert isinstance(target(PullRequest(name="hf:amazon/chronos-2"), world.store), Repository)
