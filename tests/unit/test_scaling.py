"""The scaling policy as a pure function of what Serve tells it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from deployments.scaling import Policy


@dataclass
class Context:
    total_num_requests: float = 0.0
    current_num_replicas: int = 0
    hold: float = 0.0
    last_used: float = 0.0
    deployment_name: str = "mock"
    target_num_replicas: int = 0
    capacity_adjusted_max_replicas: int = 4
    policy_state: dict[str, float] = field(default_factory=dict)

    @property
    def aggregated_metrics(self) -> dict[str, dict[str, float]]:
        return {"hold": {"r": self.hold}, "last_used": {"r": self.last_used}}


def replicas(policy: Policy, **context: Any) -> int:
    wanted, _ = policy({"mock": Context(**context)})
    return wanted["mock"]


POLICY = Policy(linger=10, target=64, clock=lambda: 1000.0)


@pytest.mark.parametrize(
    ("context", "wanted"),
    [
        ({}, 0),
        ({"total_num_requests": 1}, 1),
        ({"total_num_requests": 65}, 2),
        ({"total_num_requests": 1e6}, 4),
        ({"current_num_replicas": 1, "hold": 1}, 1),
        ({"current_num_replicas": 1, "last_used": 995}, 1),
        ({"current_num_replicas": 1, "last_used": 990}, 0),
        ({"current_num_replicas": 2, "total_num_requests": 1}, 1),
    ],
    ids=["nobody", "one waits", "by load", "at most max", "holds a model", "lingers", "lingered", "down to one"],
)
def test_replicas(context: dict[str, Any], wanted: int) -> None:
    assert replicas(POLICY, **context) == wanted


def test_a_replica_that_was_never_used_lingers_from_when_it_was_first_seen() -> None:
    now = [1000.0]
    policy = Policy(linger=10, clock=lambda: now[0])
    wanted, state = policy({"mock": Context(current_num_replicas=1)})
    assert wanted["mock"] == 1
    now[0] += 10
    wanted, _ = policy({"mock": Context(current_num_replicas=1, policy_state=state["mock"])})
    assert wanted["mock"] == 0


def test_families_are_decided_one_by_one() -> None:
    wanted, _ = POLICY({"a": Context(total_num_requests=3), "b": Context()})
    assert wanted == {"a": 1, "b": 0}
