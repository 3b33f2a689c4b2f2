"""The child of ``tollama serve``: starts Ray (or joins ``RAY_ADDRESS``) and hands over to the public ``serve run``.

``serve run`` starts Ray itself only when nobody has; what it cannot be told (a cluster of our own rather than one found
by chance, the dashboard or not) is said here. Run as ``python -P -m deployments.launch CONFIG NOTE [--no-dashboard]``.
"""

from __future__ import annotations

import deployments.preload  # noqa: F401 - before anything else imports Ray Serve

# isort: split
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray
import yaml
from pydantic import ValidationError
from ray import serve
from ray._private import parameter
from ray._private.parameter import RayParams
from ray._private.ray_constants import DEFAULT_DASHBOARD_AGENT_LISTEN_PORT
from ray.serve.scripts import cli

from deployments.app import GraphArgs
from deployments.ingress.starting import APP
from deployments.logs import in_sight
from deployments.scaling import Policy
from tollama.logs import SERVE_LOGS
from tollama.store import Home

PROCESSES = 2
"""How many processors Ray is told that the machine has: so many idle processes it starts, and keeps. Of our deployments
each takes 0 of them."""
POLL_S = 0.5
TRIES = 3
"""Starts of Ray; on a machine busy with something else the first may time out."""


def main(config: str, note: str, *options: str) -> None:
    """Run the graph of ``config`` until interrupted; ``note`` receives where the dashboard is."""
    graph = yaml.safe_load(Path(config).read_text())
    application = graph["applications"][0]
    try:
        GraphArgs.model_validate(application.get("args", {}))
    except ValidationError as error:
        fault = error.errors()[0]
        sys.exit(f"applications[0].args.{'.'.join(map(str, fault['loc']))}: {fault['msg']}")
    try:
        # With a policy that cannot be made, Serve deploys the application without it and goes on.
        Policy(**application.get("autoscaling_policy", {}).get("policy_kwargs", {}))
    except TypeError as error:
        sys.exit(f"applications[0].autoscaling_policy.policy_kwargs: {error}")
    address = os.environ.get("RAY_ADDRESS")
    if address:
        context = ray.init(address, namespace="serve", log_to_driver=False)
    else:
        context = _new_cluster(dashboard="--no-dashboard" not in options)
    Path(note).write_text(json.dumps({"dashboard": context.dashboard_url}))
    threading.Thread(target=_end_when_deploying_fails, daemon=True).start()
    # `serve run` gives the file's logging to applications only, not to Serve's own controller and proxy.
    started = {name: graph[name] for name in ("proxy_location", "http_options") if name in graph}
    logs_dir = in_sight(Home(Path(application["args"]["home"])).logs / SERVE_LOGS)
    serve.start(**started, logging_config={**graph.get("logging_config", {}), "logs_dir": logs_dir})
    cli(["run", config])


class _Parameters(RayParams):
    """Ray's own, but for the port of its agent: ``ray.init`` always takes the same, and where another cluster has that
    the dashboard gets no logs, and Ray starts 3 s later."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.dashboard_agent_listen_port = _agent_port()


def _agent_port() -> int:
    with socket.socket() as probe:
        try:
            probe.bind(("", DEFAULT_DASHBOARD_AGENT_LISTEN_PORT))
        except OSError:
            probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _new_cluster(*, dashboard: bool) -> Any:
    parameter.RayParams = _Parameters  # type: ignore[misc]
    for left in reversed(range(TRIES)):
        try:
            return ray.init(
                "local",
                namespace="serve",
                num_cpus=PROCESSES,
                include_dashboard=dashboard,
                dashboard_host="127.0.0.1",
                log_to_driver=False,
            )
        except Exception as error:
            # Ray gives its agent 15 s to start, whatever else the machine is doing.
            if not left or "timed out during startup" not in str(error):
                raise
            print("Ray did not start in time; once more.", file=sys.stderr, flush=True)
            ray.shutdown()
    raise AssertionError


def _end_when_deploying_fails() -> None:
    """``serve run`` of a config file waits for ever for an application that cannot be deployed."""
    while True:
        time.sleep(POLL_S)
        try:
            app = serve.status().applications.get(APP)
        except Exception:  # Serve is not up yet
            continue
        if app is not None and app.status == "RUNNING":
            return
        if app is not None and app.status == "DEPLOY_FAILED":
            print(app.message, file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGINT)
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
