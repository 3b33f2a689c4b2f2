from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from tollama.errors import ConfigError
from tollama.families import FamilySpec, families
from tollama.runtime_build import MARK, PYTHON_MINOR, clean_environment
from tollama.runtimes import Runtimes


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def spec(tmp_path: Path) -> FamilySpec:
    lock = tmp_path / "tiny.txt"
    lock.write_text("six==1.17.0\n")
    return FamilySpec("tiny", {}, lock=lock, probe=("six",))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def runtimes(tmp_path: Path, clock: Clock) -> Runtimes:
    return Runtimes(tmp_path / "runtimes", clock=clock)


def make(folder: Path, **changed: object) -> Path:
    """A runtime as an installation leaves it, without its libraries."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    (folder / "six.py").write_text("")
    mark = {
        "digest": folder.name,
        "python": PYTHON_MINOR,
        "ray": version("ray"),
        "probe": ["six"],
        "origins": ["six.py"],
        "libraries": {"six": "1.17.0"},
    }
    (folder / MARK).write_text(json.dumps(mark | changed))
    return folder


def test_digest_covers_lock_and_torch(runtimes: Runtimes, spec: FamilySpec) -> None:
    first = runtimes.digest(spec)
    assert len(first) >= 16
    assert int(first, 16) >= 0
    assert runtimes.digest(FamilySpec("other", {}, lock=spec.lock)) == first
    assert runtimes.digest(FamilySpec("tiny", {}, lock=spec.lock, torch="2.13.0")) != first
    assert spec.lock is not None
    spec.lock.write_text("six==1.16.0\n")
    os.utime(spec.lock, ns=(1, 1))
    assert runtimes.digest(spec) != first


@pytest.mark.parametrize(("name", "value"), [("PYTHON_MINOR", "3.99"), ("ray_version", lambda: "0.0.0")])
def test_digest_covers_python_and_ray(
    runtimes: Runtimes, spec: FamilySpec, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    first = runtimes.digest(spec)
    monkeypatch.setattr(f"tollama.runtimes.{name}", value)
    assert spec.lock is not None
    os.utime(spec.lock, ns=(2, 2))
    assert runtimes.digest(spec) != first


def test_python_is_known_before_it_exists(runtimes: Runtimes, spec: FamilySpec) -> None:
    assert runtimes.python(spec) == runtimes.root / "tiny" / runtimes.digest(spec) / "bin" / "python"
    assert not runtimes.root.exists()


def test_family_without_lock_lives_in_the_servers_environment(runtimes: Runtimes) -> None:
    mock = families()["mock"]
    assert runtimes.python(mock) == runtimes.install(mock) == runtimes.repair(mock) == Path(sys.executable)
    assert runtimes.state(mock).ready
    assert runtimes.remove(mock) is False
    assert not runtimes.root.exists()


def test_absent(runtimes: Runtimes, spec: FamilySpec) -> None:
    state = runtimes.state(spec)
    assert (state.installed, state.ready) == (False, False)
    assert state.reason == "The runtime of family 'tiny' is not installed."
    assert state.repair == "tollama runtime install tiny"


def test_whole(runtimes: Runtimes, spec: FamilySpec) -> None:
    make(runtimes.folder(spec))
    state = runtimes.state(spec)
    assert (state.installed, state.ready, state.reason, state.repair) == (True, True, "", "")


def test_built_for_another_digest(runtimes: Runtimes, spec: FamilySpec) -> None:
    old = make(runtimes.root / "tiny" / "0123456789abcdef")
    (old.parent / "current").symlink_to(old.name)
    state = runtimes.state(spec)
    assert not state.installed
    assert "another version" in state.reason
    assert state.repair == "tollama runtime install tiny"


def test_install_finds_a_whole_one_and_points_to_it(runtimes: Runtimes, spec: FamilySpec) -> None:
    folder = make(runtimes.folder(spec))
    old = make(folder.parent / "0123456789abcdef")
    current = folder.parent / "current"
    current.symlink_to(old.name)
    assert runtimes.install(spec) == folder / "bin" / "python"
    assert current.resolve() == folder.resolve()
    assert old.exists()


def test_install_writes_nothing_when_all_is_there(runtimes: Runtimes, spec: FamilySpec) -> None:
    folder = make(runtimes.folder(spec))
    (folder.parent / "current").symlink_to(folder.name)
    runtimes.install(spec)
    assert [path.name for path in runtimes.root.iterdir()] == ["tiny"]  # no lock was taken


def dangle(folder: Path) -> None:
    (folder / "bin" / "python").unlink()
    (folder / "bin" / "python").symlink_to("/nowhere/python3")


def forbid(folder: Path) -> None:
    (folder / "bin" / "python").unlink()
    (folder / "bin" / "python").touch(mode=0o644)


def claim(**changed: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        mark = folder / MARK
        mark.write_text(json.dumps(json.loads(mark.read_text()) | changed))

    return change


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda f: (f / MARK).unlink(), "cut short"),
        (lambda f: (f / MARK).write_text('{"digest": '), "no readable record"),
        (lambda f: (f / MARK).write_text("[]"), "no readable record"),
        (claim(digest="f" * 24), "not the one"),
        (claim(python="3.9"), "not the one"),
        (claim(ray="2.0.0"), "not the one"),
        (claim(probe=[]), "not the one"),
        (lambda f: (f / "bin" / "python").unlink(), "no Python interpreter"),
        (dangle, "lost the Python"),
        (forbid, "cannot be executed"),
        (lambda f: (f / "six.py").unlink(), "lost some of its libraries"),
    ],
)
def test_broken(runtimes: Runtimes, spec: FamilySpec, harm: Callable[[Path], None], says: str) -> None:
    harm(make(runtimes.folder(spec)))
    state = runtimes.state(spec)
    assert not state.ready
    assert says in state.reason
    assert state.reason.endswith(".")
    assert str(runtimes.root) not in state.reason
    assert state.repair == "tollama runtime repair tiny"


def test_missing_lock_is_a_reason(runtimes: Runtimes, spec: FamilySpec) -> None:
    assert spec.lock is not None
    spec.lock.unlink()
    assert "lock file of family 'tiny'" in runtimes.state(spec).reason
    with pytest.raises(ConfigError):
        runtimes.digest(spec)


def test_ready_is_trusted_for_a_second(runtimes: Runtimes, spec: FamilySpec, clock: Clock) -> None:
    folder = make(runtimes.folder(spec))
    assert runtimes.state(spec).ready
    (folder / MARK).unlink()
    clock.now = 0.9
    assert runtimes.state(spec).ready
    clock.now = 1.0
    assert not runtimes.state(spec).ready


def test_a_new_installation_is_seen_at_once(runtimes: Runtimes, spec: FamilySpec) -> None:
    assert not runtimes.state(spec).ready
    make(runtimes.folder(spec))
    assert runtimes.state(spec).ready


@pytest.mark.parametrize("name", ["a b", "a;b", "a$b", "a'b", "a`b`", "a\nb", "a&b", "a(b)"])
def test_odd_paths_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        Runtimes(tmp_path / name)
    assert "TOLLAMA_HOME" in refusal.value.hint


def test_list_has_every_family(runtimes: Runtimes) -> None:
    rows = {row.family: row for row in runtimes.list()}
    assert rows.keys() == families().keys()
    assert rows["mock"].state.ready
    assert not rows["baseline"].state.installed
    assert rows["baseline"].size_bytes == 0


def test_row_has_size_and_libraries(runtimes: Runtimes, spec: FamilySpec) -> None:
    folder = make(runtimes.folder(spec))
    row = runtimes.row(spec)
    assert row.libraries == {"six": "1.17.0"}
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert row.size_bytes == sum(file.lstat().st_size for file in files)


def test_prune_keeps_the_newest_and_the_one_in_use(runtimes: Runtimes, spec: FamilySpec) -> None:
    using = make(runtimes.folder(spec))
    old, older = (make(using.parent / name) for name in ("a" * 24, "b" * 24))
    cut_short = using.parent / ("c" * 24)
    cut_short.mkdir()
    for at, folder in enumerate((using, older, old)):
        os.utime(folder / MARK, (at, at))
    assert set(runtimes.prune(spec, dry_run=True)) == {older, cut_short}
    assert older.exists()
    assert set(runtimes.prune(spec)) == {older, cut_short}
    assert set(using.parent.iterdir()) == {using, old}


def test_remove(runtimes: Runtimes, spec: FamilySpec) -> None:
    make(runtimes.folder(spec))
    assert runtimes.remove(spec) is True
    assert not runtimes.folder(spec).exists()
    assert runtimes.remove(spec) is False


def test_foreign_environments_are_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "UV_PYTHON", "UV_PROJECT_ENVIRONMENT"):
        monkeypatch.setenv(name, "/decoy")
    monkeypatch.setenv("UV_TORCH_BACKEND", "cpu")
    environment = clean_environment()
    assert "/decoy" not in environment.values()
    assert environment["UV_TORCH_BACKEND"] == "cpu"


@pytest.mark.parametrize("name", ["baseline", "torch", "timesfm"])
def test_locks_are_exact_and_name_no_host(name: str) -> None:
    lock = families()[name].lock
    assert lock is not None
    lines = [line for line in lock.read_text().splitlines() if not line.startswith("#")]
    pins = {line.split(";")[0].strip() for line in lines}
    assert all(pin.count("==") == 1 for pin in pins)
    assert f"ray=={version('ray')}" in pins
    assert not {pin for pin in pins if pin.startswith(("torch==", "nvidia-", "triton=="))}
    assert "://" not in lock.read_text()


def test_what_a_model_needs_is_looked_up_in_what_was_recorded(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("six==1.17.0\n")
    spec = FamilySpec("tiny", {}, lock=lock)
    runtimes = Runtimes(tmp_path / "runtimes")
    folder = runtimes.folder(spec)
    assert runtimes.lacks(spec, {"six": ">=1"}) is None, "what is not installed is told by its state"
    folder.mkdir(parents=True)
    (folder / "installed.json").write_text('{"libraries": {"six": "1.17.0"}}')
    assert runtimes.lacks(spec, {"six": ">=1.16,<2"}) is None
    assert runtimes.lacks(spec, {"six": ">=2"}) == "six >=2 (it has 1.17.0)"
    assert runtimes.lacks(spec, {"nine": ">=2"}) == "nine >=2 (it has none)"
