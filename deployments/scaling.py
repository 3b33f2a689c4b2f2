"""The application's one autoscaling policy: who waits and what families hold -> replicas per family.

Serve calls it inside its controller at each tick, so it never blocks and imports nothing heavy. It learns a family's
share of a GPU, how many GPUs there are, and what the setting ``family_linger`` says, from the ``policy_kwargs`` of the
family's own deployment, where :mod:`deployments.app` writes them; to Serve itself they mean nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

LINGER_S = 60.0
"""Seconds that an empty process stays, without a share of a GPU; with one it goes at once."""
DOUBT_S = 2.0
"""Seconds for which calls that the ingress counts and no replica knows of are taken for calls on their way. Diagnostics
ask replicas, too, and that is no use of a family."""
QUIET_S = 0.6
"""A family that was of use less than this ago is between two requests, not empty."""
AGAIN_S = 2.0
"""Seconds for which a family is wanted whose process ended while it was of use: what was not begun there is sent again
once it is known what the process died of, and finds the next one on its way."""
PATIENCE_S = 5.0
"""Seconds after which one who waits for a GPU is no longer passed by others: no family behind it is started, and the
ingress gives no new work to those that run (:mod:`deployments.ingress.turns`)."""
STUCK_S = 30.0
"""Seconds after which a family that was given room and does not run has none in truth: what is free by our count lies
on two cards, say, or belongs to somebody else."""
RECOVERY_S = 15.0
"""Seconds after the policy's own start, so after its controller's, in which a family that should run and does not yet
is one that is being found again."""
SETTLE_S = 30.0
KEPT = ("used", "ran", "doubt", "waiting", "starting", "empty")
"""What the policy remembers of a family from tick to tick."""
PARTS = 10_000
"""Ray counts GPUs in parts of this size."""


class Context(Protocol):
    """What the policy reads of Serve's ``AutoscalingContext``."""

    deployment_name: str
    current_num_replicas: int
    target_num_replicas: int
    capacity_adjusted_max_replicas: int
    policy_state: Mapping[str, Any]
    config: Any

    @property
    def total_num_requests(self) -> float: ...

    @property
    def total_queued_requests(self) -> float: ...

    @property
    def aggregated_metrics(self) -> Mapping[str, Mapping[Any, float]] | None: ...


def fits(shares: Iterable[float], gpus: int) -> bool:
    """Whether the shares fit on so many GPUs: a fraction lies on one of them, a whole number takes whole ones."""
    free = [PARTS] * gpus
    for share in sorted((round(share * PARTS) for share in shares), reverse=True):
        wanted = [PARTS] * (share // PARTS) + [share % PARTS] * (share % PARTS > 0)
        for part in wanted:
            card = next((card for card, left in enumerate(free) if left >= part), None)
            if card is None:
                return False
            free[card] -= part
    return True


@dataclass(slots=True)
class _Family:
    """One family at one tick. Times are on the policy's clock; what does not apply is None."""

    name: str
    share: float
    requests: float
    """Calls that wait or are under way; those on their way count, too."""
    placed: bool
    """Whether it has a replica, or room was made for one."""
    used: float
    """When it was last of use."""
    ran: float
    """When it last had a replica that runs."""
    doubt: float | None
    """Since when calls are counted that no replica knows of."""
    waiting: float | None
    """Since when somebody waits for its first replica."""
    starting: float | None
    """Since when there is room for it, as far as we know, and it does not run."""
    empty: float | None
    """Since when it runs for nothing: no request, no model."""
    wanted: int | None
    """Replicas; None leaves Serve's target as it is."""


class Policy:
    """Replicas wanted for each family.

    Someone waits or runs -> at least one, more by load. Models held -> keep. Empty for ``linger`` seconds -> zero,
    which also re-arms a family that Serve gave up on. Ended while it was of use -> one more, for ``AGAIN_S``.

    Who wants a share of a GPU gets it in the order of asking: what is free, else those of idle families, least recently
    used first, whatever they hold. A busy family is waited for, and none is started that has no room, so Ray has never
    more to place than fits.

    ``linger`` None is 60 s, and 0 with a share of a GPU; the setting goes before it. ``target`` is how many calls one
    replica is to have: one that computes, one beside it or ready when it is done (a call carries many requests, see
    :mod:`deployments.ingress.courier`); ``settle`` the seconds that a lower load lasts before a replica goes, with all
    that it holds.
    """

    def __init__(
        self,
        linger: float | None = None,
        target: float = 2.0,
        settle: float = SETTLE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.linger = linger
        self.target = target
        self.settle = settle
        self.clock = clock
        self._born = clock()

    def __call__(self, contexts: Mapping[Any, Context]) -> tuple[dict[Any, int], dict[Any, dict[str, Any]]]:
        now = self.clock()
        families: dict[Any, _Family] = {}
        state: dict[Any, dict[str, Any]] = {}
        gpus = 0
        for key, context in contexts.items():
            told = context.config.policy.policy_kwargs
            gpus = max(gpus, int(told.get("gpus", 0)))
            linger = told.get("linger", self.linger)
            families[key] = family = self._look(context, float(told.get("share", 0)), linger, now)
            state[key] = self._settle(family, context, now)
        self._share_out([family for family in families.values() if family.share], gpus, now)
        for key, family in families.items():
            state[key] |= {name: getattr(family, name) for name in KEPT}
        return {key: family.wanted for key, family in families.items() if family.wanted is not None}, state

    def _look(self, context: Context, share: float, linger: float | None, now: float) -> _Family:
        """The family as if it were alone."""
        before = context.policy_state
        known, doubt = self._calls(context, now)
        # Told by Serve alone, they are taken for calls on their way, for a while.
        requests = context.total_num_requests if doubt is not None and now - doubt < DOUBT_S else known
        # Replicas beyond a target of zero are on their way out.
        runs = context.current_num_replicas > 0 and context.target_num_replicas > 0
        ran = now if runs else before.get("ran", 0.0)
        used = max(_latest(context, "last_used"), before.get("used", 0.0))
        if not used or known > 0:
            used = now
        # A process that has not said yet what it holds may hold something.
        told = (context.aggregated_metrics or {}).get("hold")
        holding = sum(held > 0 for held in told.values()) if told else 1
        empty = (before.get("empty") or now) if runs and not known and not holding else None
        if linger is None:
            linger = 0.0 if share else LINGER_S
        if _latest(context, "wanted"):
            linger = 0.0  # for the memory that its libraries take
        if requests > 0:
            wanted = max(1, -(-int(requests) // max(1, int(self.target))))
        elif runs:
            wanted = int(empty is None or now - max(empty, used) < max(linger, QUIET_S))
        else:
            wanted = int(context.target_num_replicas > 0 and now - min(used, ran) < AGAIN_S)
        if wanted:
            # What a replica holds goes by its own time, not with the load.
            wanted = max(wanted, min(holding, context.current_num_replicas))
        if not context.current_num_replicas and context.target_num_replicas and now - self._born < RECOVERY_S:
            wanted = max(wanted, 1)
        placed = context.target_num_replicas > 0 and wanted > 0
        return _Family(
            context.deployment_name,
            share,
            requests,
            placed,
            used,
            ran,
            doubt,
            waiting=(before.get("waiting") or now) if requests > 0 and not runs else None,
            starting=(before.get("starting") or now) if placed and not runs else None,
            empty=empty,
            wanted=wanted,
        )

    def _calls(self, context: Context, now: float) -> tuple[float, float | None]:
        """Calls that wait, or are under way as replicas tell it; and since when Serve counts more than these."""
        counted, told = context.total_num_requests, (context.aggregated_metrics or {}).get("calls")
        if told is None:
            return counted, None
        known = context.total_queued_requests + sum(told.values())
        return known, None if known >= counted else context.policy_state.get("doubt") or now

    def _settle(self, family: _Family, context: Context, now: float) -> dict[str, Any]:
        """Hold on to the most replicas that were wanted, for a while, within the deployment's bounds."""
        wanted, before = family.wanted or 0, context.policy_state
        most, since = before.get("most", 0), before.get("most_at", now)
        if wanted == 0 or wanted >= most or now - since >= self.settle:
            most, since = wanted, now
        family.wanted = min(most, context.capacity_adjusted_max_replicas)
        return {"most": most, "most_at": since}

    def _share_out(self, families: list[_Family], gpus: int, now: float) -> None:
        """Set ``wanted`` so that what is wanted fits."""
        kept = [family for family in families if family.placed]
        queue = [family for family in families if family.waiting is not None and not family.placed]
        closed = False
        for family in sorted(queue, key=lambda family: (family.waiting, family.name)):
            # Serve starts a family that is waited for whatever number it is told; told none, it leaves it as it is.
            family.wanted = None
            if closed or not fits([family.share], gpus):
                continue
            out = _giving_way(family.share, kept, gpus)
            if out is None:
                closed = now - (family.waiting or now) >= PATIENCE_S
                continue
            for other in out:
                other.wanted = 0
                kept.remove(other)
            family.wanted = 1
            kept.append(family)
        for family in kept.copy():
            if family.starting is not None and now - family.starting >= STUCK_S and (idle := _idle(kept)):
                idle[0].wanted = 0
                kept.remove(idle[0])
                family.starting = now
        _add_replicas(kept, gpus, alone=all(family.wanted for family in queue))


def _giving_way(share: float, kept: list[_Family], gpus: int) -> list[_Family] | None:
    """Which idle families of ``kept`` must go so that ``share`` fits; None where that is not enough."""

    def fit(leaving: list[_Family]) -> bool:
        return fits([share, *(family.share for family in kept if family not in leaving)], gpus)

    idle = _idle(kept)
    out: list[_Family] = []
    while not fit(out):
        if not idle:
            return None
        out.append(idle.pop(0))
    for family in out[::-1]:
        # One that lies on another card may stay.
        fewer = [other for other in out if other is not family]
        out = fewer if fit(fewer) else out
    return out


def _add_replicas(kept: list[_Family], gpus: int, alone: bool) -> None:
    """One replica each; with nobody else waiting, more for those that want more, in turns, while they fit."""
    asked = {family.name: family.wanted or 0 for family in kept}
    has = dict.fromkeys(asked, 1)
    growing = alone
    while growing:
        growing = False
        for family in kept:
            taken = [one.share for one in kept for _ in range(has[one.name])]
            if has[family.name] < asked[family.name] and fits([*taken, family.share], gpus):
                has[family.name] += 1
                growing = True
    for family in kept:
        family.wanted = has[family.name]


def _idle(families: Iterable[_Family]) -> list[_Family]:
    """Those that nobody waits for, the least recently used first."""
    return sorted((f for f in families if not f.requests), key=lambda family: (family.used, family.name))


def _latest(context: Context, name: str) -> float:
    """The greatest value that any replica reports of ``name``."""
    reported = (context.aggregated_metrics or {}).get(name) or {}
    return max(reported.values(), default=0.0)
