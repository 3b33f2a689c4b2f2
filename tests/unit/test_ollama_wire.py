"""Ollama's shapes, made of what is known."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.hub import entry
from tollama.capabilities import Capabilities, Covariates, Option
from tollama.catalog import Model
from tollama.contract import parse
from tollama.errors import InvalidRequest
from tollama.protocols import ollama as wire
from tollama.registry import Defaults

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HELD: dict[str, Any] = {
    "name": "tiny",
    "digest": "0" * 64,
    "expires": NOW.timestamp() + 60,
    "memory_mb": 12.5,
    "vram_mb": 0.0,
    "context_length": 512,
    "family": "mock",
    "device": "cpu",
    "replica": "mock-1",
    "state": "loaded",
    "in_use": 0,
}


@pytest.mark.parametrize(
    ("expires", "told"),
    [
        (NOW.timestamp() + 60, NOW + timedelta(minutes=1)),
        (NOW.timestamp() - 5, NOW),
        (-math.inf, NOW),
        (math.inf, wire.FOREVER),
    ],
)
def test_until_when_a_model_stays(expires: float, told: datetime) -> None:
    assert wire.running(HELD | {"expires": expires}, None, NOW).expires_at == told


def test_a_loaded_model_that_was_deleted_since_is_told_without_its_details() -> None:
    found = wire.running(HELD, None, NOW)
    assert (found.size, found.details.families, found.details.format) == (12_500_000, ["mock"], "")
    known = wire.running(HELD, Model("tiny", entry(), None), NOW)
    assert (known.details.parameter_size, known.details.format) == ("1M", "safetensors")


def test_show_has_the_defaults_that_a_request_gets() -> None:
    can = Capabilities(
        max_context=512,
        max_horizon=64,
        covariates=Covariates(future_numeric=True),
        missing_values=True,
        options={
            "seed": Option(type="int", default=0),
            "context_length": Option(type="int"),
            "fast": Option(type="bool", default=True),
        },
    )
    known = entry(capabilities=can, defaults=Defaults(options={"seed": 7}))
    shown = wire.show(Model("tiny", known, None), "Text.", can)
    assert shown.parameters.split() == ["seed", "7", "fast", "true"]
    assert shown.capabilities == ["forecast", "future_numeric_covariates", "missing_values"]
    assert shown.modelfile.splitlines()[1:] == [
        "FROM org/tiny@main",
        "PARAMETER seed 7",
        "PARAMETER fast true",
        'LICENSE """Text."""',
    ]


def test_a_name_comes_by_either_field() -> None:
    for body in (b'{"name": "a"}', b'{"model": "a"}', b'{"model": "a", "name": "b", "verbose": true}'):
        assert parse(wire.NamedRequest, body).name == "a"
    for wrong in (b"{}", b'{"model": ""}', b'{"model": 1}', b"[]"):
        with pytest.raises(InvalidRequest):
            parse(wire.NamedRequest, wrong)
