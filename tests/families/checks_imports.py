"""What an adapter's libraries import, seen inside the family's environment; the asserting is left to the tests."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from checks import make

from deployments.adapters import _lazy
from tollama.seam import Item, ModelRef, Placement, Task


def without(asked: Sequence[tuple[str, ModelRef, Task]], item: Item, names: Sequence[str]) -> dict[str, Any]:
    """Load each model of ``asked`` (adapter, model, task) and forecast ``item``: with the modules ``names`` put off as
    the adapter does it, and again when all of them are there.

    ``there`` are the modules within ``names`` that the first needed, ``absent`` those of ``names`` that are not
    installed, and ``wrong`` what was taken of them that they do not have.
    """
    before = _forecasts(asked, item)
    there = sorted(name for name in sys.modules if any(_within(name, known) for known in names))
    absent = [name for name in names if not find_spec(name)]
    taken = [found for found in gc.get_objects() if type(found) is _lazy.Later]
    wrong = []
    for later in taken:
        try:
            assert _lazy.resolve(later) is not later
        except Exception as error:
            wrong.append(f"{later._module}.{later._name}: {error!r}")
    left = [name for name, module in sys.modules.items() if isinstance(module, _lazy.StandIn)]
    return {
        "there": there,
        "absent": absent,
        "taken": len(taken),
        "wrong": wrong,
        "left": left,
        "before": before,
        "after": _forecasts(asked, item),
    }


def _forecasts(asked: Sequence[tuple[str, ModelRef, Task]], item: Item) -> list[Any]:
    done = []
    for target, ref, task in asked:
        adapter = make(target)
        model = adapter.load(ref, Placement())
        done += adapter.forecast(model, [item], task)
        adapter.unload(model)
    return done


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")
