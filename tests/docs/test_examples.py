"""Every example and every command of the docs, executed against the session's server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving import CHECKOUT, TOLLAMA, Server

EXAMPLES = CHECKOUT / "examples"
RUNS = {
    "quickstart.py": (sys.executable, "UNSUPPORTED_BY_MODEL"),
    "pandas_frames.py": (sys.executable, "mean absolute error"),
    "stream_httpx.py": (sys.executable, "running forecast"),
    "curl.sh": ("sh", '"forecasts"'),
    "fetch.mjs": ("node", "MODEL_NOT_FOUND"),
}
# Node.js is nothing that `make test` can install: where it is not there, its example is not run.
HERE = [name for name, (program, _) in RUNS.items() if shutil.which(program)]
PAGES = [CHECKOUT / "README.md", EXAMPLES / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
BLOCKS = [
    (page, language, block)
    for page in PAGES
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
]
ELSEWHERE = {"make", "kubectl"}
"""Programs that a ``console`` block may begin with: they need a checkout of their own, or a cluster."""


def executed(command: list[str] | str, server: Server, cwd: Path) -> str:
    """What it printed; the server stands at the address that the docs name."""
    env = {**server.environment, "TOLLAMA_URL": server.door, "PATH": f"{TOLLAMA.parent}:{os.environ['PATH']}"}
    shell = isinstance(command, str)
    done = subprocess.run(command, shell=shell, env=env, cwd=cwd, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the examples in it, as a checkout has them."""
    (tmp_path / "examples").symlink_to(EXAMPLES)
    return tmp_path


def test_every_example_is_run() -> None:
    programs = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh", ".mjs")}
    assert programs == {*RUNS, "demo.py"}  # the demo has a test of its own


@pytest.mark.parametrize("name", HERE)
def test_an_example(name: str, server: Server, tmp_path: Path) -> None:
    program, said = RUNS[name]
    assert said in executed([program, str(EXAMPLES / name)], server, tmp_path)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name in ("quickstart.md", "operations.md")])
def test_a_pages_commands_work_in_order(page: Path, server: Server, checkpoint: Path, folder: Path) -> None:
    blocks = [block for where, language, block in BLOCKS if where == page and language == "sh"]
    assert len(blocks) > 1
    try:
        for block in blocks:
            text = block.replace("127.0.0.1:11435", f"127.0.0.1:{server.port}")
            assert executed(f"set -e\n{text}", server, folder)
    finally:
        server.http.delete(f"{server.door}/v1/models/chronos-bolt-small")


def test_the_examples_own_commands(server: Server, folder: Path) -> None:
    (block,) = [block for page, _, block in BLOCKS if page.parent == EXAMPLES]
    assert executed(f"set -e\n{block}", server, folder)
    assert (folder / "weather.png").stat().st_size > 10_000


def test_python_in_the_docs_runs(server: Server, folder: Path) -> None:
    pages = ("quickstart.md", "README.md")
    code = [block for page, language, block in BLOCKS if page.name in pages and language == "python"]
    assert len(code) == 3
    for block in code:
        text = block.replace("127.0.0.1:11435", f"127.0.0.1:{server.port}")
        assert ("mean" if "pandas" in text else "forecast") in executed([sys.executable, "-c", text], server, folder)


def test_what_is_not_run_is_what_cannot_be() -> None:
    for page, language, block in BLOCKS:
        generated = page.name == "cli.md"
        if language == "console":
            assert {line.split()[0] for line in block.splitlines()} <= ELSEWHERE, page
        else:
            assert generated or language in ("", "sh", "python", "toml"), (page, language)
    assert {page.name for page, language, _ in BLOCKS if language == "sh"} == {"quickstart.md", "operations.md"}
