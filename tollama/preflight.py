"""A request against a model's capabilities, before anything is started; then each of its series against them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tollama.capabilities import Capabilities, Covariates, Option
from tollama.contract import ForecastRequest
from tollama.errors import InvalidSeries, UnsupportedByModel
from tollama.registry import Defaults, Entry, registry
from tollama.seam import Item

_TYPES: Mapping[str, Any] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
_NOUNS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}
_SIBLINGS = 5

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What the model will be asked: every declared option filled in, levels ascending, history at most
    ``context_length`` steps. ``warnings`` are those of the request as a whole."""

    options: Mapping[str, Any]
    quantiles: tuple[float, ...]
    context_length: int
    warnings: tuple[str, ...]


def check(request: ForecastRequest, name: str, capabilities: Capabilities, defaults: Defaults | None = None) -> Plan:
    """The plan of ``request`` for the model ``name``; :class:`UnsupportedByModel` where it cannot do what is asked.

    An option's value is the request's, else that of ``defaults``, else the option's own; quantiles likewise.
    """
    defaults = defaults or Defaults()
    warnings = _horizon(request.horizon, name, capabilities)
    options = _options({**defaults.options, **request.options}, name, capabilities)
    asked = defaults.quantiles if defaults.quantiles and "quantiles" not in request.model_fields_set else None
    quantiles = tuple(request.quantiles) if asked is None else asked
    warnings += _quantiles(quantiles, name, capabilities, bool(options.get("extrapolate_quantiles")))
    context_length = options.get("context_length") or capabilities.max_context
    if "context_length" in options:
        options["context_length"] = context_length
    return Plan(options, quantiles, context_length, tuple(warnings))


def fit(
    item: Item, plan: Plan, capabilities: Capabilities, mode: Literal["best_effort", "strict"] = "best_effort"
) -> tuple[Item, tuple[str, ...]]:
    """``item`` as the model takes it, and what was done to it: covariates dropped, history cut, values filled.

    Where quantiles are to be conformal the history is not cut here: the adapter does that.

    Raises :class:`InvalidSeries` for a series without values or too short, :class:`UnsupportedByModel` for
    covariates that the model does not take in ``strict`` mode.
    """
    warnings: list[str] = []
    past, future, static = _covariates(item, capabilities.covariates, mode, warnings)
    target = item.target
    # The errors that make conformal quantiles are those of forecasts from before the model's context, too.
    whole = bool(plan.quantiles) and capabilities.quantiles.method == "conformal"
    if target.size > plan.context_length:
        if plan.context_length >= capabilities.max_context:
            warnings.append(
                f"Series {item.id!r}: the history was cut to its newest {plan.context_length} of {target.size} steps, "
                f"the model's limit{', but for the errors that make its quantiles' if whole else ''}."
            )
        if not whole:
            target = target[-plan.context_length :]
            past = {name: column[-plan.context_length :] for name, column in past.items()}
    if target.size < capabilities.min_context:
        raise InvalidSeries(
            f"Series {item.id!r} has {target.size} steps; the model needs at least {capabilities.min_context}.",
            series_id=item.id,
            field="target",
            hint=f"Send at least {capabilities.min_context} steps of history, or choose another model.",
        )
    missing = np.isnan(target)
    if missing[-plan.context_length :].all():
        raise InvalidSeries(
            f"Series {item.id!r} holds no value in its last {min(target.size, plan.context_length)} steps.",
            series_id=item.id,
            field="target",
            hint="Send at least one number in the history that the model reads, or leave the series out.",
        )
    if not capabilities.missing_values:
        if missing.any():
            target = _filled(target)
            warnings.append(
                f"Series {item.id!r}: {int(missing.sum())} missing values were filled (linear inside, nearest at the "
                "edges), as the model takes none."
            )
        full, known = _filled_columns(past), _filled_columns(future)
        if full is not past or known is not future:
            warnings.append(f"Series {item.id!r}: missing values of its covariates were filled likewise.")
        past, future = full, known
    if target is not item.target or past is not item.past_covariates or warnings:
        item = replace(item, target=target, past_covariates=past, future_covariates=future, static_covariates=static)
    return item, tuple(warnings)


def _horizon(horizon: int, name: str, capabilities: Capabilities) -> list[str]:
    limit, native = capabilities.max_horizon, capabilities.native_horizon
    if horizon > limit:
        others = _siblings(horizon, name)
        longer = f" or use {', '.join(others)}" if others else ""
        raise UnsupportedByModel(
            f"{name} forecasts at most {limit} steps; {horizon} are asked.",
            hint=f"Ask for at most {limit} steps{longer}.",
        )
    if native is not None and horizon > native:
        return [
            f"{name} gives {native} steps in one pass; those beyond are rolled out from its own forecast "
            "and are less certain."
        ]
    return []


def _siblings(horizon: int, name: str) -> list[str]:
    """Registry models of the same kind that reach ``horizon``: of the same repository first, the nearest context
    first, then the nearest reach."""
    known = registry()
    if name not in known:
        return []
    own = known[name]

    def distance(entry: Entry) -> tuple[bool, int, int]:
        context = abs(entry.capabilities.max_context - own.capabilities.max_context)
        return entry.source.repo_id != own.source.repo_id, context, entry.capabilities.max_horizon

    fitting = [e for e in known.values() if e.adapter == own.adapter and e.capabilities.max_horizon >= horizon]
    return [entry.name for entry in sorted(fitting, key=distance)[:_SIBLINGS]]


def _options(asked: Mapping[str, Any], name: str, capabilities: Capabilities) -> dict[str, Any]:
    declared = capabilities.options
    faults = {option: "is not an option of this model" for option in asked if option not in declared}
    values: dict[str, Any] = {}
    for key, option in declared.items():
        value = asked.get(key, option.default)
        if key in asked and not (value is None and option.default is None):
            if fault := _fault(option, value):
                faults[key] = fault
                continue
            value = float(value) if option.type == "float" else value
        values[key] = value
    if faults:
        key, fault = next(iter(faults.items()))
        raise UnsupportedByModel(
            f"options.{key} {fault}.",
            detail=[{"loc": ["options", key], "msg": fault, "type": "option"} for key, fault in faults.items()],
            hint=f"{name} takes the options {', '.join(sorted(declared))}.",
        )
    return values


def _fault(option: Option, value: Any) -> str | None:
    # bool is an int to Python, not to a client
    if not isinstance(value, _TYPES[option.type]) or (isinstance(value, bool) and option.type != "bool"):
        return f"must be {_NOUNS[option.type]}"
    if isinstance(value, float) and not math.isfinite(value):
        return "must be finite"
    if option.minimum is not None and value < option.minimum:
        return f"must be at least {option.minimum:.12g}"
    if option.maximum is not None and value > option.maximum:
        return f"must be at most {option.maximum:.12g}"
    if option.choices is not None and value not in option.choices:
        return f"must be one of {', '.join(option.choices)}"
    return None


def _quantiles(levels: tuple[float, ...], name: str, capabilities: Capabilities, extrapolate: bool) -> list[str]:
    native = capabilities.quantiles.native
    if not capabilities.quantiles.arbitrary and not set(levels) <= set(native):
        raise UnsupportedByModel(
            f"{name} gives the quantiles {', '.join(map(str, native)) or 'none'} and no others.",
            hint="Ask for these levels only.",
        )
    if native and levels and (levels[0] < native[0] or levels[-1] > native[-1]):
        span = f"{native[0]} to {native[-1]}"
        if not extrapolate:
            raise UnsupportedByModel(
                f"{name} gives quantiles from {span}; one outside is asked.",
                hint="Ask for levels inside, or set options.extrapolate_quantiles to true.",
            )
        return [f"Quantiles outside {span} are extrapolated: {name} does not give them."]
    if levels and capabilities.quantiles.method == "conformal":
        return [f"{name} gives a point forecast only; its quantiles are conformal, from past errors in the history."]
    return []


def _covariates(
    item: Item, takes: Covariates, mode: str, warnings: list[str]
) -> tuple[Columns, Columns, Mapping[str, float | str]]:
    """What of the item's covariates the model takes: a covariate known ahead stays whole where the future kind is
    taken, its past alone where only the past kind is."""
    if not (item.past_covariates or item.static_covariates):
        return item.past_covariates, item.future_covariates, item.static_covariates
    past: dict[str, NDArray[Any]] = {}
    future: dict[str, NDArray[Any]] = {}
    refused: list[str] = []
    for name, column in item.past_covariates.items():
        kind = "categorical" if column.dtype == object else "numeric"
        ahead = item.future_covariates.get(name)
        if ahead is not None and getattr(takes, f"future_{kind}"):
            past[name], future[name] = column, ahead
            continue
        if ahead is not None:
            refused.append(f"{name} (future {kind})")
        if getattr(takes, f"past_{kind}"):
            past[name] = column
        elif ahead is None:
            refused.append(f"{name} (past {kind})")
    static = item.static_covariates if takes.static else {}
    refused += [f"{name} (static)" for name in item.static_covariates if name not in static]
    if refused and mode == "strict":
        raise UnsupportedByModel(
            f"Series {item.id!r}: the model does not take the covariates {', '.join(refused)}.",
            hint="Leave them out, or set parameters.covariates_mode to best_effort.",
        )
    if refused:
        warnings.append(
            f"Series {item.id!r}: covariates that the model does not take were dropped: {', '.join(refused)}."
        )
    return past, future, static


def _filled_columns(columns: Columns) -> Columns:
    """Numeric columns without gaps; one of text keeps its None, which is a category like any other."""
    gaps = {name: _filled(c) for name, c in columns.items() if c.dtype != object and np.isnan(c).any()}
    return {**columns, **gaps} if gaps else columns


def _filled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """``values`` without NaN: linear between its neighbours, the nearest at the edges, 0 where there is none."""
    known = np.flatnonzero(~np.isnan(values))
    return np.interp(np.arange(values.size), known, values[known]) if known.size else np.zeros_like(values)
