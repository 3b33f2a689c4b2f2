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
    called sound. ``num_gpus`` is its default share of a GPU. On a CPU one family computes at a time; one that does not
    compute has ``computes`` False, and neither waits for the others nor keeps them waiting.
    """

    name: str
    adapters: Mapping[str, str]
    lock: Path | None = None
    torch: str | None = None
    probe: tuple[str, ...] = ()
    num_gpus: float = 0.0
    computes: bool = True
    registry: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)


TORCH = "2.13.0"
"""The one torch version of every family, so that environments share its files."""


def mock() -> FamilySpec:
    """Deterministic and instant, for people who write clients; lives in the server's environment."""
    return FamilySpec("mock", {"mock": "deployments.adapters.mock:Mock"}, computes=False)


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
        {
            "chronos-bolt": "deployments.adapters.chronos_bolt:ChronosBolt",
            "chronos-2": "deployments.adapters.chronos_2:Chronos2",
            "chronos-t5": "deployments.adapters.chronos_t5:ChronosT5",
            "granite-ttm": "deployments.adapters.granite_ttm:GraniteTtm",
            "flowstate": "deployments.adapters.flowstate:FlowState",
            "patchtst-fm": "deployments.adapters.patchtst_fm:PatchTstFm",
        },
        lock=data("runtime_envs/torch.txt"),
        torch=TORCH,
        probe=("ray.serve", "torch", "chronos.chronos_bolt", "tsfm_public.models.tinytimemixer"),
        num_gpus=0.4,
    )


def timesfm() -> FamilySpec:
    """TimesFM."""
    return FamilySpec(
        "timesfm",
        {
            "timesfm-2.5": "deployments.adapters.timesfm_2p5:TimesFM2p5",
            "timesfm-3.0": "deployments.adapters.timesfm_3:TimesFM3",
        },
        lock=data("runtime_envs/timesfm.txt"),
        torch=TORCH,
        # `import timesfm` alone succeeds without torch, and without its models.
        probe=("ray.serve", "torch", "timesfm.timesfm_2p5.timesfm_2p5_torch", "timesfm3.torch"),
        num_gpus=0.3,
    )


def uni2ts() -> FamilySpec:
    """Moirai."""
    return FamilySpec(
        "uni2ts",
        {
            "moirai": "deployments.adapters.moirai:Moirai",
            "moirai-moe": "deployments.adapters.moirai:Moirai",
            "moirai-2": "deployments.adapters.moirai_2:Moirai2",
        },
        lock=data("runtime_envs/uni2ts.txt"),
        torch=TORCH,
        # `import uni2ts` alone is empty. Ray's workers import pyarrow, which some versions refuse beside numpy 1.26.
        probe=("ray.serve", "pyarrow", "uni2ts.model.moirai", "uni2ts.model.moirai_moe", "uni2ts.model.moirai2"),
        num_gpus=0.3,
    )


@cache
def families() -> dict[str, FamilySpec]:
    """Every family known to this installation, by name."""
    specs = [point.load()() for point in entry_points(group=ENTRY_POINTS)]
    return {spec.name: spec for spec in sorted(specs, key=lambda spec: spec.name)}
