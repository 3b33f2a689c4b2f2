"""The families: each a pure record of which environment it lives in and which adapters it has.

Built-in families come through the same entry-point group (``tollama.families``) as a stranger's package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from tollama.paths import data

ENTRY_POINTS = "tollama.families"


@dataclass(frozen=True, slots=True)
class FamilySpec:
    """One family of models.

    ``adapters`` maps an adapter's name to its import string (``module:Class``). ``lock`` is the requirements file of
    its environment, or None for a family that lives in the server's own. ``torch`` is the torch version installed
    before the lock, with its dependencies, or None. ``probe`` lists the modules that must import for the runtime to be
    called sound. ``num_gpus`` is its default share of a GPU.
    """

    name: str
    adapters: Mapping[str, str]
    lock: Path | None = None
    torch: str | None = None
    probe: tuple[str, ...] = ()
    num_gpus: float = 0.0
    registry: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)


TORCH = "2.13.0"
"""The one torch version of every family, so that environments share its files."""


def mock() -> FamilySpec:
    """Deterministic and instant, for people who write clients; lives in the server's environment."""
    return FamilySpec("mock", {"mock": "deployments.adapters.mock:Mock"})


def baseline() -> FamilySpec:
    """Statistical models of statsforecast: no weights, the embedded default."""
    return FamilySpec(
        "baseline",
        {"statsforecast": "deployments.adapters.baseline:Baseline"},
        lock=data("runtime_envs/baseline.txt"),
        probe=("ray.serve", "statsforecast"),
    )


def torch() -> FamilySpec:
    """Chronos and Granite."""
    return FamilySpec(
        "torch",
        {"chronos-bolt": "deployments.adapters.chronos_bolt:ChronosBolt"},
        lock=data("runtime_envs/torch.txt"),
        torch=TORCH,
        probe=("ray.serve", "torch", "chronos.chronos_bolt"),
        num_gpus=0.4,
    )


@cache
def families() -> dict[str, FamilySpec]:
    """Every family known to this installation, by name."""
    specs = [point.load()() for point in entry_points(group=ENTRY_POINTS)]
    return {spec.name: spec for spec in sorted(specs, key=lambda spec: spec.name)}
