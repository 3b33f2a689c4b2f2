"""How one environment is built: uv fills it, its libraries are imported once, and `MARK` records what was found."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tollama.errors import RunnerUnavailable
from tollama.families import FamilySpec
from tollama.version import __version__

log = logging.getLogger(__name__)

Progress = Callable[[str], None]

MARK = "installed.json"
"""Written last: a folder without it is a build that was cut short."""
PYTHON_MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
PROBE_SECONDS = 600.0
"""A first import of torch and transformers from a cold disk takes 15 s; a busy small machine many times that."""

_PROBE = """
import importlib, json, sys
from importlib.metadata import distributions
origins = [importlib.import_module(name).__file__ for name in sys.argv[1:]]
libraries = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in distributions()}
print()
print(json.dumps({"python": "%d.%d" % sys.version_info[:2], "origins": origins, "libraries": libraries}))
"""

_TOLD = ("Resolved", "Downloading", "Prepared", "Installed", "Bytecode")
"""How the lines of uv begin that are passed on as progress: those without paths."""
_OFFLINE_WORDS = (
    "error sending request",
    "failed to fetch",
    "dns error",
    "connect error",
    "network was disabled",
    "timed out",
)


def build(spec: FamilySpec, folder: Path, say: Progress, lock_fd: int, *options: str) -> None:
    """Builds the environment of ``spec`` in ``folder``, anew; ``options`` go to ``uv pip install``.

    ``lock_fd`` is the descriptor of the family's lock, which uv inherits. Raises `RunnerUnavailable`; nothing
    half-built is left behind then.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    python, lock = str(folder / "bin" / "python"), str(spec.lock)
    pip = ("pip", "install", "--python", python, *options)
    try:
        say(f"creating the environment of {spec.name}")
        _uv(spec, folder, say, lock_fd, "venv", "--no-project", "--python", sys.executable, str(folder))
        if spec.torch:
            say(f"installing torch {spec.torch}")
            _uv(spec, folder, say, lock_fd, *pip, "--constraints", lock, f"torch=={spec.torch}")
        say(f"installing the libraries of {spec.name}")
        _uv(spec, folder, say, lock_fd, *pip, "--no-deps", "--compile-bytecode", "--requirements", lock)
        _write_mark(spec, folder, probe(spec, folder, say))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def probe(spec: FamilySpec, folder: Path, say: Progress) -> dict[str, Any]:
    """Imports ``spec.probe`` in the environment, alone: no PYTHONPATH, no user site, no current folder.

    Returns ``python`` (minor version), ``origins`` (the modules' files) and ``libraries`` (name -> version). Raises
    `RunnerUnavailable` if something does not import, or if Python or Ray are not those of this process.
    """
    say(f"checking that {spec.name} imports")
    hint = f"tollama runtime repair {spec.name}"
    environment = {**clean_environment(), **spec.env, "PYTHONNOUSERSITE": "1"}
    with tempfile.TemporaryDirectory() as empty:
        try:
            done = subprocess.run(
                [str(folder / "bin" / "python"), "-I", "-c", _PROBE, *spec.probe],
                cwd=empty,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=PROBE_SECONDS,
            )
        except subprocess.TimeoutExpired as e:
            raise failure(spec, "its libraries took too long to import", hint) from e
    if done.returncode:
        log.error("the libraries of family %s do not import:\n%s", spec.name, done.stderr[-4000:])
        raise failure(spec, "its libraries do not import", f"The log has the cause; then run: {hint}")
    found: dict[str, Any] = json.loads(done.stdout.rstrip().rpartition("\n")[2])
    for what, wanted, got in (
        ("Python", PYTHON_MINOR, found["python"]),
        ("Ray", ray_version(), found["libraries"].get("ray", "none")),
    ):
        if wanted != got:
            raise failure(spec, f"it has {what} {got}, the server has {wanted}", "Correct the family's lock.")
    return found


@cache
def ray_version() -> str:
    """The version of Ray in this process's environment; every family must have the same."""
    return version("ray")


def failure(spec: FamilySpec, why: str, hint: str) -> RunnerUnavailable:
    """The error for a runtime that could not be installed."""
    return RunnerUnavailable(f"The runtime of family '{spec.name}' could not be installed: {why}.", hint=hint)


def clean_environment() -> dict[str, str]:
    """This process's environment without what could point uv or Python at another environment."""
    foreign = ("PYTHON", "VIRTUAL_ENV", "CONDA_", "UV_PYTHON", "UV_PROJECT", "UV_TARGET", "UV_SYSTEM")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}


def _uv(spec: FamilySpec, folder: Path, say: Progress, lock_fd: int, *arguments: str) -> None:
    from uv import find_uv_bin

    try:
        command = [find_uv_bin(), *arguments]
    except FileNotFoundError as e:
        raise failure(spec, "uv was not found", "Reinstall tollama: uv comes with it.") from e
    environment = clean_environment()
    if "UV_FIND_LINKS" not in environment and environment.get("PIP_FIND_LINKS"):
        environment["UV_FIND_LINKS"] = ",".join(environment["PIP_FIND_LINKS"].split())
    words: deque[str] = deque(maxlen=40)
    with subprocess.Popen(
        command,
        cwd=folder.parent,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        pass_fds=(lock_fd,),
    ) as uv:
        assert uv.stdout is not None
        try:
            for line in uv.stdout:
                words.append(line.rstrip())
                if line.startswith(_TOLD):
                    say(line.rstrip())
        except BaseException:
            uv.kill()
            raise
    if uv.returncode:
        said = "\n".join(words)
        log.error("uv %s for family %s ended with %d:\n%s", arguments[0], spec.name, uv.returncode, said)
        hint = f"The log has uv's words; then run: tollama runtime repair {spec.name}"
        if "No space left" in said:
            hint = f"Free some space, then run: tollama runtime repair {spec.name}"
        elif any(word in said.lower() for word in _OFFLINE_WORDS):
            hint = f"The package index cannot be reached: once connected, run: tollama runtime install {spec.name}"
        raise failure(spec, f"uv ended with status {uv.returncode}", hint)


def _write_mark(spec: FamilySpec, folder: Path, found: dict[str, Any]) -> None:
    mark = {
        "family": spec.name,
        "digest": folder.name,
        "python": found["python"],
        "ray": found["libraries"]["ray"],
        "probe": list(spec.probe),
        "origins": [os.path.relpath(origin, folder) for origin in found["origins"] if origin],
        "libraries": found["libraries"],
        "installed_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "tollama": __version__,
    }
    staged = folder / f"{MARK}.tmp"
    with staged.open("w") as file:
        json.dump(mark, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(folder / MARK)
