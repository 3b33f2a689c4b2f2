"""What goes and what stays, by each rule."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_store import install
from tollama.families import FamilySpec
from tollama.retention import DAY_S, RULES, empty_cache, prune, tidy
from tollama.runtimes import Runtimes
from tollama.settings import Settings
from tollama.store import Home, Store, in_use


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def settings(home: Home, **changes: Any) -> Settings:
    return Settings(home=home.root, runtimes_dir=home.root / "runtimes", **changes)


def blob(home: Home, name: str, size: int = 1000, days: float = 0.0) -> Path:
    path = home.cache / "blobs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - days * DAY_S,) * 2)
    return path


def gone(home: Home, *, dry_run: bool = False, **changes: Any) -> set[str]:
    return {one.path.name for one in prune(settings(home, **changes), dry_run=dry_run)}


def test_what_was_not_used_for_long_goes(home: Home) -> None:
    old, new = blob(home, "old", days=31), blob(home, "new", days=29)
    assert gone(home, dry_run=True) == {"old"}
    assert old.exists()
    assert gone(home) == {"old"}
    assert not old.exists()
    assert new.exists()
    assert gone(home, cache_max_days=20) == {"new"}
    assert gone(home) == set()


def test_over_the_size_the_least_recently_used_goes_first(home: Home) -> None:
    for age, name in enumerate("abcd"):
        blob(home, name, days=age)
    assert gone(home, cache_max_gb=2.5e-6) == {"c", "d"}
    assert gone(home, cache_max_gb=0) == {"a", "b"}


def test_one_that_does_not_fit_does_not_push_out_the_older_ones(home: Home) -> None:
    blob(home, "small", 10, days=2)
    blob(home, "large", 10_000, days=1)
    assert gone(home, cache_max_gb=1e-6) == {"large"}


def test_what_an_installed_model_shares_stays(home: Home) -> None:
    shared = blob(home, "shared", days=99)
    there = install(Store(home), files={"config.json": b"{}"})
    os.link(shared, there.snapshot / "more")
    assert gone(home, cache_max_gb=0) == set()
    (there.snapshot / "more").unlink()
    assert gone(home, cache_max_gb=0) == {"shared"}


def test_the_cache_is_left_alone_while_a_pull_is_in_it(home: Home) -> None:
    blob(home, "old", days=99)
    pulling = "import sys; from pathlib import Path; from tollama.store import in_use"
    wait = "\nwith in_use(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", pulling + wait, str(home.cache)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in\n"
        with in_use(home.cache):  # several pulls go on side by side
            assert gone(home) == set()
            assert empty_cache(home) is None
        process.kill()
    assert gone(home) == {"old"}


def test_what_a_killed_pull_had_put_together_goes(home: Home) -> None:
    Store(home).staging("tiny")
    assert gone(home, dry_run=True) == {"tiny"}
    assert gone(home) == {"tiny"}
    assert not list((home.cache / "staging").iterdir())


def test_older_snapshots_go_but_never_the_one_in_use(home: Home) -> None:
    store = Store(home)
    paths = []
    for number in range(4):
        there = store.install(*_staged(store, bytes([number])), keep=9)
        paths.append(there.snapshot)
        os.utime(there.snapshot, (100 - number,) * 2)  # the one in use is the oldest by its date
    assert gone(home, keep_snapshots=2) == {paths[1].name, paths[2].name}
    assert gone(home, keep_snapshots=1) == {paths[0].name}
    assert paths[3].exists()
    assert store.get("tiny") is not None


def _staged(store: Store, content: bytes) -> tuple[Any, Path]:
    from tests.unit.test_store import manifest, staged

    return manifest("tiny", {"a": content}, content.hex() * 20), staged(store, "tiny", {"a": content})


def test_a_broken_model_is_left_as_it_is(home: Home) -> None:
    there = install(Store(home))
    (home.models / "tiny" / "manifest.json").write_text("{")
    assert gone(home) == set()
    assert there.snapshot.exists()


def test_older_environments_go(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    old = home.root / "runtimes" / "torch" / "old"
    old.mkdir(parents=True)

    def surplus(self: Runtimes, spec: FamilySpec, *, dry_run: bool = False) -> tuple[Path, ...]:
        return (old,) if spec.name == "torch" else ()

    monkeypatch.setattr(Runtimes, "prune", surplus)
    found = list(prune(settings(home), dry_run=True))
    assert [(one.path, one.why) for one in found] == [(old, "an older environment of torch")]
    assert [one.path for one in prune(settings(home))] == [old]


def test_old_logs_go(home: Home) -> None:
    for name, days in (("old", 20), ("new", 1)):
        path = home.logs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1")
        os.utime(path, (time.time() - days * DAY_S,) * 2)
    assert gone(home, dry_run=True) == {"old"}
    assert gone(home) == {"old"}
    assert gone(home, log_max_mb=1e-7) == {"new"}


def test_after_a_pull_nothing_that_goes_wrong_is_raised(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    old = blob(home, "old", days=99)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refused)
        tidy(settings(home))
    assert old.exists()
    tidy(settings(home))
    assert not old.exists()


def test_an_emptied_cache(home: Home) -> None:
    blob(home, "a", 5000)
    (home.cache / "listings").mkdir()
    assert empty_cache(home) == 5000
    assert [path.name for path in home.cache.iterdir()] == [".in-use"]
    assert empty_cache(home) == 0


def test_every_rule_names_settings_that_there_are() -> None:
    assert all(name in Settings.model_fields for rule in RULES for name in rule.settings)
    assert {"cache", "models", "runtimes"} <= {rule.folder for rule in RULES}
