"""Tables to forecast requests and forecasts to tables: CSV, Parquet and JSON, in the layouts people already have.

Long tables with one row per series and time: ``unique_id,ds,y``, ``item_id,timestamp,target`` or plain ``date,value``;
other names are given by hand.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pandas as pd

from tollama.contract import ForecastResponse, SeriesForecast
from tollama.errors import InvalidRequest, InvalidSeries, TollamaError

ID_NAMES = ("unique_id", "item_id", "series_id", "id")
TIME_NAMES = ("ds", "timestamp", "date", "datetime", "time", "month")
TARGET_NAMES = ("y", "target", "value")
MISSING = ("NA", "N/A", "n/a", "<NA>", "#N/A", "#NA", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "None")
"""How a missing value is written in a CSV file; where series are named they are names."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column is what; None is to be recognised. ``known_future`` columns are known over the horizon too."""

    id: str | None = None
    time: str | None = None
    target: str | None = None
    known_future: tuple[str, ...] = ()


def read(data: bytes, id_column: str | None = None) -> pd.DataFrame | dict[str, Any]:
    """A file's bytes as a table, or as the forecast request that they hold; the format is told from the content.

    Parquet, a JSON request (``{"series": [...]}``), a JSON list of records, else CSV separated by comma, semicolon
    or tab, with `MISSING` words outside the column of ids. Raises :class:`InvalidRequest`.
    """
    start = data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    kind = "Parquet" if data.startswith(b"PAR1") else "JSON" if start in (b"{", b"[") else "CSV"
    try:
        if kind == "Parquet":
            return pd.read_parquet(io.BytesIO(data))
        text = data.decode("utf-8-sig")
        if kind == "CSV":
            header = text.lstrip().partition("\n")[0]
            separator = max(",;\t", key=header.count)
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
                # Everything as text: an id of 007 keeps its zeros, a year is not a number of nanoseconds.
                frame = pd.read_csv(
                    io.StringIO(text),
                    sep=separator,
                    dtype=str,
                    index_col=False,
                    skipinitialspace=True,
                    keep_default_na=False,
                    na_values=[""],
                )
            for name in frame.columns:
                if name != id_column and name.lower() not in ID_NAMES:
                    frame[name] = frame[name].mask(frame[name].isin(MISSING))
            return frame
        value = json.loads(text)
    except ImportError:
        raise TollamaError("Parquet needs the package pyarrow.", hint="Install it with: pip install pyarrow") from None
    except (ValueError, OSError, pd.errors.ParserWarning) as error:
        raise InvalidRequest(f"The input cannot be read as {kind}: {error}", hint="Check the file.") from None
    if isinstance(value, dict):
        if not isinstance(value.get("series"), list):
            raise InvalidRequest("The JSON input has no list 'series'.", hint="Give a forecast request, or records.")
        return value
    return pd.DataFrame(value)


def request(
    frame: pd.DataFrame | pd.Series[Any],
    model: str,
    horizon: int,
    columns: Columns | None = None,
    freq: str = "auto",
) -> dict[str, Any]:
    """A forecast request as a mapping, one series per id in the order of first appearance.

    What is in a table's index counts as columns; of a series with times as its index, both are known by that.

    Rows at the end of a series whose target is empty give the future of the ``known_future`` columns. Raises
    :class:`InvalidRequest` for the table, :class:`InvalidSeries` for one series.
    """
    return {"model": model, "horizon": horizon, "series": list(_series(frame, horizon, columns or Columns(), freq))}


def _flat(frame: pd.DataFrame | pd.Series[Any]) -> pd.DataFrame:
    """The table with nothing left in its index."""
    if isinstance(frame, pd.Series):
        frame = frame.to_frame("value" if frame.name is None else frame.name)
    if isinstance(frame.index, pd.PeriodIndex):
        frame = frame.set_axis(frame.index.to_timestamp())
    if isinstance(frame.index, pd.DatetimeIndex) and frame.index.name is None:
        frame = frame.rename_axis("timestamp")
    if both := [name for name in frame.index.names if name is not None and name in frame.columns]:
        index = frame.index.to_frame()
        if other := [name for name in both if index[name].tolist() != frame[name].tolist()]:
            raise InvalidRequest(
                f"The table has '{other[0]}' twice: in its index and as a column.", hint="Rename or drop one of them."
            )
        frame = frame.reset_index(both, drop=True)
    frame = (frame.reset_index() if frame.index.names != [None] else frame).rename(columns=str)
    if twice := frame.columns[frame.columns.duplicated()].tolist():
        raise InvalidRequest(f"The table has two columns '{twice[0]}'.", hint="Give every column a name of its own.")
    return frame


def _series(frame: pd.DataFrame | pd.Series[Any], horizon: int, given: Columns, freq: str) -> Iterator[dict[str, Any]]:
    frame = _flat(frame)
    columns = _recognise(frame, given)
    assert columns.time is not None
    assert columns.target is not None
    table = pd.DataFrame({"time": _times(frame[columns.time]), "target": _numbers(frame[columns.target])})
    for name in columns.known_future:
        table[f"future {name}"] = _covariate(frame[name])
    table["id"] = columns.target if columns.id is None else frame[columns.id].to_numpy()
    if table["id"].isna().any():
        raise InvalidRequest(f"Column '{columns.id}' has rows without an id.", hint="Give every row its series' id.")
    if columns.known_future:
        table = table.iloc[pd.to_datetime(table["time"], utc=True, format="ISO8601").argsort(kind="stable")]
    for key, rows in table.groupby("id", sort=False):
        yield _one(str(key), rows, horizon, columns.known_future, freq)


def _one(name: str, rows: pd.DataFrame, horizon: int, known: Sequence[str], freq: str) -> dict[str, Any]:
    target = _plain(rows["target"])
    length = len(target)
    covariates: dict[str, Any] = {}
    if known:
        while length and target[length - 1] is None:
            length -= 1
        ahead = len(target) - length
        if ahead < horizon:
            raise InvalidSeries(
                f"Series '{name}' knows {ahead} steps of its future; the horizon is {horizon}.",
                series_id=name,
                hint="Add rows with an empty target that hold the known values, one per step.",
            )
        values = {column: _plain(rows[f"future {column}"]) for column in known}
        covariates["past_covariates"] = {column: v[:length] for column, v in values.items()}
        covariates["future_covariates"] = {column: v[length : length + horizon] for column, v in values.items()}
    return {"id": name, "target": target[:length], "timestamps": rows["time"].tolist()[:length], "freq": freq} | (
        covariates
    )


def _recognise(frame: pd.DataFrame, given: Columns) -> Columns:
    names = list(frame.columns)
    for name in (given.id, given.time, given.target, *given.known_future):
        if name is not None and name not in names:
            raise InvalidRequest(f"There is no column '{name}'.", hint=f"The columns are: {', '.join(names)}.")
    lower = {name.lower(): name for name in reversed(names)}
    taken = {given.id, given.time, given.target, *given.known_future}

    def find(known: Sequence[str]) -> str | None:
        return next((lower[name] for name in known if name in lower and lower[name] not in taken), None)

    identity = given.id or find(ID_NAMES)
    time = given.time or find(TIME_NAMES)
    if time is None:
        raise InvalidRequest(
            "No time column is recognised.", hint=f"Name it with --time-column; the columns are: {', '.join(names)}."
        )
    target = given.target or find(TARGET_NAMES)
    if target is None:
        rest = [name for name in names if name not in taken | {identity, time} and _is_number(frame[name])]
        if len(rest) != 1:
            raise InvalidRequest(
                "No target column is recognised.",
                hint=f"Name it with --target-column; the columns are: {', '.join(names)}.",
            )
        target = rest[0]
    return Columns(identity, time, target, given.known_future)


def _is_number(column: pd.Series[Any]) -> bool:
    return bool(pd.to_numeric(column, errors="coerce").notna().eq(column.notna()).all())


def _numbers(column: pd.Series[Any]) -> Any:
    values = pd.to_numeric(column, errors="coerce")
    wrong = (values.isna() & column.notna()).to_numpy().nonzero()[0]
    if len(wrong):
        raise InvalidRequest(
            f"Column '{column.name}' is not a number in data row {wrong[0] + 1}.",
            hint="Correct the value, or leave it empty if it is missing.",
        )
    return values.to_numpy(dtype="float64", na_value=float("nan"))


def _covariate(column: pd.Series[Any]) -> Any:
    return _numbers(column) if _is_number(column) else column.astype(object).to_numpy()


def _plain(column: pd.Series[Any]) -> list[Any]:
    return [None if value is None or value != value else value for value in column.tolist()]


def _times(column: pd.Series[Any]) -> list[str]:
    """ISO 8601 texts; what is ISO already stays as it is, so that its offset does too."""
    if column.isna().any():
        row = int(column.isna().to_numpy().nonzero()[0][0]) + 1
        raise InvalidRequest(f"Column '{column.name}' has no time in data row {row}.", hint="Give every row its time.")
    if not pd.api.types.is_datetime64_any_dtype(column):
        texts = [str(value).strip() for value in column]
        if all(map(_is_iso, texts)):
            return texts
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # pandas warns, and guesses row by row, when no one format fits
                column = pd.Series(pd.to_datetime(texts))
        except (ValueError, OverflowError, Warning):
            raise InvalidRequest(
                f"Column '{column.name}' holds times in no format that is recognised.",
                hint="Write them in ISO 8601, as 2024-01-31 or 2024-01-31T13:00:00+01:00.",
            ) from None
    return [value.isoformat() for value in column]


def _is_iso(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return text[4:5] == "-"  # not the basic format, where 20240131 may be anything


def _clock(text: str) -> datetime:
    """A timestamp as its wall clock shows it; charts and tables need no offset."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError:  # a shorter form, as 2024-01
        return pd.Timestamp(text).to_pydatetime().replace(tzinfo=None)


def future(forecast: SeriesForecast) -> list[str]:
    """The timestamps of a forecast, made from its start and frequency when the answer has none."""
    if forecast.timestamps is not None:
        return forecast.timestamps
    steps = pd.date_range(forecast.start_timestamp, periods=len(forecast.mean), freq=forecast.freq)
    return [step.isoformat() for step in steps]


def tidy(response: ForecastResponse) -> pd.DataFrame:
    """One row per series and step: ``id, timestamp, mean`` and a column per quantile (``0.1`` ...).

    Series that failed in a partial answer have no rows.
    """
    blocks = [
        pd.DataFrame({"id": one.id, "timestamp": future(one), "mean": one.mean, **one.quantiles})
        for one in response.forecasts
        if isinstance(one, SeriesForecast)
    ]
    return pd.concat(blocks, ignore_index=True) if blocks else pd.DataFrame(columns=["id", "timestamp", "mean"])


def like(frame: pd.DataFrame | pd.Series[Any], given: Columns, response: ForecastResponse) -> pd.DataFrame:
    """A forecast as `tidy`, in the manner of the table that it is of: the names of its id and time columns, its ids as
    they are there, times as datetimes (UTC where they have offsets, unless the table has a zone)."""
    frame = _flat(frame)
    columns, table = _recognise(frame, given), tidy(response)
    aware = any(datetime.fromisoformat(text).tzinfo is not None for text in table["timestamp"].tolist())
    table["timestamp"] = pd.to_datetime(table["timestamp"], format="ISO8601", utc=aware)
    zone = getattr(frame[columns.time].dtype, "tz", None)
    if aware and zone is not None:
        table["timestamp"] = table["timestamp"].dt.tz_convert(zone)
    if columns.id is None:
        table = table.drop(columns="id")
    else:
        table["id"] = table["id"].map({str(key): key for key in frame[columns.id].unique()})
    return table.rename(columns={"id": columns.id, "timestamp": columns.time})


def points(series: Mapping[str, Any], forecast: SeriesForecast) -> tuple[list[datetime], list[float]]:
    """The history of a request's series for a chart: wall-clock times, oldest first, and values (NaN is missing)."""
    times = series.get("timestamps")
    if not times:
        steps = pd.date_range(series["start"], periods=len(series["target"]), freq=forecast.freq)
        times = [step.isoformat() for step in steps]
    values = [float("nan") if value is None else float(value) for value in series["target"]]
    pairs = sorted(zip(map(_clock, times), values, strict=True), key=lambda pair: pair[0])
    return [time for time, _ in pairs], [value for _, value in pairs]


def clocks(forecast: SeriesForecast) -> list[datetime]:
    """The wall-clock times of a forecast for a chart."""
    return [_clock(text) for text in future(forecast)]
