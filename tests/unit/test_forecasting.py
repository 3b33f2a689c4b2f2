"""From a request's body to items, for a model whose quantiles need more history than it reads; and failures told."""

from __future__ import annotations

import json
import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tollama.errors import InvalidSeries, RunnerFailed
from tollama.forecasting import Outcome, Prepared, answer, prepare
from tollama.registry import find
from tollama.seam import ItemFailure, ItemForecast
from tollama.settings import Settings

ENTRY = find("granite-ttm-r2-512-96")
MODEL: Any = SimpleNamespace(
    name=ENTRY.name, family=ENTRY.family, digest="0" * 64, ref=b"", about=ENTRY, capabilities=ENTRY.capabilities
)
CATALOG: Any = SimpleNamespace(runnable=lambda name: MODEL)


def prepared(length: int, **more: Any) -> Prepared:
    series = [{"id": "a", "target": [float(step % 24) for step in range(length)], "start": "2024-01-01", "freq": "h"}]
    body = {"model": ENTRY.name, "horizon": 4, "series": series, **more}
    return prepare(json.dumps(body).encode(), CATALOG, Settings())


@pytest.mark.parametrize(("length", "context"), [(300, 300), (512, 512), (900, 512)])
def test_usage_tells_the_context_that_the_model_reads_not_what_its_quantiles_need(length: int, context: int) -> None:
    asked = prepared(length)
    assert asked.context_length == context
    assert pickle.loads(asked.items)[0].target.size == length


def test_without_quantiles_the_history_is_cut_to_the_context() -> None:
    asked = prepared(900, quantiles=[])
    assert asked.context_length == pickle.loads(asked.items)[0].target.size == 512


HORIZON, LEVELS = 4, 3
FAILED = {"fault of the series": InvalidSeries("It is at fault."), "fault of the model": RunnerFailed("It broke.")}


def answered(*failures: str) -> bytes:
    """The answer for one series that was forecast, and one for each failure, named as it is."""
    names = ["fine", *failures]
    series = [{"id": name, "target": [1.0] * 9, "start": "2024-01-01", "freq": "h"} for name in names]
    fine = ItemForecast(np.ones(HORIZON), np.ones((LEVELS, HORIZON)))
    results = [fine, *(ItemFailure(FAILED[name].record) for name in failures)]
    return answer(prepared(9, series=series), Outcome((pickle.dumps(results),), "cpu", 0, 0, 0, 0, 1, 0))


def test_a_failure_is_the_requests_only_where_all_failures_are() -> None:
    assert json.loads(answered())["forecasts"][0]["mean"] == [1.0] * HORIZON
    with pytest.raises(InvalidSeries) as one:
        answered("fault of the series")
    assert one.value.detail == [{"id": "fault of the series", "error": "It is at fault."}]
    for failures in (["fault of the model"], list(FAILED)):
        with pytest.raises(RunnerFailed) as caught:
            answered(*failures)
        assert [entry["id"] for entry in caught.value.detail] == failures
