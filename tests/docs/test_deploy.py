"""The Kubernetes file is the same graph as the one that ships, and one that Serve takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from deployments import exposure
from deployments.app import GraphArgs
from tests.serving import CHECKOUT
from tollama.errors import ConfigError
from tollama.keys import made
from tollama.launcher import RAY_ENVIRONMENT
from tollama.settings import Settings, load
from tollama.version import __version__

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


def settings(home: Path, secrets: dict[str, str]) -> Settings:
    """What a pod's processes read: the file's environment, with what Kubernetes puts in the place of the secrets."""
    env = {"TOLLAMA_HOME": str(home)}
    for one in HEAD["env"]:
        if one["name"] not in env:
            (secret,) = [one.get("valueFrom", {}).get("secretKeyRef")]
            env[one["name"]] = secrets.get(f"{secret['name']}/{secret['key']}", "")
    return load(env)


def test_the_graph_that_it_opens_to_others_is_guarded_by_the_secrets_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", CLUSTER["authOptions"]["mode"])
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(exposure, "_proxy", lambda: GRAPH["http_options"].get("host", "0.0.0.0"))
    guarded = settings(tmp_path, {"tollama-api-keys/keys": f"{made('a')[0]},{made('b')[0]}"})
    assert len(guarded.api_keys) == 2
    assert exposure.exposed(None, guarded) is True
    with pytest.raises(ConfigError, match="there is no API key"):
        exposure.exposed(None, settings(tmp_path, {}))


def test_the_docs_make_the_secret_and_the_volume_that_it_names() -> None:
    told = (CHECKOUT / "docs/operations.md").read_text()
    (secret,) = [one["valueFrom"]["secretKeyRef"] for one in HEAD["env"] if "valueFrom" in one]
    assert f"kubectl create secret generic {secret['name']} --from-literal={secret['key']}=" in told
    (claim,) = [one["persistentVolumeClaim"]["claimName"] for one in POD["volumes"] if "persistentVolumeClaim" in one]
    assert yaml.safe_load((CHECKOUT / "deploy/home.yaml").read_text())["metadata"]["name"] == claim
    steps = [told.index(f"kubectl apply -f deploy/{name}.yaml") for name in ("home", "rayservice")]
    assert steps == sorted(steps)


def test_the_image_is_of_the_same_ray_and_has_the_name_that_the_pod_asks_for() -> None:
    image = (CHECKOUT / "deploy/Dockerfile").read_text()
    assert f"FROM rayproject/ray:{CLUSTER['rayVersion']}-py311\n" in image
    assert f"-t {HEAD['image']} ." in image
    assert HEAD["image"] == f"tollama:{__version__}"


def test_the_image_sets_for_ray_what_our_launcher_sets() -> None:
    lines = (CHECKOUT / "deploy/Dockerfile").read_text().replace("\\\n", " ").splitlines()
    (told,) = [line.split()[1:] for line in lines if line.startswith("ENV ")]
    assert dict(pair.split("=") for pair in told) == RAY_ENVIRONMENT
