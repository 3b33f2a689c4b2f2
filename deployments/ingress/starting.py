"""How families that are waited for come along, as Serve's controller tells it: one look for all who wait at once."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from ray import serve
from ray.serve.schema import DeploymentStatusOverview

from deployments.ingress.supervision import MOST_BACKOFF_S
from deployments.ingress.turns import Turns

APP = "tollama"
"""Name of the Serve application."""
LOOK_S = 1.0
"""How often the controller is asked: that costs 55 ms of processor time (measured), of which other calls want to live.
Signs for other ingress replicas are renewed as often (:mod:`deployments.ingress.turns`)."""
RUNS_S = 3.0
"""A family that gave an answer less than this ago runs, and needs no look."""
ANSWER_S = 0.2
"""How long a look waits for the controller; what it says later is for the next one."""


class Controller:
    """Serve's controller as one ingress replica asks it: one look at a time, whoever waits for it, in a thread that
    nobody else needs, since a controller that is away holds it for as long as it likes."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="status")
        self.seen_at = -math.inf
        """When what is known was asked for."""
        self._looked = -math.inf
        self._looking: asyncio.Future[Mapping[str, DeploymentStatusOverview]] | None = None
        self._found: Mapping[str, DeploymentStatusOverview] = {}

    async def look(self) -> Mapping[str, DeploymentStatusOverview]:
        """Every deployment as it was within the last ``LOOK_S``; a little older, or none, while the controller is
        away."""
        if self._looking is None and time.monotonic() - self._looked >= LOOK_S:
            self._looked = time.monotonic()
            self._looking = asyncio.get_running_loop().run_in_executor(self._thread, _deployments)
            self._looking.add_done_callback(self._seen)
        if self._looking is not None:
            await asyncio.wait({self._looking}, timeout=ANSWER_S)
        return self._found if time.monotonic() - self.seen_at < RUNS_S else {}

    def _seen(self, looking: asyncio.Future[Mapping[str, DeploymentStatusOverview]]) -> None:
        self._looking = None
        if not looking.cancelled() and looking.exception() is None:
            self._found, self.seen_at = looking.result(), self._looked

    def close(self) -> None:
        """Wait for nothing any more."""
        self._thread.shutdown(wait=False)


class Starting:
    """One family; ``turns`` is told who has its share of a GPU. ``failure`` is why the family failed to start, as it
    was last seen; ``backoff`` the seconds for which nobody tries it again after that, doubling with each time."""

    def __init__(self, family: str, turns: Turns, controller: Controller, backoff: float) -> None:
        self.failure: str | None = None
        self._family = family
        self._turns = turns
        self._controller = controller
        self._backoff = backoff
        self._failures = 0
        self._paused = self._answered = -math.inf

    @property
    def pause(self) -> float:
        """Seconds for which the family is not to be started, since it failed to a moment ago; 0 else."""
        return max(0.0, self._paused - time.monotonic())

    def answered(self) -> None:
        """The family gave an answer, so it runs and has what it needs."""
        self._answered = time.monotonic()
        self.failure = None
        self._failures = 0
        self._paused = -math.inf
        self._turns.forget(self._family)

    async def look(self) -> str | None:
        """Why the family fails to start, or None while it does not."""
        if time.monotonic() - self._answered < RUNS_S:
            return None
        found = await self._controller.look()
        if found:
            self._turns.look(self._family, {name: _using(found[name]) for name in found})
        if self.pause:
            return self.failure
        if not found or self._controller.seen_at < self._paused:
            return None  # what is known is of the time before it was tried again
        self.failure = _failed_start(found.get(self._family))
        if self.failure is not None:
            # The exponent is bounded: a float overflows at 1024.
            self._paused = time.monotonic() + min(MOST_BACKOFF_S, self._backoff * 2.0 ** min(self._failures, 30))
            self._failures += 1
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
