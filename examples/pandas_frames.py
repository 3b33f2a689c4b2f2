"""Tables in, tables out: a panel with two models and the errors on held-out data. A server must be running."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from tollama import Client

HORIZON = 12
table = pd.read_csv(Path(__file__).with_name("airline_passengers.csv"), parse_dates=["date"])
history, held_out = table.iloc[:-HORIZON], table.iloc[-HORIZON:]

with Client() as client:
    for model in ("seasonal-naive", "auto-ets"):
        forecast = client.forecast_frame(history, model, HORIZON, quantiles=[0.1, 0.9])
        joined = forecast.merge(held_out, on="date")
        error = (joined["mean"] - joined["passengers"]).abs().mean()
        inside = joined["passengers"].between(joined["0.1"], joined["0.9"]).mean()
        print(f"{model}: mean absolute error {error:.1f}, {inside:.0%} of the months inside the 80 % band")

    # One series with its times as the index.
    print(client.forecast_frame(history.set_index("date")["passengers"], "seasonal-naive", 3))
