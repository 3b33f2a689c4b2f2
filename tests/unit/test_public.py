"""The names that ``tollama`` gives away."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import tollama

PUBLIC = {
    "AsyncClient",
    "Capabilities",
    "Client",
    "ForecastLine",
    "ForecastRequest",
    "ForecastResponse",
    "SeriesFailure",
    "SeriesForecast",
    "SeriesInput",
    "TollamaError",
    "__version__",
}


def test_the_list_is_the_promise() -> None:
    assert tollama.__all__ == sorted(PUBLIC)
    assert dir(tollama) == tollama.__all__


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__"}))
def test_each_is_what_type_checkers_see(name: str) -> None:
    tree = ast.parse(Path(tollama.__file__).read_text())
    homes = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    found = getattr(tollama, name)
    assert (found.__module__, found.__name__) == (homes[name], name)


def test_other_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        tollama.Nothing  # noqa: B018
