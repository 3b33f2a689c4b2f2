"""What a model can do, told before the run, and the check of a request against it (preflight)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Quantiles(_Frozen):
    """``native`` levels the model itself gives; ``arbitrary``: any level in their range (or any at all, if none are
    native) can be asked; ``method`` says how those between are made."""

    native: tuple[float, ...] = ()
    arbitrary: bool = True
    method: Literal["native", "interpolated", "sampled", "conformal", "analytic"] = "native"


class Covariates(_Frozen):
    """Kinds of covariates that change the forecast."""

    past_numeric: bool = False
    past_categorical: bool = False
    future_numeric: bool = False
    future_categorical: bool = False
    static: bool = False


class Option(_Frozen):
    """One per-model option: its type, default and range (``minimum``/``maximum`` inclusive) or ``choices``."""

    type: Literal["int", "float", "bool", "str"]
    default: Any = None
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] | None = None
    help: str = ""


class Capabilities(_Frozen):
    """The declared abilities and limits of one model. Lengths in steps of its grid.

    ``native_horizon`` is what one pass gives; beyond it, up to ``max_horizon``, the model rolls out (with a warning).
    ``max_horizon`` is hard.
    """

    max_context: int = Field(ge=1)
    min_context: int = Field(1, ge=1)
    max_horizon: int = Field(ge=1)
    native_horizon: int | None = None
    quantiles: Quantiles = Quantiles()
    covariates: Covariates = Covariates()
    missing_values: bool = False
    multivariate: bool = False
    options: dict[str, Option] = Field(default_factory=dict)
    point: Literal["mean", "median"] = "mean"
    deterministic: bool = True
