"""Commands that work in the home itself: a checkpoint taken in, the cache emptied, what is too much removed."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.fake_server import Run
from tests.hub import safetensors
from tests.unit.test_architectures import BOLT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "saved"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(BOLT))
    (made / "model.safetensors").write_bytes(safetensors())
    return made


def manifest(tmp_path: Path, name: str = "mine") -> Path:
    return tmp_path / "home" / "models" / name / "manifest.json"


def test_a_checkpoint_of_this_machine(folder: Path, tmp_path: Path, tollama: Run) -> None:
    done = tollama("pull", "--from-dir", str(folder), "Mine", "--license", "mit", "--no-runtime")
    assert done.returncode == 0, done.stderr
    assert done.stdout == b""
    for said in ("copying model.safetensors", "success", "mine is in"):
        assert said in done.stderr.decode()
    assert json.loads(manifest(tmp_path).read_text())["license"]["id"] == "MIT"


def test_a_server_elsewhere_is_told_of(folder: Path, tmp_path: Path, tollama: Run) -> None:
    command = ["pull", "--from-dir", str(folder), "mine", "--license", "mit", "--no-runtime"]
    done = tollama(*command, host="box.example")
    assert f"the server is at box.example; the model goes into {tmp_path / 'home'}" in done.stderr.decode()
    assert manifest(tmp_path).exists()
    assert b"Warning" not in tollama(*command, host="0.0.0.0").stderr


def test_without_a_licence_and_a_terminal_it_is_an_error(folder: Path, tmp_path: Path, tollama: Run) -> None:
    done = tollama("pull", "--from-dir", str(folder), "mine", "--no-runtime")
    assert done.returncode == 1
    assert b"Error: The licence of 'mine' (unknown) has to be accepted first." in done.stderr
    assert b"--license" in done.stderr
    assert not manifest(tmp_path).exists()
    assert tollama("pull", "--from-dir", str(folder), "mine", "--no-runtime", "--accept-license").returncode == 0
    assert (tmp_path / "home" / "licenses" / "mine.json").exists()


def test_what_is_no_model_is_one_error_and_one_hint(tmp_path: Path, tollama: Run) -> None:
    done = tollama("pull", "--from-dir", str(tmp_path / "nowhere"), "mine")
    assert done.returncode == 1
    assert len(done.stderr.decode().splitlines()) == 2


def test_at_a_terminal_the_licence_is_asked_for(folder: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "tollama.cli", "pull", "--from-dir", str(folder), "mine", "--no-runtime"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=tmp_path) as done:
        os.close(theirs)
        for question, answer in ((b"Its id", b"cc-by-nc-4.0\n"), (b"Do you accept it?", b"y\n")):
            shown = b""
            while question not in shown:
                shown += os.read(ours, 4096)
            os.write(ours, answer)
        while True:
            try:
                if not os.read(ours, 4096):
                    break
            except OSError:  # the other side has closed
                break
        assert done.wait(30) == 0
    os.close(ours)
    assert json.loads(manifest(tmp_path).read_text())["license"]["id"] == "CC-BY-NC-4.0"


def test_prune_and_the_cache(tmp_path: Path, tollama: Run) -> None:
    blobs = tmp_path / "home" / "cache" / "blobs"
    blobs.mkdir(parents=True)
    for name, days in (("old", 99), ("new", 1)):
        (blobs / name).write_bytes(bytes(5_000))
        os.utime(blobs / name, (time.time() - days * 86400,) * 2)
    dry = tollama("prune", "--dry-run").stdout.decode().splitlines()
    assert dry == [f"Would remove {blobs / 'old'}: not used for 30 days.", "5.0 kB would become free."]
    (row,) = json.loads(tollama("prune", "--dry-run", "--json").stdout)
    assert (row["path"], row["size"]) == (str(blobs / "old"), 5000)
    assert tollama("prune").stdout.decode().splitlines()[-1] == "5.0 kB became free."
    assert [path.name for path in blobs.iterdir()] == ["new"]
    assert tollama("prune").stdout == b"Nothing became free.\n"
    assert tollama("rm", "--cache").stdout == b"Removed the cache: 5.0 kB became free.\n"
    assert not blobs.exists()
    assert tollama("rm").returncode == 2
    assert b"logs" in tollama("prune", "--help").stdout
