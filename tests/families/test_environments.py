"""Environments built for real: the product's own two, and a tiny one from a wheel made here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from tollama.errors import RunnerUnavailable
from tollama.families import FamilySpec, families
from tollama.runtime_build import MARK
from tollama.runtimes import Runtimes

CHECKOUT = Path(__file__).parents[2]

INSTALL_TINY = """
import sys
from pathlib import Path
from tollama.families import FamilySpec
from tollama.runtimes import Runtimes

def say(line):
    print(line, flush=True)
    if len(sys.argv) > 3 and line.startswith(sys.argv[3]):
        sys.stdin.read()

spec = FamilySpec("tiny", {}, lock=Path(sys.argv[2]), probe=("ray",))
print(Runtimes(Path(sys.argv[1])).install(spec, say), flush=True)
"""


@pytest.fixture(scope="session")
def runtimes() -> Runtimes:
    return Runtimes(Path(os.environ.get("TOLLAMA_RUNTIMES_DIR") or CHECKOUT / ".runtimes"))


@pytest.fixture(scope="session", params=["baseline", "torch", "timesfm"])
def family(request: pytest.FixtureRequest, runtimes: Runtimes) -> FamilySpec:
    spec = families()[request.param]
    runtimes.install(spec)
    return spec


def make_ray(wheel: Path, number: str) -> None:
    """A wheel of one line that calls itself Ray, so that building an environment downloads nothing."""
    info = f"ray-{number}.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("ray/__init__.py", "where = __file__\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: ray\nVersion: {number}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def tiny(tmp_path: Path) -> FamilySpec:
    wheel = tmp_path / f"ray-{version('ray')}-py3-none-any.whl"
    make_ray(wheel, version("ray"))
    lock = tmp_path / "tiny.txt"
    lock.write_text(f"ray @ {wheel.as_uri()}\n")
    return FamilySpec("tiny", {}, lock=lock, probe=("ray",))


@pytest.fixture
def small(tmp_path: Path) -> Runtimes:
    return Runtimes(tmp_path / "runtimes", clock=iter(range(1000)).__next__)


def run(python: Path, code: str) -> str:
    return subprocess.run([python, "-I", "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def installer(small: Runtimes, tiny: FamilySpec, *stop_at: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", INSTALL_TINY, str(small.root), str(tiny.lock), *stop_at],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_product_runtime_is_ready_and_recorded(family: FamilySpec, runtimes: Runtimes) -> None:
    python = runtimes.python(family)
    assert runtimes.state(family).ready
    assert (runtimes.root / family.name / "current").resolve() == python.parents[1].resolve()
    row = runtimes.row(family)
    assert row.libraries["ray"] == version("ray")
    assert row.size_bytes > 100e6
    assert ("torch" in row.libraries) == bool(family.torch)
    assert "tollama" not in row.libraries


def test_families_hold_different_versions_of_one_library(runtimes: Runtimes) -> None:
    seen = {}
    for name in ("baseline", "torch"):
        python = runtimes.install(families()[name])
        seen[name] = run(python, "import pandas; print(pandas.__version__)")
        assert runtimes.row(families()[name]).libraries["pandas"] == seen[name]
    assert seen["baseline"] != seen["torch"]


def test_decoys_change_nothing(
    small: Runtimes, tiny: FamilySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoys = tmp_path / "decoys"
    (decoys / "ray").mkdir(parents=True)
    (decoys / "ray" / "__init__.py").write_text("raise SystemExit('decoy')\n")
    (decoys / "json.py").write_text("raise SystemExit('decoy')\n")
    for name in ("python", "python3", "python3.11", "uv", "ray"):
        (decoys / name).exists() or (decoys / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
        (decoys / name).chmod(0o755)
    monkeypatch.chdir(decoys)
    monkeypatch.setenv("PATH", f"{decoys}{os.pathsep}{os.environ['PATH']}")
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "UV_PYTHON"):
        monkeypatch.setenv(name, str(decoys))
    python = small.install(tiny)
    assert small.state(tiny).ready
    mark = json.loads((small.folder(tiny) / MARK).read_text())
    assert (small.folder(tiny) / mark["origins"][0]).resolve().is_relative_to(small.folder(tiny).resolve())
    before = (small.folder(tiny) / MARK).stat().st_mtime_ns
    assert small.repair(tiny) == python
    assert (small.folder(tiny) / MARK).stat().st_mtime_ns == before
    assert not (tmp_path / "called").exists()


def test_two_processes_build_once(small: Runtimes, tiny: FamilySpec) -> None:
    first = installer(small, tiny, "creating")
    assert first.stdout is not None
    assert first.stdin is not None
    assert first.stdout.readline() == "creating the environment of tiny\n"
    second = installer(small, tiny)
    assert second.stdout is not None
    assert second.stdout.readline() == "waiting for another installation of tiny\n"
    said, _ = first.communicate()
    assert said.splitlines()[-1] == str(small.python(tiny))
    said, _ = second.communicate()
    assert said.splitlines() == [str(small.python(tiny))]
    assert (first.returncode, second.returncode) == (0, 0)
    assert small.state(tiny).ready


@pytest.mark.parametrize("moment", ["creating", "installing", "Installed", "checking"])
def test_interrupted_build_is_seen_and_built_anew(small: Runtimes, tiny: FamilySpec, moment: str) -> None:
    killed = installer(small, tiny, moment)
    assert killed.stdout is not None
    assert any(line.startswith(moment) for line in killed.stdout)
    killed.kill()
    killed.communicate()
    assert not small.state(tiny).ready
    python = small.install(tiny)
    assert small.state(tiny).ready
    assert run(python, "import ray; print(ray.where)").startswith(str(small.root))


def test_repair_sees_what_state_cannot(small: Runtimes, tiny: FamilySpec) -> None:
    python = small.install(tiny)
    library = Path(run(python, "import ray; print(ray.where)"))
    library.write_text("raise ImportError\n")
    assert small.state(tiny).ready
    small.repair(tiny)
    assert run(python, "import ray; print(ray.where)") == str(library)


def test_repair_outlives_a_damaged_cache(small: Runtimes, tiny: FamilySpec) -> None:
    library = Path(run(small.install(tiny), "import ray; print(ray.where)"))
    library.write_text("raise ImportError\n")  # a hard link into uv's cache
    small.remove(tiny)
    with pytest.raises(RunnerUnavailable, match="do not import"):
        small.install(tiny)
    assert small.repair(tiny).exists()
    assert small.state(tiny).ready


def test_another_ray_is_refused_and_nothing_stays(small: Runtimes, tiny: FamilySpec, tmp_path: Path) -> None:
    wrong = tmp_path / "ray-1.0.0-py3-none-any.whl"
    make_ray(wrong, "1.0.0")
    assert tiny.lock is not None
    tiny.lock.write_text(f"ray @ {wrong.as_uri()}\n")
    with pytest.raises(RunnerUnavailable, match=r"Ray 1\.0\.0"):
        small.install(tiny)
    assert not small.folder(tiny).exists()


def test_unreachable_index_is_said(
    small: Runtimes, tiny: FamilySpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert tiny.lock is not None
    tiny.lock.write_text("no-such-library-anywhere==1.0\n")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(RunnerUnavailable) as failure:
        small.install(tiny)
    assert "cannot be reached" in failure.value.hint
    assert str(small.root) not in str(failure.value) + failure.value.hint
    assert "no-such-library-anywhere" in caplog.text
    assert not small.state(tiny).ready
