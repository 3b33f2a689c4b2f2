"""``forecast``, and ``run``, its older name."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tollama.cli import completion, output
from tollama.cli.connection import Host, connect
from tollama.errors import InvalidRequest, LicenseNotAccepted, ModelNotInstalled

if TYPE_CHECKING:
    from tollama.client import Client
    from tollama.contract import ForecastLine, ForecastResponse

CHARTS = 6
"""Series drawn at most; a chart of more is not legible."""


class Format(StrEnum):
    """How a forecast is written."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(epilog="Example: tollama forecast seasonal-naive sales.csv --horizon 12 --plot")(forecast)
    app.command("run", epilog="Example: tollama run seasonal-naive --input request.json")(forecast)


def forecast(
    model: Annotated[
        str, typer.Argument(help="A model, as in: tollama list --available", autocompletion=completion.known)
    ],
    file: Annotated[str | None, typer.Argument(metavar="[FILE|-]", help="CSV, Parquet or JSON; - is stdin.")] = None,
    horizon: Annotated[int | None, typer.Option("--horizon", "-n", min=1, help="Steps to forecast.")] = None,
    quantiles: Annotated[str | None, typer.Option(help="Quantile levels, as 0.1,0.5,0.9, or none.")] = None,
    level: Annotated[str | None, typer.Option(help="Central intervals in percent instead, as 80 or 80,95.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Column of the series' names.")] = None,
    time_column: Annotated[str | None, typer.Option(help="Column of the timestamps.")] = None,
    target_column: Annotated[str | None, typer.Option(help="Column of the values to forecast.")] = None,
    freq: Annotated[str | None, typer.Option(help="Frequency, as D, h or MS; inferred by default.")] = None,
    known_future: Annotated[str | None, typer.Option(help="Columns known in the future too, as price,holiday.")] = None,
    input_file: Annotated[str | None, typer.Option("--input", help="A forecast request as JSON; - is stdin.")] = None,
    form: Annotated[Format | None, typer.Option("--format", help="Default: table, or by --output's suffix.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    out: Annotated[Path | None, typer.Option("--output", "-o", help="Write the forecast to a file.")] = None,
    plot: Annotated[
        str | None, typer.Option(metavar="[FILE.png]", help="Draw in the terminal, or a fan chart to a file.")
    ] = None,
    option: Annotated[list[str] | None, typer.Option(metavar="K=V", help="An option of the model; repeatable.")] = None,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds until the server gives up.")] = None,
    keep_alive: Annotated[
        str | None, typer.Option(help="How long the model stays loaded, as 10m; -1 for ever.")
    ] = None,
    accept_license: Annotated[bool, typer.Option("--accept-license", help="Accept the model's licence.")] = False,
    no_pull: Annotated[bool, typer.Option("--no-pull", help="Fail when the model is not installed.")] = False,
    host: Host = None,
) -> None:
    """Forecast the series of a file; a missing model is pulled first."""
    if quantiles is not None and level is not None:
        raise typer.BadParameter("--quantiles and --level exclude each other.")
    if file is not None and input_file is not None:
        raise typer.BadParameter("FILE and --input exclude each other.")
    form = Format.json if as_json else form or _format_of(out)
    if form is Format.parquet and out is None and sys.stdout.isatty():
        raise typer.BadParameter("Parquet is not for a terminal; add --output FILE.")
    from tollama import frames

    given: dict[str, Any] = {
        "horizon": horizon,
        "quantiles": _levels(quantiles) if quantiles is not None else _intervals(level) if level is not None else None,
        "timeout": timeout,
        "keep_alive": keep_alive,
    }
    source = frames.read(_bytes(input_file or file), id_column)
    if isinstance(source, dict):
        of_tables = {
            "--id-column": id_column,
            "--time-column": time_column,
            "--target-column": target_column,
            "--freq": freq,
            "--known-future": known_future,
        }
        if useless := [name for name, value in of_tables.items() if value is not None]:
            raise typer.BadParameter(f"{', '.join(useless)}: the input is a request, which says this for each series.")
        request = source | {"model": model}
        if horizon is None and "horizon" not in source:
            raise typer.BadParameter("--horizon is missing, and the request has none.")
    else:
        if horizon is None:
            raise typer.BadParameter("--horizon is missing.")
        known = tuple(known_future.split(",")) if known_future else ()
        columns = frames.Columns(id_column, time_column, target_column, known)
        request = frames.request(source, model, horizon, columns, freq or "auto")
    request |= {name: value for name, value in given.items() if value is not None}
    if option:
        request["options"] = (request.get("options") or {}) | dict(map(_option, option))
    request["response_options"] = (request.get("response_options") or {}) | {"timestamps": True}
    with connect(host) as client:
        try:
            response = _ask(client, request)
        except (ModelNotInstalled, LicenseNotAccepted):
            if no_pull:
                raise
            from tollama.cli.pulling import pull_model

            pull_model(client, model, accept_license=accept_license)
            response = _ask(client, request)
    _report(response)
    _write(response, form, out)
    if plot is not None:
        _draw(request, response, None if plot == "-" else Path(plot), beside=form is not Format.table)


def _bytes(file: str | None) -> bytes:
    if file not in (None, "-"):
        return Path(str(file)).read_bytes()
    if file is None and sys.stdin.isatty():
        raise typer.BadParameter("FILE is missing; - reads from stdin.")
    return sys.stdin.buffer.read()


def _format_of(out: Path | None) -> Format:
    suffix = out.suffix.lower().removeprefix(".") if out else ""
    return Format(suffix) if suffix in set(Format) else Format.csv if out else Format.table


def _numbers(text: str, name: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{name} takes numbers separated by commas.") from None


def _levels(text: str) -> list[float]:
    if text.strip() in ("", "none"):
        return []
    return sorted(set(_numbers(text, "--quantiles")))


def _intervals(text: str) -> list[float]:
    percents = _numbers(text, "--level")
    if not all(0 < percent < 100 for percent in percents):
        raise typer.BadParameter("--level takes percents between 0 and 100.")
    tails = [round((100 - percent) / 200, 10) for percent in percents]
    return sorted({0.5, *tails, *(round(1 - tail, 10) for tail in tails)})


def _option(text: str) -> tuple[str, Any]:
    import json

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter("--option takes NAME=VALUE.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _ask(client: Client, request: dict[str, Any]) -> ForecastResponse:
    """The answer; meanwhile what the server is doing is shown, if there is anybody to see it."""
    from rich.console import Console

    from tollama.errors import Internal

    with Console(stderr=True).status("waiting for the server") as status:
        for line in client.forecast_stream(request):
            if line.response is not None:
                return line.response
            status.update(_progress(line))
    raise Internal("The server ended its answer without a forecast.")


def _progress(line: ForecastLine) -> str:
    detail = f": {line.detail}" if line.detail else ""
    return f"{line.status}{f' {line.completed} of {line.total}' if line.total else ''}{detail}"


def _report(response: ForecastResponse) -> None:
    from tollama.contract import SeriesFailure

    for warning in response.warnings:
        output.note(f"Warning: {warning}")
    for one in response.forecasts:
        if isinstance(one, SeriesFailure):
            output.note(f"Warning: series '{one.id}' has no forecast: {one.error.error} {one.error.hint}".rstrip())
    for name, value in ((response.metrics or {}).get("mean") or {}).items():
        output.note(f"{name}: {value}")


def _write(response: ForecastResponse, form: Format, out: Path | None) -> None:
    from tollama import frames

    if form is Format.json:
        text = response.model_dump_json(exclude_none=True, indent=2) + "\n"
    else:
        table = frames.tidy(response)
        if form is Format.parquet:
            _parquet(table, out)
            return
        text = table.to_csv(index=False) if form is Format.csv else table.to_string(index=False) + "\n"
    if out is None:
        sys.stdout.write(text)
    else:
        out.write_text(text)


def _parquet(table: Any, out: Path | None) -> None:
    try:
        table.to_parquet(out or sys.stdout.buffer, index=False)
    except ImportError:
        raise InvalidRequest(
            "Parquet needs the package pyarrow.", hint="Install it with: pip install pyarrow"
        ) from None


def _draw(request: dict[str, Any], response: ForecastResponse, picture: Path | None, *, beside: bool) -> None:
    """The charts; ``beside`` a result that a program may read, a chart in the terminal goes to stderr."""
    import os
    import shutil

    from tollama import charts
    from tollama.contract import SeriesForecast

    series = {one["id"]: one for one in request["series"]}
    drawn = [one for one in response.forecasts if isinstance(one, SeriesForecast)]
    fans = [charts.Fan.of(series[one.id], one, response.model) for one in drawn[:CHARTS]]
    if len(drawn) > len(fans):
        output.note(f"The first {len(fans)} of {len(drawn)} series are drawn.")
    if picture is not None:
        charts.fan_chart(fans, picture)
        output.note(f"Wrote {picture}")
        return
    width = min(shutil.get_terminal_size().columns, 100)
    say, stream = (output.note, sys.stderr) if beside else (output.line, sys.stdout)
    for fan in fans:
        say(charts.terminal(fan, width, color=stream.isatty() and not os.environ.get("NO_COLOR")))
