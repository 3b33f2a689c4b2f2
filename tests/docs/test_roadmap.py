"""The roadmap claims nothing that is not there, and forgets no section and no route."""

from __future__ import annotations

import ast
import re

from docs import generate
from tests.serving import CHECKOUT

PAGE = (CHECKOUT / "docs/roadmap.md").read_text()
SECTIONS = [row for row in PAGE.splitlines() if re.match(r"\| \d+ ", row)]


def test_every_section_has_code_and_a_test() -> None:
    assert [int(row.split()[1]) for row in SECTIONS] == list(range(17))
    for row in SECTIONS:
        _, _, status, code, tests, _ = row.split("|")
        assert status.strip().startswith(("done", "open: ")), row
        assert re.findall(r"`[^`]+`", code), row
        assert all(one.startswith("tests/") for one in re.findall(r"`([^`]+)`", tests)), row
        assert tests.strip(), row


def test_every_path_and_test_is_there() -> None:
    for row in SECTIONS:
        for named in re.findall(r"`([\w./:-]+/[\w./:-]+)`", row):
            path, _, name = named.partition("::")
            assert (CHECKOUT / path).exists(), named
            if name:
                tree = ast.parse((CHECKOUT / path).read_text())
                assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, named


def test_every_route_of_the_application_is_in_the_inventory() -> None:
    listed = re.findall(r"^\| ([A-Z ]+) \| `([^`]+)` \|$", PAGE, re.MULTILINE)
    assert {route: set(methods.split()) for methods, route in listed} == generate.served()
    documented = {path: {verb.upper() for verb in item} for path, item in generate.schema()["paths"].items()}
    # What the schema does not describe: itself, its page, and HEAD beside GET.
    assert {route for route in generate.served() if route not in documented} == {"/docs", "/openapi.json"}
    for route, methods in documented.items():
        assert generate.served()[route] - {"HEAD"} == methods, route
