"""The Kubernetes file is the same graph as the one that ships, and one that Serve takes."""

from __future__ import annotations

import re
from typing import Any

import yaml
from ray.serve.schema import ServeDeploySchema

from deployments.app import GraphArgs
from tests.serving import CHECKOUT

SERVICE: dict[str, Any] = yaml.safe_load((CHECKOUT / "deploy/rayservice.yaml").read_text())
SHIPPED: dict[str, Any] = yaml.safe_load((CHECKOUT / "serve_config.yaml").read_text())
GRAPH: dict[str, Any] = yaml.safe_load(SERVICE["spec"]["serveConfigV2"])
CLUSTER = SERVICE["spec"]["rayClusterConfig"]
POD = CLUSTER["headGroupSpec"]["template"]["spec"]
HEAD = POD["containers"][0]


def test_it_differs_in_addresses_and_the_home_only() -> None:
    shipped, graph = SHIPPED["applications"][0], GRAPH["applications"][0]
    assert graph["args"].pop("home") == {one["name"]: one.get("value") for one in HEAD["env"]}["TOLLAMA_HOME"]
    assert graph["args"].pop("door") is None
    assert shipped["args"].pop("door")["port"] == 11435
    assert (GRAPH["http_options"].pop("host"), SHIPPED["http_options"].pop("host")) == ("0.0.0.0", "127.0.0.1")
    assert GRAPH == SHIPPED


def test_serve_and_the_builder_take_it() -> None:
    told = yaml.safe_load(SERVICE["spec"]["serveConfigV2"])
    (application,) = ServeDeploySchema.model_validate(told).applications
    GraphArgs.model_validate(application.args)


def test_ports_mounts_and_versions_fit_together() -> None:
    assert {port["name"]: port["containerPort"] for port in HEAD["ports"]}["serve"] == 11436
    pinned = re.search(r'"ray\[serve\]==([\d.]+)"', (CHECKOUT / "pyproject.toml").read_text())
    assert pinned is not None
    assert CLUSTER["rayVersion"] == pinned[1]
    volumes = {one["name"] for one in POD["volumes"]}
    assert {mount["name"] for mount in HEAD["volumeMounts"]} == volumes
    assert CLUSTER["authOptions"] == {"mode": "token"}
