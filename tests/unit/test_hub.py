"""The hub through its real client, against a hub on loopback."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import LoopbackHub
from tollama.errors import (
    DigestMismatch,
    HubError,
    HubUnauthorized,
    HubUnavailable,
    Offline,
    PullError,
    RevisionNotFound,
)
from tollama.hub import Hub, Listing, translate

REPO = "org/tiny"
WEIGHTS = os.urandom(1_000_000)
FILES: dict[str, bytes | Path] = {"config.json": b'{"a": 1}', "model.safetensors": WEIGHTS, "README.md": b"# no"}
PATTERNS = ("config.json", "*.safetensors")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[LoopbackHub]:
    with LoopbackHub(tmp_path) as hub:
        hub.add(REPO, FILES)
        yield hub


@pytest.fixture
def hub(served: LoopbackHub, tmp_path: Path) -> Hub:
    return Hub(tmp_path / "cache", served.url)


def fetch(hub: Hub, listing: Listing) -> dict[str, tuple[Path, str]]:
    for file in listing.files:
        hub.download(listing, file, lambda _: None)
    return {file.path: hub.verify(file) for file in listing.files}


def weights(listing: Listing):  # type: ignore[no-untyped-def]
    return next(file for file in listing.files if file.path == "model.safetensors")


def test_a_branch_is_resolved_and_only_wanted_files_are_listed(served: LoopbackHub, hub: Hub) -> None:
    listing = hub.listing(REPO, "main", PATTERNS)
    assert listing.commit == served.refs[REPO, "main"]
    assert [(file.path, file.size) for file in listing.files] == [("config.json", 8), ("model.safetensors", 1_000_000)]
    assert weights(listing).digest == f"sha256:{hashlib.sha256(WEIGHTS).hexdigest()}"
    assert listing.files[0].digest.startswith("sha1:")
    assert hub.missing(listing) == 1_000_008


def test_a_pinned_commit_is_that_commit_or_an_error(served: LoopbackHub, hub: Hub) -> None:
    pinned = "0123456789" * 4
    with pytest.raises(RevisionNotFound):
        Hub(served.root / "cache", served.url, token="hf_right").listing(REPO, pinned, PATTERNS)
    served.refs[REPO, pinned] = served.refs[REPO, "main"]  # a hub that answers with what was not asked for
    with pytest.raises(HubError):
        hub.listing(REPO, pinned, PATTERNS)
    assert served.add(REPO, FILES, branch=pinned) == pinned
    served.refs[REPO, pinned] = pinned
    assert hub.listing(REPO, pinned, PATTERNS).commit == pinned


def test_files_arrive_verified_and_are_not_fetched_twice(served: LoopbackHub, hub: Hub) -> None:
    listing = hub.listing(REPO, listing_of := served.refs[REPO, "main"], PATTERNS)
    assert listing.commit == listing_of
    found = fetch(hub, listing)
    blob, sha256 = found["model.safetensors"]
    assert blob.read_bytes() == WEIGHTS
    assert sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert found["config.json"][1] == hashlib.sha256(b'{"a": 1}').hexdigest()
    assert hub.missing(listing) == 0
    before = len(served.requests)
    fetch(hub, listing)
    assert len(served.requests) == before


def test_progress_tells_growing_bytes(hub: Hub) -> None:
    listing = hub.listing(REPO, "main", PATTERNS)
    told: list[int] = []
    hub.download(listing, weights(listing), told.append)
    assert told[0] == 0
    assert told[-1] == 1_000_000
    assert told == sorted(told)
    assert len(told) > 3


def test_a_cut_connection_is_resumed_within_the_pull(served: LoopbackHub, hub: Hub) -> None:
    served.cut_after = 600_000
    listing = hub.listing(REPO, "main", PATTERNS)
    assert fetch(hub, listing)["model.safetensors"][0].read_bytes() == WEIGHTS
    ranges = [headers.get("range") for _, path, headers in served.requests if "safetensors" in path]
    assert ranges[0] is None
    assert ranges[1] == "bytes=524288-"


def partial(served: LoopbackHub, hub: Hub) -> Listing:
    """A listing of which the first half of the weights is in the cache."""
    listing = hub.listing(REPO, "main", PATTERNS)
    part = hub._part(weights(listing))
    part.parent.mkdir(parents=True)
    part.write_bytes(WEIGHTS[:500_000])
    return listing


@pytest.mark.parametrize("ranges", [True, False])
def test_a_later_pull_goes_on_where_one_stopped(served: LoopbackHub, hub: Hub, ranges: bool) -> None:
    served.ranges = ranges  # a hub that ignores Range sends the whole again, which must not be appended
    listing = partial(served, hub)
    assert hub.missing(listing) == 500_008
    told: list[int] = []
    hub.download(listing, weights(listing), told.append)
    assert told[0] == 500_000
    assert hub.verify(weights(listing))[0].read_bytes() == WEIGHTS
    assert served.requests[-1][2]["range"] == "bytes=500000-"


def test_a_part_that_is_too_long_is_started_over(served: LoopbackHub, hub: Hub) -> None:
    listing = partial(served, hub)
    hub._part(weights(listing)).write_bytes(WEIGHTS + b"more")
    assert fetch(hub, listing)["model.safetensors"][0].read_bytes() == WEIGHTS


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_damage_on_the_way_is_found_and_discarded(served: LoopbackHub, hub: Hub, name: str) -> None:
    served.corrupt = {name}
    listing = hub.listing(REPO, "main", PATTERNS)
    with pytest.raises(DigestMismatch) as caught:
        fetch(hub, listing)
    assert caught.value.detail == name
    served.corrupt = set()
    assert fetch(hub, listing)["model.safetensors"][0].read_bytes() == WEIGHTS


def test_damage_in_the_cache_is_found_and_fetched_again(hub: Hub) -> None:
    listing = hub.listing(REPO, "main", PATTERNS)
    blob = fetch(hub, listing)["model.safetensors"][0]
    blob.write_bytes(b"x" * len(WEIGHTS))
    assert fetch(hub, listing)["model.safetensors"][0].read_bytes() == WEIGHTS


def test_a_file_of_another_length_is_not_resumed_for_ever(served: LoopbackHub, hub: Hub) -> None:
    listing = hub.listing(REPO, "main", PATTERNS)
    path = served.root / REPO / listing.commit / "files" / "model.safetensors"
    path.write_bytes(WEIGHTS[:-100])
    with pytest.raises(DigestMismatch):
        fetch(hub, listing)
    path.write_bytes(WEIGHTS)
    assert fetch(hub, listing)["model.safetensors"][0].read_bytes() == WEIGHTS


STATUSES = [
    (401, HubUnauthorized),
    (403, HubUnauthorized),
    (404, RevisionNotFound),
    (429, HubUnavailable),
    (500, HubError),
    (502, HubUnavailable),
    (503, HubUnavailable),
    (504, HubUnavailable),
]


@pytest.mark.parametrize(("status", "error"), STATUSES)
def test_every_status_is_one_of_our_errors(served: LoopbackHub, hub: Hub, status: int, error: type[PullError]) -> None:
    served.status = status
    with pytest.raises(error) as caught:
        hub.listing(REPO, "main", PATTERNS)
    assert caught.value.detail == f"HTTP {status}"
    assert caught.value.hint
    assert served.url not in str(caught.value)
    assert len(served.requests) == 1


@pytest.mark.parametrize(("status", "error"), STATUSES)
def test_so_it_is_of_a_file(
    served: LoopbackHub, hub: Hub, monkeypatch: pytest.MonkeyPatch, status: int, error: type[PullError]
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    listing = hub.listing(REPO, "main", PATTERNS)
    served.status = status
    with pytest.raises(error) as caught:
        fetch(hub, listing)
    assert type(caught.value) is error
    assert caught.value.detail == f"HTTP {status}"
    assert caught.value.hint
    assert served.url not in str(caught.value)


@pytest.mark.parametrize("commit", ["None", "main", "0" * 39])
def test_a_hub_that_names_no_commit_is_refused(served: LoopbackHub, hub: Hub, commit: str) -> None:
    served.add(REPO, FILES, branch="0" * 40)
    served._rows[REPO, commit] = served._rows[REPO, "0" * 40]
    served.refs[REPO, "main"] = commit
    with pytest.raises(HubError):
        hub.listing(REPO, "main", PATTERNS)


def test_what_one_hub_listed_is_not_anothers(served: LoopbackHub, hub: Hub, tmp_path: Path) -> None:
    hub.listing(REPO, "main", PATTERNS)
    assert Hub(tmp_path / "cache", f"{served.url}/", offline=True).listing(REPO, "main", PATTERNS)
    with pytest.raises(Offline):
        Hub(tmp_path / "cache", "http://elsewhere.invalid", offline=True).listing(REPO, "main", PATTERNS)


def test_an_unknown_revision_and_an_unknown_repository(served: LoopbackHub, tmp_path: Path) -> None:
    hub = Hub(tmp_path / "cache", served.url, token="hf_right")
    for repo, revision in ((REPO, "v9"), ("org/none", "main"), ("not a repository", "main")):
        with pytest.raises(RevisionNotFound):
            hub.listing(repo, revision, PATTERNS)


def test_a_gated_repository_wants_the_right_token(served: LoopbackHub, tmp_path: Path) -> None:
    served.gated = {REPO}
    for token in (None, "hf_wrong"):
        hub = Hub(tmp_path / "cache", served.url, token=token)
        with pytest.raises(HubUnauthorized, match="gated"):
            fetch(hub, hub.listing(REPO, "main", PATTERNS))
    right = Hub(tmp_path / "cache", served.url, token=served.token)
    assert fetch(right, right.listing(REPO, "main", PATTERNS))["model.safetensors"][0].read_bytes() == WEIGHTS


def test_the_token_does_not_follow_a_redirect(served: LoopbackHub, tmp_path: Path) -> None:
    with LoopbackHub(tmp_path / "cdn") as cdn:
        cdn.add(REPO, FILES)
        served.cdn = cdn.url
        hub = Hub(tmp_path / "cache", served.url, token="hf_secret")
        assert fetch(hub, hub.listing(REPO, "main", PATTERNS))["model.safetensors"][0].read_bytes() == WEIGHTS
        assert cdn.asked("GET", "model.safetensors") == 1
        assert all("authorization" not in headers for _, _, headers in cdn.requests)
        assert all(headers["authorization"] == "Bearer hf_secret" for _, _, headers in served.requests)


def test_a_token_on_this_machine_is_not_sent(served: LoopbackHub, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_somebodys")
    fetch(hub, hub.listing(REPO, "main", PATTERNS))
    assert all("authorization" not in headers for _, _, headers in served.requests)


def test_offline_uses_the_cache_and_says_what_is_missing(served: LoopbackHub, hub: Hub, tmp_path: Path) -> None:
    offline = Hub(tmp_path / "cache", served.url, offline=True)
    with pytest.raises(Offline):
        offline.listing(REPO, "main", PATTERNS)
    listing = hub.listing(REPO, "main", PATTERNS)
    before = len(served.requests)
    with pytest.raises(Offline):
        fetch(offline, offline.listing(REPO, "main", PATTERNS))
    assert len(served.requests) == before
    fetch(hub, listing)
    before = len(served.requests)
    for revision in ("main", listing.commit):
        assert fetch(offline, offline.listing(REPO, revision, PATTERNS))["config.json"][0].exists()
    assert len(served.requests) == before


def test_nobody_there_is_unavailable(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound and not listening: a connection is refused at once
        taken.bind(("127.0.0.1", 0))
        hub = Hub(tmp_path, f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(HubUnavailable):
            hub.listing(REPO, "main", PATTERNS)


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "a/../../b", "a\\..\\b"])
def test_a_hub_cannot_name_a_file_outside(served: LoopbackHub, hub: Hub, name: str) -> None:
    rows = served.rows(REPO, "main")
    assert rows is not None
    rows[1][0]["rfilename"] = name
    with pytest.raises(HubError):
        hub.listing(REPO, "main", ("*",))


def test_a_hub_cannot_name_a_blob_outside(served: LoopbackHub, hub: Hub) -> None:
    rows = served.rows(REPO, "main")
    assert rows is not None
    rows[1][0]["blobId"] = "../../../out"
    with pytest.raises(HubError):
        hub.listing(REPO, "main", ("*",))


def test_a_repository_without_the_files_is_an_error(hub: Hub) -> None:
    with pytest.raises(HubError, match="none of the files"):
        hub.listing(REPO, "main", ("*.gguf",))


def test_a_full_disk_is_told_as_such() -> None:
    assert translate(OSError(28, "No space left on device")).code == "DISK_FULL"
    assert translate(ConnectionResetError()).code == "HUB_UNAVAILABLE"
