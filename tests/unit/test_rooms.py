"""The house's own rules: who imports whom, how long a module may be, what must be documented."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*ROOT.glob("tollama/**/*.py"), *ROOT.glob("deployments/**/*.py")])
LIBRARIES = {"chronos", "tsfm_public", "timesfm", "timesfm3", "uni2ts", "statsforecast", "torch", "transformers"}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def from_adapters(node: ast.AST) -> TypeGuard[ast.ImportFrom]:
    return isinstance(node, ast.ImportFrom) and node.module == "deployments.adapters"


def packages(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_keeps_to_its_room(path: Path) -> None:
    room = path.relative_to(ROOT).parts
    found = packages(path)
    if room[0] == "tollama":
        assert not found & {"ray", "fastapi", "deployments", *LIBRARIES}
    elif room[1] == "adapters":
        others = {name for name in imports(path) if name.startswith(("deployments", "ray", "fastapi"))}
        others = {name for name in others if not name.startswith("deployments.adapters._")}
        assert others <= {"deployments.adapters"}, "of deployments, only what adapters share"
        shared = {node.names[0].name for node in ast.walk(ast.parse(path.read_text())) if from_adapters(node)}
        assert all(name.startswith("_") for name in shared), "an adapter imports no other adapter"
    else:
        assert not found & LIBRARIES
        assert not any(name.startswith("deployments.adapters") for name in imports(path))
    assert len(path.read_text().splitlines()) <= 400


def test_importing_tollama_is_cheap() -> None:
    heavy = {"pandas", "httpx", "pydantic", "huggingface_hub", "ray"}
    code = f"import sys, tollama; found = {heavy!r} & set(sys.modules); sys.exit(str(found) if found else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
