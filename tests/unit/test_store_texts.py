"""Manifests whatever they hold, paths that stay inside, and files that are written whole."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_store import path_of
from tollama.store import (
    Broken,
    Home,
    Manifest,
    Store,
    atomic_write,
    safe_path,
)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    atomic_write(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="space"):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@settings(deadline=None, max_examples=50)
@given(
    st.binary(max_size=40)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(list(Manifest.model_fields)), inner),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode())
)
def test_whatever_a_manifest_holds_it_is_only_broken(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as root:
        store = Store(Home(Path(root)))
        path_of(store).parent.mkdir(parents=True)
        path_of(store).write_bytes(content)
        assert store.get("tiny") is None
        assert [type(found) for found in store.all()] == [Broken]


def test_an_unreadable_manifest_is_only_broken(tmp_path: Path) -> None:
    store = Store(Home(tmp_path))
    path_of(store).mkdir(parents=True)
    assert store.get("tiny") is None
    assert store.all() == [Broken("tiny", "its manifest cannot be read: Is a directory")]


@settings(deadline=None)
@given(st.text(alphabet="ab./\\\0", max_size=12))
def test_a_safe_path_stays_inside(path: str) -> None:
    try:
        safe = safe_path(path)
    except ValueError:
        return
    assert os.path.normpath(os.path.join("/inside", safe)).startswith("/inside/")
