"""The application's one autoscaling policy: what families hold and who waits -> replicas per family.

Serve calls it inside its controller at each tick, so it never blocks and imports nothing heavy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol


class Context(Protocol):
    """What the policy reads of Serve's ``AutoscalingContext``."""

    deployment_name: str
    current_num_replicas: int
    target_num_replicas: int
    capacity_adjusted_max_replicas: int

    @property
    def total_num_requests(self) -> float: ...

    @property
    def aggregated_metrics(self) -> Mapping[str, Mapping[Any, float]] | None: ...


class Policy:
    """Replicas wanted for each family.

    Someone waits or runs -> at least one, more by load. Models held -> keep. Empty for ``linger`` seconds -> zero,
    which also re-arms a family that Serve gave up on. ``target`` is how many requests one replica is to have.
    """

    def __init__(self, linger: float = 60.0, target: float = 64.0, clock: Callable[[], float] = time.time) -> None:
        self.linger = linger
        self.target = target
        self.clock = clock

    def __call__(self, contexts: Mapping[Any, Context]) -> tuple[dict[Any, int], dict[Any, dict[str, float]]]:
        wanted: dict[Any, int] = {}
        state: dict[Any, dict[str, float]] = {}
        for key, context in contexts.items():
            previous = getattr(context, "policy_state", None) or {}
            wanted[key], state[key] = self._one(context, previous)
        return wanted, state

    def _one(self, context: Context, previous: Mapping[str, float]) -> tuple[int, dict[str, float]]:
        now = self.clock()
        running = context.current_num_replicas
        if context.total_num_requests > 0:
            load = -(-int(context.total_num_requests) // max(1, int(self.target)))
            most = context.capacity_adjusted_max_replicas
            return min(most, max(1, load, min(running, most) if load > 1 else 1)), {"idle_since": now}
        if not running:
            return 0, {}
        if _latest(context, "hold") > 0:
            return 1, {"idle_since": now}
        idle_since = previous.get("idle_since") or max(_latest(context, "last_used"), 0.0) or now
        return (0 if now - idle_since >= self.linger else 1), {"idle_since": idle_since}


def _latest(context: Context, name: str) -> float:
    """The greatest value that any replica reports of ``name``."""
    reported = (context.aggregated_metrics or {}).get(name) or {}
    return max(reported.values(), default=0.0)
