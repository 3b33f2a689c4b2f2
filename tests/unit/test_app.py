"""The graph that the builder makes, without a cluster: what each family's deployment is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from deployments import app
from deployments.app import FamilyArgs, GraphArgs, build
from deployments.door import DRAIN
from tollama.store import Home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, on a machine with one GPU that nobody else reaches."""
    monkeypatch.setattr(app, "_gpus", lambda: 1)
    monkeypatch.setattr(app, "exposed", lambda door, settings: False)
    monkeypatch.setattr(app, "in_sight", str)
    monkeypatch.setenv("TOLLAMA_HOME", str(tmp_path))
    monkeypatch.delenv("TOLLAMA_FAMILY_LINGER", raising=False)
    return tmp_path


def families(**families: Any) -> dict[str, Any]:
    """Family -> its deployment, as the builder made it."""
    args = GraphArgs.model_validate({"families": families})
    return {name: bound._bound_deployment for name, bound in build(args)._bound_deployment.init_args[1].items()}


def policy(deployment: Any) -> dict[str, Any]:
    """What the scaling policy is told of the family."""
    return dict(deployment._deployment_config.autoscaling_config.policy.policy_kwargs)


def test_the_linger_that_is_set_reaches_every_family_however_the_graph_is_started(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [policy(one) for name, one in families().items() if name in ("mock", "torch")] == [
        {"share": 0.0, "gpus": 1},
        {"share": 0.4, "gpus": 1},
    ]
    (home / "config.json").write_text('{"family_linger": 7}')
    assert {policy(one)["linger"] for one in families().values()} == {7.0}
    monkeypatch.setenv("TOLLAMA_FAMILY_LINGER", "3")
    assert {policy(one)["linger"] for one in families().values()} == {3.0}


@pytest.mark.parametrize("dtype", get_args(FamilyArgs.model_fields["dtype"].annotation))
def test_a_familys_replicas_are_told_its_device_type_and_threads(home: Path, dtype: str) -> None:
    told = families(torch={"device": "cpu", "dtype": dtype, "threads": 3})["torch"]
    placement = told.init_args[0].placement
    assert (placement.device, placement.dtype, placement.threads) == ("cpu", dtype, 3)
    assert told.ray_actor_options["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "3"


def test_an_ingress_is_looked_at_more_often_than_a_family(home: Path) -> None:
    ingress = build(GraphArgs())._bound_deployment
    assert ingress._deployment_config.health_check_period_s < min(
        one._deployment_config.health_check_period_s for one in families().values()
    )


@pytest.mark.parametrize(
    ("args", "followed"), [({}, True), ({"ingress": {"replicas": 2}}, False), ({"door": None}, False)]
)
def test_the_only_ingress_at_a_door_has_one_that_waits_to_take_over(
    home: Path, args: dict[str, Any], followed: bool
) -> None:
    assert build(GraphArgs.model_validate(args))._bound_deployment.init_args[0].followed == followed


def test_the_sign_of_a_server_that_ended_before_is_taken_away(home: Path) -> None:
    sign = Home(home).run / DRAIN
    sign.parent.mkdir(parents=True)
    sign.touch()
    families()
    assert not sign.exists(), "the ingress would close its door"
