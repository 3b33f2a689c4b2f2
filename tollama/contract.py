"""The wire: what a client may send and what it gets back, as strict pydantic types.

Only the *shape* is checked here, all faults at once. What needs the calendar (timestamps, frequency, lengths
of one series) is checked per series afterwards, so that one bad series can be answered alone.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tollama.durations import seconds
from tollama.errors import InvalidRequest

MAX_HORIZON = 16_384
MAX_SERIES = 10_000
MAX_QUANTILES = 99
MAX_NUMBERS = 20_000_000
DEFAULT_QUANTILES = (0.1, 0.5, 0.9)
DEFAULT_TIMEOUT_S = 300.0
METRIC_NAMES = ("mae", "rmse", "mape", "smape", "wape", "mase", "rmsse", "pinball", "wql", "coverage")

Number = float | None
Covariate = list[float | str | None]
MetricName = Literal["mae", "rmse", "mape", "smape", "wape", "mase", "rmsse", "pinball", "wql", "coverage"]


def _duration(value: float | str | None) -> float | str | None:
    if value is not None:
        try:
            seconds(value)
        except InvalidRequest as error:
            raise ValueError(str(error)) from None
    return value


KeepAlive = Annotated[
    float | str | None,
    AfterValidator(_duration),
    Field(description="Seconds or a Go duration; negative is for ever."),
]
Timeout = Annotated[
    float | None,
    Field(gt=0, allow_inf_nan=False, description="Seconds, cold start included; default 300."),
]

T = TypeVar("T", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class SeriesInput(_Strict):
    """One series: its history, its time axis and what is known besides."""

    id: str = Field(max_length=256, description="Unique in the request; at most 256 characters.")
    target: list[Number] = Field(min_length=1, description="History, oldest first; null is a missing value.")
    timestamps: list[str] | None = Field(None, description="ISO 8601, one per target value.")
    start: str | None = Field(None, description="First timestamp, with an explicit freq, instead of timestamps.")
    timezone: str | None = Field(None, description="IANA zone in which wall-clock frequencies step.")
    freq: str = Field("auto", description="pandas offset alias, old or new; auto infers it from timestamps.")
    past_covariates: dict[str, Covariate] = Field(default_factory=dict, description="Each as long as target.")
    future_covariates: dict[str, Covariate] = Field(
        default_factory=dict, description="Each as long as the horizon; each name is in past_covariates too."
    )
    static_covariates: dict[str, float | str] = Field(default_factory=dict)
    actuals: list[Number] | None = Field(None, description="What really came, one per step, for metrics.")


class MetricsRequest(_Strict):
    """Scores to compute against the series' actuals."""

    names: list[MetricName] = Field(min_length=1)
    mase_seasonality: int | None = Field(None, ge=1, description="Season of MASE and RMSSE; default by freq.")


class Parameters(_Strict):
    """How the request is to be handled."""

    covariates_mode: Literal["best_effort", "strict"] = "best_effort"
    metrics: MetricsRequest | None = None


class ResponseOptions(_Strict):
    """How the answer is to look."""

    timestamps: bool = Field(False, description="Add the forecast timestamps to each series.")
    partial: bool = Field(False, description="Answer a failing series in its place, serve the others.")


class ForecastRequest(_Strict):
    """A forecast of one model for one or many series."""

    model: str = Field(min_length=1, description="A known or installed model name.")
    horizon: int = Field(ge=1, le=MAX_HORIZON, description="Steps ahead.")
    series: list[SeriesInput] = Field(min_length=1, max_length=MAX_SERIES)
    quantiles: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        list(DEFAULT_QUANTILES), max_length=MAX_QUANTILES, description="Strictly ascending; [] for none."
    )
    options: dict[str, Any] = Field(default_factory=dict, description="What the model's capabilities declare.")
    timeout: Timeout = None
    keep_alive: KeepAlive = None
    parameters: Parameters = Field(default_factory=Parameters)
    response_options: ResponseOptions = Field(default_factory=ResponseOptions)
    stream: bool | None = Field(None, description="NDJSON progress lines; default true on /api/forecast.")

    @field_validator("quantiles")
    @classmethod
    def _ascending(cls, levels: list[float]) -> list[float]:
        if any(b <= a for a, b in itertools.pairwise(levels)):
            raise ValueError("quantiles must be strictly ascending")
        return levels

    @model_validator(mode="after")
    def _whole(self) -> ForecastRequest:
        ids = {series.id for series in self.series}
        if len(ids) != len(self.series):
            raise ValueError("series ids must be unique in a request")
        numbers = len(self.series) * self.horizon * (len(self.quantiles) + 1)
        if numbers > MAX_NUMBERS:
            raise ValueError(
                f"series x horizon x (quantiles + 1) is {numbers:,}; the limit is {MAX_NUMBERS:,} numbers in an answer"
            )
        return self


class LoadRequest(_Strict):
    """How long a model that is loaded ahead of its first forecast is to stay, and how long its load may take."""

    keep_alive: KeepAlive = None
    timeout: Timeout = None


class LoadResponse(BaseModel):
    """The answer to a load (``done_reason`` is ``load``) or an unload (``unload``), in Ollama's shape."""

    model: str
    created_at: str
    response: str = ""
    done: bool = True
    done_reason: Literal["load", "unload"]


class ErrorBody(BaseModel):
    """The one shape of every error."""

    error: str
    code: str
    detail: Any = None
    hint: str = ""


class SeriesForecast(BaseModel):
    """The forecast of one series; ``mean`` holds what ``point`` says."""

    id: str
    freq: str
    start_timestamp: str
    mean: list[float]
    quantiles: dict[str, list[float]]
    timestamps: list[str] | None = None
    point: Literal["mean", "median"]


class SeriesFailure(BaseModel):
    """In place of a series' forecast, when the request allows partial answers."""

    id: str
    error: ErrorBody


class Timing(BaseModel):
    """Milliseconds of the request, by where they went."""

    total_ms: float
    queue_ms: float
    model_load_ms: float
    inference_ms: float


class Usage(BaseModel):
    """What the request took, and where it ran."""

    runner: str
    device: str
    model_load_ms: float
    inference_ms: float
    batch_series: int
    series_count: int
    horizon: int
    context_length: int
    peak_memory_mb: float


class ForecastResponse(BaseModel):
    """The answer, one entry per series in the order they were sent."""

    model: str
    forecasts: list[SeriesForecast | SeriesFailure]
    metrics: dict[str, Any] | None = None
    warnings: list[str] = Field(default_factory=list)
    timing: Timing
    usage: Usage


class ForecastLine(BaseModel):
    """One line of a streamed forecast: what is going on, or at last ``done`` with the whole ``response``."""

    status: str = ""
    detail: str | None = Field(None, description="More of what is going on, as a runtime is built.")
    completed: int | None = Field(None, description="Series that are done, of total.")
    total: int | None = None
    done: bool = False
    response: ForecastResponse | None = None


def quantile_key(level: float) -> str:
    """The shortest text that reads back as the same number: 0.1 -> ``"0.1"``."""
    return repr(float(level))


def faults(error: ValidationError) -> list[dict[str, Any]]:
    """Every fault of a body as ``{loc, msg, type}``, without the input's own text."""
    return [
        {"loc": list(fault["loc"]), "msg": fault["msg"].removeprefix("Value error, "), "type": fault["type"]}
        for fault in error.errors(include_url=False, include_input=False, include_context=False)
    ]


def parse(model: type[T], body: bytes) -> T:
    """``body`` as ``model``; :class:`InvalidRequest` lists every fault at once."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        found = faults(error)
        if found[0]["type"] == "json_invalid":
            raise InvalidRequest("The body is not valid JSON.", detail=found) from None
        where = ".".join(str(part) for part in found[0]["loc"]) or "body"
        raise InvalidRequest(f"The request is not valid: {where}: {found[0]['msg']}.", detail=found) from None
