"""A stranger's family whose models fail on demand: see :mod:`tollama_faulty.adapter`."""

from __future__ import annotations

import os
from pathlib import Path

from tollama.families import FamilySpec


def family() -> FamilySpec:
    """Lives in the server's environment; ``FAULTS`` is the folder of what is to go wrong."""
    return FamilySpec(
        "faulty",
        {"faulty": "tollama_faulty.adapter:Faulty"},
        registry=Path(__file__).with_name("registry.yaml"),
        env={"FAULTS": os.environ.get("FAULTS", "")},
    )
