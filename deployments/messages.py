"""What travels between the ingress and a family: frozen dataclasses, pickled once into bytes by us.

Serve's own (cloud)pickling walks every object in Python; bytes pass through it untouched, and a big panel that was
prepared in another process is forwarded without being unpacked in the ingress.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

from tollama.errors import ErrorRecord
from tollama.seam import SEAM_VERSION, Task
from tollama.version import __version__

HELD = "held"
"""Under this name a replica reports to routers which models it holds."""


@dataclass(frozen=True, slots=True)
class Call:
    """Requests to a family that are alike. ``ref`` is a pickled :class:`tollama.seam.ModelRef`; ``parts`` has one
    pickled list of items per request, ``n_items`` in all. ``deadline`` is in seconds since the epoch, ``keep_alive`` in
    seconds. ``id`` is unlike any other call's."""

    model: str
    digest: str
    ref: bytes
    parts: tuple[bytes, ...]
    n_items: int
    task: Task
    keep_alive: float
    deadline: float
    request_id: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """The family's answer: per request a pickled list of :class:`tollama.seam.ItemForecast` or ``ItemFailure``, one per
    item in order; and what it took (milliseconds, megabytes). ``batch_series`` counts the items of one tensor call.
    ``cause`` is ``oom`` when items failed because memory ran out. ``started`` is when the process started, in seconds
    since the epoch. ``load_first`` marks one answer of all that waited for a load: the one that is counted for it."""

    parts: tuple[bytes, ...]
    queue_ms: float
    load_ms: float
    inference_ms: float
    batch_series: int
    device: str
    peak_memory_mb: float
    identity: tuple[str, int] = (__version__, SEAM_VERSION)
    cause: str | None = None
    started: float = 0.0
    load_first: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """The family's answer when the whole call failed; an exception would lose its code on the way. ``alone`` says
    whether asking request by request may help; ``cause`` is one of :mod:`deployments.failures`, or None."""

    record: ErrorRecord
    alone: bool = True
    identity: tuple[str, int] = (__version__, SEAM_VERSION)
    cause: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """A line of a streamed request: ``loading model`` or ``running forecast`` with counts."""

    status: str
    completed: int | None = None
    total: int | None = None


def pack(message: Any) -> bytes:
    """``message`` as bytes."""
    return pickle.dumps(message, protocol=5)


def unpack(blob: bytes) -> Any:
    """The message in ``blob``, which came from our own processes."""
    return pickle.loads(blob)
