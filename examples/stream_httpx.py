"""A streamed forecast without tollama's own client: lines of JSON as they come. A server must be running."""

from __future__ import annotations

import json
import os
from pathlib import Path

import httpx

URL = os.environ.get("TOLLAMA_URL", "http://127.0.0.1:11435")
request = json.loads(Path(__file__).with_name("request_covariates.json").read_text())

with httpx.Client(base_url=URL, timeout=330) as http, http.stream("POST", "/api/forecast", json=request) as answer:
    if answer.status_code != 200:  # what is known to be wrong before the first line
        error = json.loads(answer.read())
        raise SystemExit(f"{error['code']}: {error['error']} {error['hint']}")
    for text in answer.iter_lines():
        line = json.loads(text)
        if "error" in line:
            raise SystemExit(f"{line['code']}: {line['error']} {line['hint']}")
        if line.get("done"):
            for one in line["response"]["forecasts"]:
                print(one["id"], one["start_timestamp"], one["mean"])
        else:
            print(line["status"], line.get("completed", ""))
