"""The whole round in Python: pull, look, forecast, and what goes wrong. A server must be running: tollama serve"""

from __future__ import annotations

import json
from pathlib import Path

from tollama import Client, SeriesForecast, TollamaError

request = json.loads(Path(__file__).with_name("request.json").read_text())

with Client() as client:
    for step in client.pull(request["model"]):  # no weights here; a foundation model's bytes are in step.completed
        print(step.status)
    print("longest horizon:", client.capabilities(request["model"]).max_horizon)

    response = client.forecast(request)
    for one in response.forecasts:
        assert isinstance(one, SeriesForecast)
        print(one.id, one.freq, one.start_timestamp, [round(value, 1) for value in one.mean])

    try:
        client.forecast(request | {"options": {"temperature": 1}})
    except TollamaError as error:
        print(f"{error.code}: {error} {error.hint}")
