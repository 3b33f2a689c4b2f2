"""One model into memory and out of it, for the thread that computes: timed, measured, and its failures told. No Ray."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from deployments import memory
from deployments.failures import OOM, Refused, cause_of
from deployments.memory import Memory
from deployments.residency import Resident
from tollama.errors import RunnerFailed
from tollama.seam import Adapter, Placement

logger = logging.getLogger("ray.serve")


def loaded(resident: Resident, adapter: Callable[[], Adapter], placement: Placement, room: Memory) -> Any:
    """What the adapter's ``load`` gives; notes in ``resident`` how long it took, what it took and what it can do.

    Raises :class:`Refused` for whatever the adapter raises.
    """
    ref = resident.ref
    start, before = time.perf_counter(), room.used()
    try:
        model = adapter().load(ref, replace(placement, dtype=room.precision(placement.dtype)))
        resident.capabilities = adapter().capabilities(model, ref.capabilities)
    except Exception as error:
        cause, raised = cause_of(error), type(error).__name__
        logger.error("model %s could not be loaded\n%s", ref.name, traceback.format_exc())
    else:
        resident.load_s = time.perf_counter() - start
        after = room.used()
        resident.took = {kind: max(0.0, after[kind] - before[kind]) for kind in after}
        # On its way to a GPU it went through the host's memory, and holds no more of it than was measured.
        resident.need = {kind: needed for kind, needed in resident.need.items() if kind == room.kind}
        room.learn(ref, resident.took)
        logger.info("model %s loaded in %.2f s", ref.name, resident.load_s)
        return model
    if cause != OOM:
        hint = f"The server's log has the cause; tollama pull {ref.name} checks its files."
        raise Refused(RunnerFailed(f"The model {ref.name!r} could not be loaded: {raised}.", hint=hint), cause)
    memory.release()  # only here is nothing left of the exception, and of the half of a model in its frames
    needed = resident.need.get(room.kind, 0.0)
    weights = f" Its weights take about {needed:.0f} MB." if needed else ""
    free = "; ".join(memory.free_of(kind, space) for kind, space in room.room().items())
    raise Refused(
        RunnerFailed(
            f"The model {ref.name!r} ran out of memory while it was loaded.{weights} Without it, {free}.",
            hint="Let other programs go, raise the family's num_gpus in serve_config.yaml if it has a GPU, or take a"
            " smaller model.",
        ),
        OOM,
    )


def unloaded(resident: Resident, adapter: Adapter) -> None:
    """Let go of a model. An adapter that fails at that is logged, and its model is let go all the same."""
    try:
        adapter.unload(resident.model)
    except Exception:
        logger.exception("model %s could not be unloaded", resident.ref.name)
    else:
        logger.info("model %s unloaded", resident.ref.name)
    resident.model = None
    memory.trim()
