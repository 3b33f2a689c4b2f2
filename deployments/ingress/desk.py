"""What the routes work with: settings, the catalog, the families, and a second process for big bodies.

Parsing holds the interpreter's lock (0.46 s for 10,000 series of 200 points), so a big request is prepared and
answered in a process of its own and ``/v1/health`` stays fast.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from deployments.ingress import second
from deployments.ingress.families import FamilyClient
from deployments.ingress.guard import Keys
from deployments.ingress.holdings import Holdings
from deployments.ingress.installing import Build, Installing
from deployments.ingress.metrics import Metrics
from deployments.ingress.outcomes import Gone
from deployments.ingress.starting import Controller
from deployments.ingress.supervision import Supervision
from tollama import forecasting
from tollama.catalog import Catalog
from tollama.errors import DeadlineExceeded, Internal, RunnerUnavailable
from tollama.forecasting import Outcome, Prepared
from tollama.runtimes import Runtimes
from tollama.settings import Settings

BIG_BODY = 250_000
"""Bytes of a body from which it is handled in the second process."""
BIG_ANSWER = 100_000
"""Numbers of an answer from which it is written in the second process."""
LOOK_S = 0.5
"""How often it is looked whether the client of a big body is still there."""


@dataclass(slots=True)
class Desk:
    """One ingress replica's means. ``installing`` is None where missing runtimes are not installed on demand."""

    settings: Settings
    catalog: Catalog
    runtimes: Runtimes
    families: Mapping[str, FamilyClient]
    supervision: Supervision
    metrics: Metrics
    holdings: Holdings
    keys: Keys
    door: tuple[str, int] | None = None
    installing: Installing | None = None
    controller: Controller | None = None
    process: second.SecondProcess | None = None

    def family(self, name: str) -> FamilyClient:
        """The client of a family. Raises :class:`RunnerUnavailable` for one that this server does not have."""
        client = self.families.get(name)
        if client is None:
            raise RunnerUnavailable(
                f"This server does not run the family {name!r}.",
                hint=f"Families that this server runs: {', '.join(self.families) or 'none'}.",
            )
        return client

    def check(self, name: str, adapter: str, requires: Mapping[str, str]) -> Build | None:
        """None when the family ``name`` can start; else the build of its runtime, after whose end
        :meth:`FamilyClient.check` has the last word.

        ``adapter`` and ``requires`` are the model's. Raises :class:`RunnerUnavailable` with what mends it.
        """
        client = self.family(name)
        client.require(adapter)
        build = None if self.installing is None else self.installing.needed(client.spec)
        if build is None:
            client.check(adapter, requires)
        return build

    async def prepare(self, body: bytes, gone: Callable[[], Awaitable[bool]]) -> Prepared:
        """The checked request. Big ones come back with their frames sealed; they wait for one another, for as long as a
        request may take and its client is there (``gone`` tells when not)."""
        if len(body) < BIG_BODY:
            return forecasting.prepare(body, self.catalog, self.settings)
        coming = asyncio.ensure_future(self._elsewhere(second.prepare, body))
        end = time.monotonic() + self.settings.request_timeout
        try:
            while not (await asyncio.wait({coming}, timeout=LOOK_S))[0]:
                if await gone():
                    raise Gone
                if time.monotonic() > end:
                    raise DeadlineExceeded("The request was still waiting to be read when its time ran out.")
            prepared: Prepared = coming.result()
        finally:
            coming.cancel()
        return prepared

    async def answer(self, prepared: Prepared, outcome: Outcome) -> bytes:
        """The response's JSON."""
        numbers = prepared.n_items * prepared.task.horizon * (len(prepared.task.quantiles) + 1)
        if isinstance(prepared.frames, list) and numbers < BIG_ANSWER:
            return forecasting.answer(prepared, outcome)
        body: bytes = await self._elsewhere(second.answer, prepared, outcome)
        return body

    async def _elsewhere(self, work: Any, *args: Any) -> Any:
        if self.process is None:
            self.process = second.SecondProcess(self.settings)
        try:
            return await asyncio.wrap_future(self.process.submit(work, *args))
        except BrokenProcessPool:
            self.process = None
            raise Internal("The process that handles big requests died; send the request again.") from None

    def close(self) -> None:
        """End the second process, and wait for Serve's controller no more."""
        if self.controller is not None:
            self.controller.close()
        if self.process is not None:
            self.process.close()
