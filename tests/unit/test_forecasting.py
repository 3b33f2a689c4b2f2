"""From a request's body to items, for a model whose quantiles need more history than it reads."""

from __future__ import annotations

import json
import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from tollama.forecasting import Prepared, prepare
from tollama.registry import find
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
