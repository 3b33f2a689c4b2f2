"""Whose word counts for the way to the hub: the request's, else the environment's, else the config file's, else the
default."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from tollama.settings import Settings, load
from tollama.wanted import PullRequest, access, offline, proxies

SOURCES = ("request", "environment", "config")
SETTINGS = {
    # in a request, in the environment, in the config file
    "endpoint": ("endpoint", "TOLLAMA_HF_ENDPOINT", "hf_endpoint"),
    "token": ("token", "TOLLAMA_HF_TOKEN", "hf_token"),
    "proxy": ("proxy", "TOLLAMA_PROXIES", "proxies"),
    "offline": ("offline", "TOLLAMA_OFFLINE", "offline"),
}
DEFAULTS = {"endpoint": Settings().hf_endpoint, "token": None, "proxy": None, "offline": False}


def in_force(name: str, request: PullRequest, settings: Settings) -> Any:
    """What a pull goes by."""
    match name:
        case "endpoint":
            return access(request, settings)[0]
        case "token":
            return access(request, settings)[1]
        case "proxy":
            return proxies(request, settings, {}).get("https_proxy")
    return offline(request, settings)


def values(name: str, said: tuple[str, ...]) -> list[dict[str, Any]]:
    """Source -> its value, each another; of two possible values, the winner has each."""
    if name == "offline":
        return [{source: (source == said[0]) is first for source in said} for first in (True, False)] if said else [{}]
    return [{source: f"http://{source}.example" for source in said}]


ROWS = [
    (name, said)
    for name in SETTINGS
    for said in itertools.chain.from_iterable(itertools.combinations(SOURCES, n) for n in range(4))
    for said in values(name, said)
]


@pytest.mark.parametrize(("name", "said"), ROWS, ids=[f"{name}: {said}" for name, said in ROWS])
def test_the_first_that_says_something(name: str, said: dict[str, Any], tmp_path: Path) -> None:
    field, variable, key = SETTINGS[name]
    if "config" in said:
        (tmp_path / "config.json").write_text(json.dumps({key: said["config"]}))
    env = {variable: str(said["environment"]).lower()} if "environment" in said else {}
    settings = load(env, home=tmp_path)
    body = {"name": "mock"} | ({field: said["request"]} if "request" in said else {})
    request = PullRequest.model_validate_json(json.dumps(body))
    assert in_force(name, request, settings) == next(iter(said.values()), DEFAULTS[name])


def test_the_variables_of_the_hubs_own_tools_are_an_environment_too(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"offline": False, "hf_token": "of-the-file"}))
    settings = load(
        {"HF_HUB_OFFLINE": "1", "HF_TOKEN": "theirs", "HF_ENDPOINT": "http://theirs.example"}, home=tmp_path
    )
    request = PullRequest(name="mock")
    assert access(request, settings) == ("http://theirs.example", "theirs")
    assert offline(request, settings)
    assert not offline(PullRequest(name="mock", offline=False), settings)
