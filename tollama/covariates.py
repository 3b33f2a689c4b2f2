"""A series' numbers as arrays: its target, and its covariates on the grid, each of one kind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tollama.contract import SeriesInput
from tollama.errors import InvalidSeries

if TYPE_CHECKING:
    from tollama.calendar import Grid

Columns = dict[str, NDArray[Any]]


def target(series: SeriesInput) -> NDArray[np.float64]:
    """The history as sent, float64 (T,), NaN where missing; :class:`InvalidSeries` for an infinite value."""
    return _numbers(series.id, "target", series.target)


def arrays(series: SeriesInput, grid: Grid, horizon: int) -> tuple[Columns, Columns, Mapping[str, float | str]]:
    """Past (grid.length,), future (horizon,) and static covariates.

    A numeric covariate is a float64 array with NaN for a missing value, one of text an object array with None.
    Raises :class:`InvalidSeries` for a wrong length, mixed kinds, an infinite value, or a future covariate without
    its past.
    """
    past: Columns = {}
    future: Columns = {}
    for name, values in series.past_covariates.items():
        ahead = series.future_covariates.get(name)
        text = _is_text(series.id, name, values, ahead)
        column = _column(series.id, f"past_covariates.{name}", values, len(series.target), "target", text)
        past[name] = grid.place(column)
        if ahead is not None:
            future[name] = _column(series.id, f"future_covariates.{name}", ahead, horizon, "the horizon", text)
    for name in series.future_covariates:
        if name not in past:
            raise InvalidSeries(
                f"Series {series.id!r}: future covariate {name!r} has no past.",
                series_id=series.id,
                field=f"future_covariates.{name}",
                hint="Send its history under the same name in past_covariates, as long as target.",
            )
    for name, value in series.static_covariates.items():
        if not isinstance(value, str) and not math.isfinite(value):
            raise _not_finite(series.id, f"static_covariates.{name}", None)
    return past, future, series.static_covariates


def _is_text(series_id: str, name: str, past: Sequence[Any], future: Sequence[Any] | None) -> bool:
    """Whether the covariate is one of text; one without any value counts as numeric."""
    kind: bool | None = None
    for field, values in (("past_covariates", past), ("future_covariates", future or ())):
        for index, value in enumerate(values):
            if value is None:
                continue
            if kind is None:
                kind = isinstance(value, str)
            elif isinstance(value, str) is not kind:
                raise InvalidSeries(
                    f"Series {series_id!r}: covariate {name!r} mixes numbers and text, first at {field} index {index}.",
                    series_id=series_id,
                    field=f"{field}.{name}",
                    index=index,
                    hint="Send all values of one covariate, past and future, as numbers or all as text.",
                )
    return bool(kind)


def _column(series_id: str, field: str, values: Sequence[Any], length: int, of: str, text: bool) -> NDArray[Any]:
    if len(values) != length:
        raise InvalidSeries(
            f"Series {series_id!r}: {field} has {len(values)} values, {of} has {length}.",
            series_id=series_id,
            field=field,
            hint=f"Send exactly {length} values; null stands for a missing one.",
        )
    return np.array(values, dtype=object) if text else _numbers(series_id, field, values)


def _numbers(series_id: str, field: str, values: Sequence[float | None]) -> NDArray[np.float64]:
    array = np.array(values, dtype=np.float64)  # numpy reads None as NaN
    infinite = np.isinf(array)
    if infinite.any():
        raise _not_finite(series_id, field, int(infinite.argmax()))
    return array


def _not_finite(series_id: str, field: str, index: int | None) -> InvalidSeries:
    where = field if index is None else f"{field} at index {index}"
    return InvalidSeries(
        f"Series {series_id!r}: {where} is not a finite number.",
        series_id=series_id,
        field=field,
        index=index,
        hint="Send a number; null stands for a missing value.",
    )
