"""From a request's body to items on their grids, and from forecasts to the answer's body. Pure, so that a big request
can be prepared and answered in another process than the one that must stay responsive.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from tollama import calendar, covariates, metrics, preflight
from tollama.catalog import Catalog, Model
from tollama.contract import ForecastRequest, MetricsRequest, SeriesInput, parse, quantile_key
from tollama.durations import seconds
from tollama.errors import ErrorRecord, InvalidSeries, RequestError, RunnerFailed, TollamaError, http_table
from tollama.seam import Item, ItemFailure, ItemForecast, Task
from tollama.settings import Settings

WARNINGS_CAP = 100
"""Warnings that an answer carries; the number of the rest is told."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What is needed to write one series' answer, besides its numbers; ``grid`` only where timestamps are asked."""

    id: str
    freq: str = ""
    start: str = ""
    grid: calendar.Grid | None = None
    season_length: int = 1
    actuals: NDArray[np.float64] | None = None
    history: NDArray[np.float64] | None = None
    failure: ErrorRecord | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that passed every check. ``items`` is a pickled list of :class:`Item`; ``frames`` has one entry per
    series sent, those that failed on their own included (``partial``), or is that list pickled."""

    model: str
    family: str
    adapter: str
    requires: Mapping[str, str]
    digest: str
    ref: bytes
    items: bytes
    n_items: int
    frames: list[Frame] | bytes
    task: Task
    point: str
    timeout: float
    keep_alive: float
    stream: bool | None
    partial: bool
    context_length: int
    metrics: MetricsRequest | None
    warnings: list[str]


@dataclass(slots=True)
class _Draft:
    items: list[Item] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def prepare(body: bytes, catalog: Catalog, settings: Settings) -> Prepared:
    """Every check of a request, in the contract's order: schema, model, licence, installed, capabilities and series."""
    request = parse(ForecastRequest, body)
    model = catalog.runnable(request.model)
    defaults = model.about.defaults
    plan = preflight.check(request, model.name, model.capabilities, defaults)
    draft = _Draft(warnings=list(plan.warnings))
    for series in request.series:
        try:
            item, frame, warnings = _series(series, request, model, plan)
        except TollamaError as error:
            if not request.response_options.partial:
                raise
            draft.frames.append(Frame(series.id, failure=error.record))
            continue
        draft.items.append(item)
        draft.frames.append(frame)
        draft.warnings += warnings
    return Prepared(
        model=model.name,
        family=model.family,
        adapter=model.about.adapter,
        requires=model.about.requires.libraries,
        digest=model.digest,
        ref=model.ref,
        items=pickle.dumps(draft.items, protocol=5),
        n_items=len(draft.items),
        frames=draft.frames,
        task=Task(request.horizon, tuple(plan.quantiles), plan.options),
        point=model.capabilities.point,
        timeout=timeout(model, request.timeout, settings),
        keep_alive=keep_alive(model, request.keep_alive, settings),
        stream=request.stream,
        partial=request.response_options.partial,
        context_length=min(plan.context_length, max((len(item.target) for item in draft.items), default=0)),
        metrics=request.parameters.metrics,
        warnings=_capped(draft.warnings),
    )


def keep_alive(model: Model, asked: float | str | None, settings: Settings) -> float:
    """Seconds that the model stays when it is idle: as asked for, else its own default, else the server's."""
    default = model.about.defaults.keep_alive
    return seconds(next(value for value in (asked, default, settings.keep_alive) if value is not None))


def timeout(model: Model, asked: float | None, settings: Settings) -> float:
    """Seconds that a request to the model may take: as asked for, else its own default, else the server's."""
    return asked or model.about.defaults.timeout or settings.request_timeout


def _series(
    series: SeriesInput, request: ForecastRequest, model: Model, plan: preflight.Plan
) -> tuple[Item, Frame, Iterable[str]]:
    grid = calendar.grid(series)
    target = grid.place(covariates.target(series))
    past, future, static = covariates.arrays(series, grid, request.horizon)
    season = calendar.season_length(grid.freq)
    item = Item(series.id, target, grid.freq, season, past, future, static)
    item, warnings = preflight.fit(item, plan, model.capabilities, request.parameters.covariates_mode)
    actuals = None
    if request.parameters.metrics is not None:
        if series.actuals is None or len(series.actuals) != request.horizon:
            raise InvalidSeries(
                f"Series {series.id!r}: metrics need one actual per step of the horizon ({request.horizon}).",
                series_id=series.id,
                field="actuals",
                hint="Send actuals as long as the horizon, or ask for no metrics.",
            )
        actuals = np.array(series.actuals, dtype=np.float64)
        if np.isinf(actuals).any():
            what = f"Series {series.id!r}: actuals hold a number that is not finite."
            raise InvalidSeries(what, series_id=series.id, field="actuals", hint="null stands for a missing value.")
    if request.response_options.timestamps:
        grid.check(request.horizon)
    frame = Frame(
        series.id,
        grid.freq,
        grid.start(),
        grid if request.response_options.timestamps else None,
        season,
        actuals,
        target if actuals is not None else None,
    )
    return item, frame, (*grid.warnings, *warnings)


def _capped(warnings: Sequence[str]) -> list[str]:
    once = list(dict.fromkeys(warnings))
    if len(once) > WARNINGS_CAP:
        return [*once[:WARNINGS_CAP], f"... and {len(once) - WARNINGS_CAP} more warnings"]
    return once


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the family gave back (pickled lists of one :class:`ItemForecast` or ``ItemFailure`` per item), and what it
    took."""

    parts: Sequence[bytes]
    device: str
    queue_ms: float
    load_ms: float
    inference_ms: float
    total_ms: float
    batch_series: int
    peak_memory_mb: float


def answer(prepared: Prepared, outcome: Outcome) -> bytes:
    """The response's JSON. Unless partial answers are allowed, raises :class:`RunnerFailed` naming the failed series;
    or, where every failure is the request's fault, the error that says so.

    The keys are those of :class:`tollama.contract.ForecastResponse`; building that object would copy every number.
    """
    frames: list[Frame] = pickle.loads(prepared.frames) if isinstance(prepared.frames, bytes) else prepared.frames
    results: Iterator[ItemForecast | ItemFailure] = (one for part in outcome.parts for one in pickle.loads(part))
    keys = [quantile_key(level) for level in prepared.task.quantiles]
    forecasts: list[dict[str, Any]] = []
    warnings = list(prepared.warnings)
    scores = []
    failed: dict[str, ErrorRecord] = {}
    for frame in frames:
        result = ItemFailure(frame.failure) if frame.failure is not None else next(results)
        if isinstance(result, ItemFailure):
            failed[frame.id] = result.record
            forecasts.append({"id": frame.id, "error": result.record.body()})
            continue
        entry: dict[str, Any] = {
            "id": frame.id,
            "freq": frame.freq,
            "start_timestamp": frame.start,
            "mean": result.mean.tolist(),
            "quantiles": dict(zip(keys, result.quantiles.tolist(), strict=True)),
        }
        if frame.grid is not None:
            entry["timestamps"] = frame.grid.future(prepared.task.horizon)
        entry["point"] = prepared.point
        forecasts.append(entry)
        warnings += [f"Series {frame.id!r}: {warning}" for warning in result.warnings]
        if prepared.metrics is not None:
            scores.append((frame, result))
    if failed and not prepared.partial:
        raise _failure(failed)
    body: dict[str, Any] = {"model": prepared.model, "forecasts": forecasts}
    if prepared.metrics is not None:
        body["metrics"] = _metrics(prepared, scores)
    body["warnings"] = _capped(warnings)
    body["timing"] = {
        "total_ms": round(outcome.total_ms, 3),
        "queue_ms": round(outcome.queue_ms, 3),
        "model_load_ms": round(outcome.load_ms, 3),
        "inference_ms": round(outcome.inference_ms, 3),
    }
    body["usage"] = {
        "runner": prepared.family,
        "device": outcome.device,
        "model_load_ms": round(outcome.load_ms, 3),
        "inference_ms": round(outcome.inference_ms, 3),
        "batch_series": outcome.batch_series,
        "series_count": len(frames),
        "horizon": prepared.task.horizon,
        "context_length": prepared.context_length,
        "peak_memory_mb": round(outcome.peak_memory_mb, 1),
    }
    return to_json(body, inf_nan_mode="null")


def _failure(failed: dict[str, ErrorRecord]) -> TollamaError:
    first = next(iter(failed.values()))
    detail = [{"id": name, "error": record.error} for name, record in failed.items()]
    hint = first.hint or "Leave out the series in detail, or set response_options.partial."
    # Some models see only at their work that a series, or what is asked of it, cannot be: still the request's fault.
    known, codes = http_table(), {record.code for record in failed.values()}
    if all(issubclass(known.get(code, RunnerFailed), RequestError) for code in codes):
        return known[first.code](first.error, detail=detail, hint=hint)
    return RunnerFailed(f"The model failed on {len(failed)} of the series: {first.error}", detail=detail, hint=hint)


def _metrics(prepared: Prepared, scores: Sequence[tuple[Frame, ItemForecast]]) -> dict[str, Any]:
    asked = prepared.metrics
    assert asked is not None
    rows = {}
    for frame, result in scores:
        assert frame.actuals is not None
        assert frame.history is not None
        rows[frame.id] = metrics.score(
            asked.names,
            frame.actuals,
            result.mean,
            result.quantiles,
            prepared.task.quantiles,
            frame.history,
            asked.mase_seasonality or frame.season_length,
        )
    return {"series": rows, "mean": metrics.summary(list(rows.values()))}


def sealed(prepared: Prepared) -> Prepared:
    """The same with its frames pickled, to cross a process boundary without being unpacked there."""
    return replace(prepared, frames=pickle.dumps(prepared.frames, protocol=5))
