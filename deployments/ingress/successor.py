"""A process that waits to become the next ingress, so that one that is killed is followed at once.

Most of a start is a fresh interpreter importing Ray Serve. Ray gives an actor any process in which nothing ran yet, and
for a task it starts one process more than the task needs; by the time that one is wanted it has its imports done
(:mod:`deployments.preload`).
"""

from __future__ import annotations

import asyncio

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

AFTER_S = 10.0
"""How long an ingress lives before it has its successor started: who starts the server asks for something first, and a
cold start wants the processor more."""


@ray.remote(num_cpus=0, max_calls=1, max_retries=0)
def _start_successor() -> None:
    """Nothing: a task's process ends with it, and the other that was started along stays."""


async def prepare() -> None:
    """After a while, leave an idle process on this node that has the environment of this one."""
    await asyncio.sleep(AFTER_S)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    await _start_successor.options(scheduling_strategy=here).remote()
