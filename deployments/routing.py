"""Which replica gets a call, in a family of several: one that holds the model, unless it is much busier than another.

A model that is loaded twice takes its memory twice, and each load takes seconds. So what replicas report to hold
decides (``record_routing_stats`` of :class:`deployments.family.Family`), and between reports what was decided here. The
model's name comes as the ``session_id`` of the handle. A family of one replica has Serve's own router and pays nothing.

How busy a replica is, is counted here. Serve's own count is wrong where calls go by gRPC: it is told with the answer
how many calls there were when the call began, and keeps that for up to 10 s.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from deployments.messages import HELD

REPORT_S = 0.5
"""How often replicas report what they hold."""
EXPECTED_S = 3.0
"""Seconds in which a replica that was sent a model's first call shows up as its holder; a report takes up to a second
through Serve's controller."""
SPREAD = 2
"""Calls that a model's holder may have more than another replica before the other one loads the model, too. One replica
is to have as many before the family gets a second (``target`` of :class:`deployments.scaling.Policy`)."""

R = TypeVar("R")


def order(replicas: Sequence[R], holds: Callable[[R], bool], busy: Callable[[R], int]) -> list[R]:
    """The replicas, the oldest first, in the order in which they are to be tried.

    ``holds`` tells whether one holds the model, ``busy`` how many calls are under way at it. Of equals the oldest comes
    first: what the others hold runs out then, and it is the newest that Serve takes away when there are too many.
    """
    ranked = sorted(replicas, key=busy)
    holders = [one for one in ranked if holds(one)]
    others = [one for one in ranked if not holds(one)]
    if holders and others and busy(holders[0]) - busy(others[0]) > SPREAD:
        return others[:1] + holders + others[1:]
    return holders + others


class HolderRouter(RequestRouter):
    """Serve's router with :func:`order` as its policy. Each ingress replica has one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._under_way: Counter[str] = Counter()
        # Per replica, until when a model that was sent there counts as held although it is not reported yet.
        self._expected: dict[str, dict[str, float]] = {}

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The replicas to try, one by one; Serve takes the first that has room."""
        model = pending_request.metadata.session_id if pending_request is not None else ""
        now = time.monotonic()

        def holds(replica: RunningReplica) -> bool:
            if model in replica.routing_stats.get(HELD, ()):
                return True
            return self._expected.get(replica.replica_id.unique_id, {}).get(model, 0.0) > now

        chosen = order(candidate_replicas, holds, self._busy)
        if model and chosen and not holds(chosen[0]):
            self._expect(model, chosen[0], now)
        return [[replica] for replica in chosen]

    def on_send_request(self, replica_id: ReplicaID) -> None:
        """A call is on its way."""
        self._under_way[replica_id.unique_id] += 1
        super().on_send_request(replica_id)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """A call is over, however it went."""
        left = self._under_way.pop(replica_id.unique_id, 0) - 1
        if left > 0:
            self._under_way[replica_id.unique_id] = left
        super().on_request_completed(replica_id, internal_request_id)

    def _expect(self, model: str, replica: RunningReplica, now: float) -> None:
        running = {one.unique_id for one in self.curr_replicas}
        known = {
            one: {name: until for name, until in models.items() if until > now}
            for one, models in self._expected.items()
            if one in running
        }
        known.setdefault(replica.replica_id.unique_id, {})[model] = now + EXPECTED_S
        self._expected = known

    def _busy(self, replica: RunningReplica) -> int:
        return self._under_way[replica.replica_id.unique_id]


def router_config(max_replicas: int) -> RequestRouterConfig:
    """How a family's calls find their replica."""
    told: dict[str, Any] = {}
    if max_replicas > 1:
        told = {
            "request_router_class": f"{__name__}:{HolderRouter.__name__}",
            "request_routing_stats_period_s": REPORT_S,
        }
    return RequestRouterConfig(**told)
