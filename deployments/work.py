"""The series of one call, computed in parts, so that one that fails does not take its neighbours with it.

A part that raises is halved, and its halves again, down to the series at fault. One that runs out of memory is halved
too, and the parts after it are no larger. Series that inform each other (``cross_learning``) are never parted, for
that would change their forecasts. No Ray.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from deployments import memory
from deployments.failures import CUDA, OOM, Refused, cause_of
from deployments.messages import Progress
from tollama.errors import ErrorRecord, RunnerFailed, TollamaError
from tollama.seam import Adapter, Item, ItemFailure, ItemForecast, Task

logger = logging.getLogger("ray.serve")

JOINT = 100
"""Series of one request that inform each other: what the authors of Chronos-2 advise for ``cross_learning``."""
GIVE_UP = 8
"""Series of one request that raised one after the other, after which its others are not tried: a model that fails on
everything must not cost a call for each."""

Answer = ItemForecast | ItemFailure
NOT_TRIED = ItemFailure(
    RunnerFailed(
        f"The model failed on {GIVE_UP} series of the request, one after the other; this one was not tried."
    ).record
)


@dataclass(frozen=True, slots=True)
class Fault:
    """What an adapter raised, as text: the exception itself would keep its tensors alive. ``cause`` is one of
    :mod:`deployments.failures`, or None."""

    record: ErrorRecord
    cause: str | None
    trace: str


Attempt = Callable[[Sequence[Item]], Awaitable[tuple[float, list[Answer] | Fault]]]
"""Computes one part: the seconds it took, and one answer per item or why there is none."""


class Work:
    """One call. ``chunk`` is the most series of a part; ``joint`` ones are computed ``JOINT`` at a time, or not at all.

    After :meth:`run`, ``seconds`` is what computing took, ``largest`` the most series that were computed at once, and
    ``cause`` is ``OOM`` if a series failed for want of memory.
    """

    def __init__(self, requests: Sequence[Sequence[Item]], chunk: int, *, joint: bool = False) -> None:
        self.seconds = 0.0
        self.largest = 0
        self.cause: str | None = None
        self._requests = requests
        self._items = [item for request in requests for item in request]
        self._owners = [number for number, request in enumerate(requests) for _ in request]
        self._chunk = JOINT if joint else chunk
        self._joint = joint
        self._answers: list[Answer | None] = [None] * len(self._items)
        self._raised = [0] * len(requests)

    async def run(self, attempt: Attempt, report: Callable[[Progress], None]) -> list[list[Answer]]:
        """Per request its answers, one per series in order.

        Raises whatever ``attempt`` raises.
        """
        total, done, most, trace = len(self._items), 0, self._chunk, True
        pending = [range(start, min(start + most, total)) for start in range(0, total, most)][::-1]
        while pending:
            part = pending.pop()
            tried = [index for index in part if self._raised[self._owners[index]] < GIVE_UP]
            if not tried:
                continue
            if len(part) > most and not self._joint:
                pending += _halves(part)
                continue
            report(Progress("running forecast", done, total))
            seconds, got = await attempt([self._items[index] for index in tried])
            self.seconds += seconds
            if not isinstance(got, Fault):
                self.largest = max(self.largest, len(tried))
                done += len(tried)
                for index, answer in zip(tried, got, strict=True):
                    self._answers[index], self._raised[self._owners[index]] = answer, 0
                continue
            logger.error("%d series: %s %s", len(tried), got.record.error, got.trace if trace else "")
            trace = False  # once per call: the halves of a part fail alike
            if got.cause == OOM:
                most = max(1, len(tried) // 2)
            if len(tried) > 1 and not self._joint:
                pending += _halves(part)
                continue
            self.cause = self.cause or got.cause
            done += len(tried)
            for index in tried:
                self._answers[index] = ItemFailure(got.record)
                self._raised[self._owners[index]] += 1
        report(Progress("running forecast", total, total))
        answers = iter(self._answers)
        return [[one or NOT_TRIED for one in islice(answers, len(request))] for request in self._requests]


def _halves(part: range) -> list[range]:
    """Both halves, the first one last: it is the next to be taken."""
    middle = part.start + len(part) // 2
    return [range(middle, part.stop), range(part.start, middle)]


def attempted(
    adapter: Adapter, name: str, model: object, items: Sequence[Item], task: Task
) -> tuple[float, list[Answer] | Fault]:
    """One call of the adapter, for the thread that computes: the seconds it took, and its answers or its fault.

    Raises :class:`Refused` when the GPU went bad.
    """
    start = time.perf_counter()
    try:
        answers = adapter.forecast(model, items, task)
        if len(answers) != len(items):
            raise RunnerFailed(f"The model answered {len(answers)} of {len(items)} series.")
        return time.perf_counter() - start, [_checked(one, task) for one in answers]
    except Exception as error:
        cause, trace = cause_of(error), traceback.format_exc()
        record = (error if isinstance(error, TollamaError) else _told(name, cause, type(error).__name__)).record
    if cause == CUDA:
        logger.error("%d series: %s", len(items), trace)
        raise Refused(RunnerFailed(record.error, hint=record.hint), CUDA)
    if cause == OOM:
        memory.release()  # only now is nothing left of the exception, and of what its frames held
    return time.perf_counter() - start, Fault(record, cause, trace)


def _told(name: str, cause: str | None, raised: str) -> RunnerFailed:
    if cause == OOM:
        return RunnerFailed(
            f"The model {name!r} ran out of memory.",
            hint="Send fewer series, a shorter horizon or less history (options.context_length), or take a smaller"
            " model. The model was unloaded; the next request loads it again.",
        )
    if cause == CUDA:
        return RunnerFailed(
            f"The GPU failed while it computed for the model {name!r}.",
            hint="Send the request again; the process is being replaced.",
        )
    return RunnerFailed(f"The model {name!r} failed: {raised}.")


def _checked(answer: Answer, task: Task) -> Answer:
    """``answer`` if it is what the seam promises, else a failure: a malformed forecast never leaves a replica."""
    if isinstance(answer, ItemFailure):
        return answer
    shapes = (answer.mean.shape, answer.quantiles.shape)
    if shapes != ((task.horizon,), (len(task.quantiles), task.horizon)):
        return ItemFailure(ErrorRecord("The model gave a forecast of the wrong shape.", RunnerFailed.code))
    if not (np.isfinite(answer.mean).all() and np.isfinite(answer.quantiles).all()):
        return ItemFailure(ErrorRecord("The model gave a forecast that is not finite.", RunnerFailed.code))
    return answer
