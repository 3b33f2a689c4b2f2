"""A stranger's families whose models want memory: see :mod:`tollama_greedy.adapter`."""

from __future__ import annotations

from pathlib import Path

from tollama.families import FamilySpec


def family() -> FamilySpec:
    """Lives in the server's environment."""
    return FamilySpec(
        "greedy", {"greedy": "tollama_greedy.adapter:Greedy"}, registry=Path(__file__).with_name("registry.yaml")
    )


def modest() -> FamilySpec:
    """Another one, with a model that says that it is large."""
    return FamilySpec(
        "modest", {"greedy": "tollama_greedy.adapter:Greedy"}, registry=Path(__file__).with_name("modest.yaml")
    )
