"""The child of ``tollama serve``: starts Ray (or joins ``RAY_ADDRESS``) and hands over to the public ``serve run``.

``serve run`` starts Ray itself only when nobody has; what it cannot be told (a cluster of our own rather than one found
by chance, the dashboard or not) is said here. Run as ``python -P -m deployments.launch CONFIG NOTE [--no-dashboard]``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray
import yaml
from pydantic import ValidationError
from ray import serve
from ray.serve.scripts import cli

from deployments.app import GraphArgs
from deployments.ingress.starting import APP
from deployments.scaling import Policy

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
    started = {name: graph[name] for name in ("proxy_location", "http_options", "logging_config") if name in graph}
    serve.start(**started)
    cli(["run", config])


def _new_cluster(*, dashboard: bool) -> Any:
    for left in reversed(range(TRIES)):
        try:
            return ray.init(
                "local", namespace="serve", include_dashboard=dashboard, dashboard_host="127.0.0.1", log_to_driver=False
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
