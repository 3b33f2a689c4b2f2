"""The seam between the graph and a model kind: six verbs, a few frozen dataclasses, a version.

An adapter is any class of no arguments with a ``chunk`` and these six methods; it is found by the import string in
its family's :class:`tollama.families.FamilySpec`. It runs inside its family's own environment, which has numpy and
pydantic but not tollama's other dependencies; it may import ``tollama`` modules that need no more than that.

The graph promises: verbs of one adapter are called from one thread at a time, but for what :class:`Concurrent` says;
every item is regular, finite or NaN, and within the model's declared limits; an :class:`ItemFailure` in an item's place
fails only that item. After an exception the batch is tried again in halves, down to the items at fault; after one that
says that memory ran out, the batches that follow are no larger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tollama.capabilities import Capabilities
from tollama.errors import ErrorRecord

SEAM_VERSION = 1
"""Raised when a verb or a dataclass here changes in a way that an older adapter would not survive."""


@dataclass(frozen=True, slots=True)
class Item:
    """One series on its regular grid.

    ``target`` is float64 of shape (T,), T >= 1, NaN where a value is missing. Covariates are float64 or object (text)
    arrays: past ones (T,), future ones (H,).
    """

    id: str
    target: NDArray[np.float64]
    freq: str
    season_length: int
    past_covariates: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    future_covariates: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    static_covariates: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Task:
    """What is the same for every item of one call.

    ``quantiles`` ascend in (0, 1); ``options`` holds every option that the model declares, defaults filled in.
    """

    horizon: int
    quantiles: tuple[float, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model that can be loaded: what the manifest (or, for an embedded model, the registry) says of it.

    ``snapshot`` is the folder of its files, or None for an embedded model. ``digest`` tells two snapshots apart.
    """

    name: str
    family: str
    adapter: str
    snapshot: str | None
    digest: str
    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class ItemForecast:
    """The forecast of one item: ``mean`` (H,) and ``quantiles`` (Q, H), non-decreasing along Q, all finite."""

    mean: NDArray[np.float64]
    quantiles: NDArray[np.float64]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ItemFailure:
    """One item that could not be forecast; its neighbours are not affected."""

    record: ErrorRecord


@dataclass(frozen=True, slots=True)
class Hello:
    """Who a replica is. Each answer carries its tollama and seam versions; others than the ingress's are refused."""

    family: str
    tollama: str
    seam: int
    python: str
    device: str
    libraries: Mapping[str, str]
    pid: int


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how a model is to be loaded: ``device`` is ``cpu`` or ``cuda``, ``dtype`` float32 or bfloat16."""

    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1


@runtime_checkable
class Adapter(Protocol):
    """One model kind of one library.

    ``chunk`` is the most items of one :meth:`forecast` call: deadlines and other requests are looked at between calls,
    so a call should not take longer than about a second on a CPU.
    """

    chunk: int

    def hello(self) -> Mapping[str, str]:
        """Versions of the libraries it stands on, by distribution name. Imports nothing heavy."""

    def ping(self) -> None:
        """Raise if the adapter can no longer work (a CUDA context gone bad, say)."""

    def capabilities(self, model: Any, declared: Capabilities) -> Capabilities:
        """What the loaded ``model`` really can do, given what its registry entry ``declared``."""

    def load(self, ref: ModelRef, placement: Placement) -> Any:
        """The model, ready to answer, warmed up. Raises when the files are not what the library expects."""

    def unload(self, model: Any) -> None:
        """Let go of the model's memory, on the device too."""

    def forecast(self, model: Any, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
        """One answer per item, in order. One tensor call where the library allows it."""


@runtime_checkable
class Concurrent(Adapter, Protocol):
    """An adapter whose :meth:`forecast` may be called for one model by two threads at once, on a CPU. No other verb is
    called meanwhile. Libraries that keep something of a call in the model, or draw random numbers, cannot have it."""

    def use_threads(self, threads: int) -> None:
        """From here on, what the calling thread computes takes so many threads."""
