"""Every example and every command of the docs, executed against the session's server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import LoopbackHub
from tests.serving import CHECKOUT, TOLLAMA, Server

EXAMPLES = CHECKOUT / "examples"
RUNS = {
    "quickstart.py": (sys.executable, "UNSUPPORTED_BY_MODEL"),
    "pandas_frames.py": (sys.executable, "mean absolute error"),
    "stream_httpx.py": (sys.executable, "running forecast"),
    "curl.sh": ("sh", '"forecasts"'),
    "fetch.mjs": ("node", "MODEL_NOT_FOUND"),
}
PAGES = [CHECKOUT / "README.md", EXAMPLES / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
BLOCKS = [
    (page, language, block)
    for page in PAGES
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
]
ELSEWHERE = (
    *("make ", "kubectl ", "nft ", "jq ", "tollama serve", "export "),
    *("tollama pull chronos-bolt-small --host ", "tollama pull chronos-2 --"),
)
"""What a line of a ``console`` block begins with: it wants a checkout of its own, a cluster, root, a program that is
not ours, a terminal, or a hub."""
SESSION = ("quickstart.md", "operations.md")
OWN = ("pulling.md", "security.md", "settings.md")
"""Pages whose commands change a home."""
DATA = {"toml", "yaml", "caddyfile"}


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


@pytest.mark.parametrize("name", RUNS)
def test_an_example(name: str, server: Server, tmp_path: Path) -> None:
    program, said = RUNS[name]
    if not shutil.which(program):
        pytest.skip(f"{program} is not here, and nothing that `make test` can install")
    assert said in executed([program, str(EXAMPLES / name)], server, tmp_path)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name in SESSION], ids=lambda page: page.name)
def test_a_pages_commands_work_in_order(page: Path, server: Server, checkpoint: Path, folder: Path) -> None:
    blocks = [block for where, language, block in BLOCKS if where == page and language == "sh"]
    assert len(blocks) > 1
    try:
        for block in blocks:
            text = block.replace("127.0.0.1:11435", f"127.0.0.1:{server.port}")
            assert executed(f"set -e\n{text}", server, folder)
    finally:
        server.http.delete(f"{server.door}/v1/models/chronos-bolt-small")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, hub: LoopbackHub, checkpoint: Path) -> Iterator[Server]:
    """A server whose home the pages may change, and what they pull: a repository with a branch, beside the folder."""
    files: dict[str, bytes | Path] = {path.name: path for path in checkpoint.iterdir()}
    for branch in ("main", "v2"):
        hub.add("acme/sales-bolt", files | {"README.md": branch.encode()}, branch)
    hub.cards["acme/sales-bolt"] = {"license": "apache-2.0"}
    with Server(tmp_path_factory.mktemp("own"), TOLLAMA_HF_ENDPOINT=hub.url) as running:
        yield running


@pytest.mark.parametrize("page", [page for page in PAGES if page.name in OWN], ids=lambda page: page.name)
def test_a_pages_commands_work_in_a_home_of_its_own(page: Path, own: Server, checkpoint: Path, folder: Path) -> None:
    shutil.copytree(checkpoint, folder / "checkpoint")
    (folder / "checkpoint/README.md").write_text("---\nlicense: apache-2.0\n---\n")
    blocks = [block for where, language, block in BLOCKS if where == page and language == "sh"]
    assert blocks
    for block in blocks:
        assert executed(f"set -e\n{block}", own, folder)


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
        if language == "console":
            assert all(line.startswith(ELSEWHERE) for line in block.splitlines()), page
            assert "`console`" in page.read_text().partition("```")[0], page
        elif language not in ("sh", "python", *DATA):
            # The one is generated, the others' commands have tests of their own.
            assert (language, page.name in ("cli.md", "README.md")) == ("", True), (page, block)
    assert {page.name for page, language, _ in BLOCKS if language == "sh"} == {*SESSION, *OWN}
