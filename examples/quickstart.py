"""From a table to a forecast in Python. A server must be running: tollama serve"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from tollama import frames
from tollama.client import Client

table = pd.read_csv(Path(__file__).with_name("airline_passengers.csv"))

with Client() as client:
    response = client.forecast(frames.request(table, "seasonal-naive", horizon=12))

print(frames.tidy(response).to_string(index=False))
