"""A forecast from nothing: starts a server unless one is running, forecasts three series with two models, draws them.

Run it with `make demo`, or: python examples/demo.py
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pandas as pd

from tollama import charts, frames
from tollama.cli import output
from tollama.cli.connection import connect
from tollama.client import Client
from tollama.contract import ForecastResponse, SeriesForecast
from tollama.errors import TollamaError

HERE = Path(__file__).resolve().parent
SERIES = {"airline_passengers": 24, "seattle_weather": 28, "sf_temps": 48}
MODELS = ("seasonal-naive", "auto-ets")
START_S = 180.0
STOP_S = 60.0


def answers(client: Client) -> bool:
    """Whether a server is there and ready to forecast."""
    try:
        return client.ready().status == "ready"
    except TollamaError:
        return False


@contextlib.contextmanager
def server(client: Client) -> Iterator[None]:
    """A running server: the one that is there, else one of our own that is stopped at the end."""
    if answers(client):
        print(f"Using the server at {client.url}.")
        yield
        return
    print(f"Starting a server at {client.url} ...", flush=True)
    command = [sys.executable, "-m", "tollama.cli", "serve", "--no-dashboard"]
    with tempfile.TemporaryFile("w+") as log:
        # In a session of its own, so that Ctrl-C reaches this script only and the server is stopped in order.
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            wait_until_ready(client, process, log)
            yield
        finally:
            stop(process)


def wait_until_ready(client: Client, process: subprocess.Popen[bytes], log: IO[str]) -> None:
    """Returns when the server answers; a server that ends or stays silent is an error with its last lines."""
    deadline = time.monotonic() + START_S
    while not answers(client):
        if process.poll() is not None or time.monotonic() > deadline:
            log.seek(0)
            print(*log.read().splitlines()[-15:], sep="\n", file=sys.stderr)
            raise TollamaError("The server did not start.", hint="Run it in the foreground: tollama serve")
        time.sleep(0.2)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the server as Ctrl-C does, and wait until it is gone."""
    if process.poll() is None:
        print("Stopping the server ...", flush=True)
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def show(name: str, series: dict[str, object], responses: list[ForecastResponse]) -> None:
    """A table of the first steps, a chart per model, and a picture of all."""
    columns: dict[str, object] = {}
    fans = []
    for response in responses:
        one = response.forecasts[0]
        assert isinstance(one, SeriesForecast)
        columns["timestamp"] = frames.future(one)
        columns[response.model] = [round(value, 1) for value in one.mean]
        band = zip(one.quantiles["0.1"], one.quantiles["0.9"], strict=True)
        columns[f"80 % of {response.model}"] = [f"{low:.1f} to {high:.1f}" for low, high in band]
        fans.append(charts.Fan.of(series, one, response.model))
    print(f"\n{name}: the next {SERIES[name]} steps, of which the first 6\n")
    print(pd.DataFrame(columns).head(6).to_string(index=False))
    width = min(shutil.get_terminal_size().columns, 100)
    for fan in fans:
        print("\n" + charts.terminal(fan, width, 14, color=sys.stdout.isatty()))
    picture = Path(f"forecast-{name}.png")
    charts.fan_chart(fans, picture)
    print(f"\nFan chart: {picture}")


def main() -> int:
    """Forecast everything; the exit code."""
    try:
        with connect(None) as client, server(client):
            for model in MODELS:
                for event in client.pull(model):  # these have no weights; their family's runtime may be missing
                    if event.status != "success":
                        print(event.status, flush=True)
            for name, horizon in SERIES.items():
                table = frames.read((HERE / f"{name}.csv").read_bytes())
                assert isinstance(table, pd.DataFrame)
                responses = []
                for model in MODELS:
                    request = frames.request(table, model, horizon)
                    request["quantiles"] = [0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975]
                    responses.append(client.forecast(request))
                show(name, request["series"][0], responses)
    except TollamaError as error:
        output.fail(error)
        return 1
    except KeyboardInterrupt:
        return 1
    tollama = "tollama" if shutil.which("tollama") else str(Path(sys.executable).with_name("tollama"))
    print("\nTry next:")
    for command, what in (
        ("serve", "keep a server running"),
        ("list --available", "the models there are"),
        ("pull chronos-bolt-small", "a foundation model"),
        ("forecast chronos-bolt-small examples/airline_passengers.csv --horizon 24 --plot", "ask it"),
    ):
        print(f"  {tollama} {command}  # {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
