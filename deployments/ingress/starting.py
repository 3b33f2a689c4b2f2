"""How families that are waited for come along, as Serve's controller tells it: one look for all who wait at once."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from contextlib import suppress

from ray import serve
from ray.serve.schema import DeploymentStatusOverview

from deployments.ingress.turns import Turns

APP = "tollama"
"""Name of the Serve application."""
LOOK_S = 1.0
"""How often the controller is asked: that costs 55 ms of processor time (measured), of which other calls want to live.
Signs for other ingress replicas are renewed as often (:mod:`deployments.ingress.turns`)."""
RUNS_S = 3.0
"""A family that gave an answer less than this ago runs, and needs no look."""
ANSWER_S = 2.0
"""The controller's time to answer."""


class Starting:
    """One family; ``turns`` is told who has its share of a GPU. ``failure`` is why the family failed to start, as it
    was last seen."""

    def __init__(self, family: str, turns: Turns) -> None:
        self.failure: str | None = None
        self._family = family
        self._turns = turns
        self._looked = self._answered = -math.inf

    def answered(self) -> None:
        """The family gave an answer, so it runs and has what it needs."""
        self._answered = time.monotonic()
        self.failure = None
        self._turns.forget(self._family)

    async def look(self) -> str | None:
        """Why the family fails to start, or None while it does not."""
        now = time.monotonic()
        if now - self._looked >= LOOK_S and now - self._answered >= RUNS_S:
            self._looked = now
            # A controller that is away for a moment tells nothing; the deadline goes on all the same.
            with suppress(Exception):
                found = await asyncio.wait_for(asyncio.to_thread(_deployments), ANSWER_S)
                self.failure = _failed_start(found.get(self._family))
                self._turns.look(self._family, {name: _using(found[name]) for name in found})
        return self.failure


def _deployments() -> Mapping[str, DeploymentStatusOverview]:
    """Serve's view of every deployment; see ``LOOK_S`` for what it costs."""
    app = serve.status().applications.get(APP)
    return app.deployments if app is not None else {}


def _using(overview: DeploymentStatusOverview) -> int:
    """Replicas that have their resources: those that run, and those that finish what they have begun."""
    return sum(n for state, n in overview.replica_states.items() if state in ("RUNNING", "STOPPING"))


def _failed_start(overview: DeploymentStatusOverview | None) -> str | None:
    """Why Serve gave up starting a family, or None while it has not."""
    if overview is None or overview.status.value != "UNHEALTHY":
        return None
    if "STARTUP_FAILED" not in str(getattr(overview, "status_trigger", "")).upper():
        return None
    return "its process failed to start several times; the server's log has the cause"
