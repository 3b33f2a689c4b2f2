"""``tollama doctor`` as a process: what it prints, what it exits with, and what it keeps to itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.fake_server import Fake, Run
from tests.hub import LoopbackHub
from tests.serving import RUNTIMES
from tollama.families import families
from tollama.runtimes import Runtimes
from tollama.version import __version__

SECRET = "sesame-0123"


@pytest.fixture
def settled(environment: dict[str, str], tmp_path: Path) -> Iterator[dict[str, str]]:
    """A user with a hub, and with secrets wherever they can stand."""
    with LoopbackHub(tmp_path) as hub:
        environment |= {
            "HF_ENDPOINT": hub.url.replace("//", f"//user:{SECRET}@"),
            "HF_TOKEN": f"hf_{SECRET}",
            "TOLLAMA_API_KEY": SECRET,
        }
        yield environment


def test_nothing_installed_and_no_server_is_no_failure(settled: dict[str, str], process: Run, tmp_path: Path) -> None:
    done = process("doctor", host="127.0.0.1:9")
    said = done.stdout.decode()
    assert done.returncode == 0, said
    lines = said.splitlines()
    assert lines[0].split()[:2] == ["ok", "python"]
    assert "Hint: tollama runtime install torch" in said
    assert "Hint: Start one with: tollama serve" in said
    assert lines[-1].startswith("Failures: 0. Warnings: ")
    assert SECRET not in said + done.stderr.decode()
    assert not (tmp_path / "home").exists()


def rows(out: bytes) -> dict[str, Any]:
    return {row.pop("name"): row for row in json.loads(out)}


def test_json_tells_the_same(settled: dict[str, str], process: Run, fake: Fake) -> None:
    done = process("doctor", "--json", "--quick", host=fake.url)
    found = rows(done.stdout)
    assert {"python", "config", "home", "disk", "models", "hub", "server"} < set(found)
    assert {f"runtime {family}" for family in families()} < set(found)
    assert all(set(row) == {"status", "detail", "hint"} for row in found.values())
    assert found["hub"]["status"] == "ok"
    assert found["server"]["status"] == "warn"
    assert "9.9.9" in found["server"]["detail"]
    assert __version__ in found["server"]["detail"]
    assert SECRET not in done.stdout.decode()


def test_what_is_broken_fails_by_name(settled: dict[str, str], process: Run, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "models/torn").mkdir(parents=True)
    (home / "models/torn/manifest.json").write_text("{")
    (home / "config.json").write_text('{"port": ')
    done = process("doctor", "--json", host="http://127.0.0.1:9")
    found = rows(done.stdout)
    assert done.returncode == 1
    assert {name for name, row in found.items() if row["status"] == "fail"} == {"config", "model torn"}
    assert found["model torn"]["hint"].startswith("tollama rm torn, then pull it again")
    assert b"Traceback" not in done.stderr


def test_a_real_runtime_is_imported_and_a_broken_one_is_a_failure(
    settled: dict[str, str], process: Run, tmp_path: Path
) -> None:
    """The environment is the tests' own, seen through links, so that something can be missing in it."""
    baseline = families()["baseline"]
    real = Runtimes(RUNTIMES).install(baseline).parents[1]
    seen = tmp_path / "runtimes" / "baseline" / real.name
    seen.mkdir(parents=True)
    for entry in real.iterdir():
        (seen / entry.name).symlink_to(entry)
    settled["TOLLAMA_RUNTIMES_DIR"] = str(tmp_path / "runtimes")
    found = rows(process("doctor", "--json", host="127.0.0.1:9").stdout)["runtime baseline"]
    assert found["status"] == "ok", found
    assert "statsforecast 2." in found["detail"]
    libraries = next((real / "lib").iterdir()) / "site-packages"
    (seen / "lib").unlink()
    packages = seen / "lib" / libraries.parent.name / libraries.name
    packages.mkdir(parents=True)
    for entry in libraries.iterdir():
        if entry.name != "numpy":
            (packages / entry.name).symlink_to(entry)
    done = process("doctor", "--json", host="127.0.0.1:9")
    found = rows(done.stdout)["runtime baseline"]
    assert (done.returncode, found["status"], found["hint"]) == (1, "fail", "tollama runtime repair baseline")
    assert "do not import" in found["detail"]
    assert b"Traceback" not in done.stderr
    (seen / "bin").unlink()
    done = process("doctor", "--json", host="127.0.0.1:9")
    found = rows(done.stdout)["runtime baseline"]
    assert (done.returncode, found["status"], found["hint"]) == (1, "fail", "tollama runtime repair baseline")
