"""Every command, found by walking the tree of them: what its help has, and which tell in JSON."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.core import TyperCommand, TyperGroup

from tests.cli.fake_server import Fake, Run
from tests.serving import CHECKOUT
from tollama.cli import app
from tollama.redaction import text

ACTING = {"serve", "pull", "stop", "rm", "config set", "config unset", "config key revoke"} | {
    f"runtime {verb}" for verb in ("install", "repair", "remove")
}
"""What these have to say is that it is done. Every other command is there to be read."""
READ = (
    "list, list --available, ps, show naive, show naive --license, info, doctor --quick, prune --dry-run, config list, "
    "config get port, config path, config key list, runtime list"
)


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, TyperCommand | TyperGroup]]:
    if path:
        yield " ".join(path), command
    if isinstance(command, TyperGroup):
        for name, inner in command.commands.items():
            yield from commands(inner, (*path, name))


TREE = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("command", TREE)
def test_help_has_an_example(command: str, tollama: Run) -> None:
    done = tollama(*command.split(), "--help")
    assert done.returncode == 0
    assert f"Example: tollama {command}" in " ".join(done.stdout.decode().split())


def test_every_reading_command_takes_json() -> None:
    reading = {name: one for name, one in TREE.items() if isinstance(one, TyperCommand) and name not in ACTING}
    assert {"list", "ps", "show", "info", "doctor", "prune", "forecast", "config path", "runtime list"} < set(reading)
    for name, one in reading.items():
        assert "--json" in {option for parameter in one.params for option in parameter.opts}, name
    assert set(TREE) >= ACTING


@pytest.mark.parametrize("command", READ.split(", "))
def test_json_is_all_that_goes_to_stdout(command: str, fake: Fake, tollama: Run) -> None:
    done = tollama(*command.split(), "--json", host=fake.url)
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)


def test_nothing_of_our_own_is_masked() -> None:
    """What is printed has its secrets masked; no sentence of ours looks like one."""
    for path in (CHECKOUT / "tollama").rglob("*.py"):
        tree = ast.parse(path.read_text())
        bodies = [
            node.body[0] for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        ]
        prose = {id(first.value) for first in bodies if isinstance(first, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                said = "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
                said = node.value
            else:
                continue
            if not said.startswith("Bearer ") and path.name != "redaction.py":
                assert text(said) == said, f"{path}, line {node.lineno}"
