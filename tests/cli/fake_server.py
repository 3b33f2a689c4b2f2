"""A server that answers as the contract says, with canned numbers: what the client and the command line talk to in
their tests."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pandas as pd

from tests.cli.fake_info import INFO
from tollama import errors
from tollama.contract import ForecastRequest, parse, quantile_key

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]
"""How tests run the command line: arguments, ``host`` and ``stdin``."""

TEXT_SHA256 = "5" * 64
DIGEST = "0123456789abcdef" * 4
STAMP = "2024-01-01T00:00:00+00:00"
DETAILS = {"family": "mock", "families": ["mock"], "format": "safetensors"}
FREE = {"id": "apache-2.0", "needs_acceptance": False, "notice": "", "url": "https://example.org/apache"}
GATED = {"id": "cc-by-nc-4.0", "needs_acceptance": True, "notice": "Not for commercial use.", "url": ""}
CAPABILITIES = {
    "max_context": 2048,
    "min_context": 1,
    "max_horizon": 1024,
    "native_horizon": 64,
    "quantiles": {"native": [0.1, 0.5, 0.9], "arbitrary": True, "method": "interpolated"},
    "covariates": {"past_numeric": True, "future_numeric": True},
    "missing_values": True,
    "multivariate": False,
    "options": {"seed": {"type": "int", "default": 0}},
    "point": "median",
    "deterministic": True,
}


class Fake:
    """What the server knows and what it was asked; tests change the one and read the other."""

    def __init__(self) -> None:
        self.licenses = {"naive": FREE, "small": FREE, "gated": GATED}
        self.installed = {"naive"}
        self.accepted: set[str] = set()
        self.api_key: str | None = None
        self.forecasts: list[dict[str, Any]] = []
        self.loaded: dict[str, Any] = {"naive": {}}
        self.ps = [
            {
                "name": "naive",
                "model": "naive",
                "details": DETAILS,
                "family": "mock",
                "replica": "mock-1",
                "in_use": 0,
                "digest": DIGEST,
                "size": 400_000_000,
                "size_vram": 100_000_000,
                "device": "cuda:0",
                "context_length": 2048,
                "expires_at": "9999-12-31T23:59:59+00:00",
                "state": "loaded",
            }
        ]
        self.pulls: list[dict[str, Any]] = []
        self.broken: list[dict[str, str]] = []
        self.cut = False
        self.unwell: dict[str, Any] | None = None
        self.url = ""

    def known(self, name: str) -> str:
        if name not in self.licenses:
            raise errors.ModelNotFound("There is no such model.", hint="Did you mean small?")
        return name

    def view(self, name: str) -> dict[str, Any]:
        here = name in self.installed
        return {
            "name": name,
            "family": "mock",
            "source": {"type": "huggingface", "repo_id": f"org/{name}", "revision": "main"},
            "license": self.licenses[name]
            | {"accepted": name in self.accepted or not self.licenses[name]["needs_acceptance"]},
            "capabilities": CAPABILITIES,
            "installed": here,
            "state": "installed" if here else "available",
            "runtime": {"installed": True, "ready": True},
        }

    def get(self, path: str) -> Any:
        tag = {"size": 191_000_000, "digest": DIGEST, "modified_at": STAMP, "details": DETAILS}
        match path.strip("/").split("/"):
            case ["v1", "health"]:
                return {"status": "ok"}
            case ["health", "ready"] if self.unwell is not None:
                return self.unwell
            case ["health", "ready"]:
                return {"status": "ready", "checks": {"ingress": "ok", "store": "ok", "disk": "ok", "families": {}}}
            case ["metrics"]:
                return ["tollama_up 1"]
            case ["api", "version"]:
                return {"version": "9.9.9"}
            case ["api", "tags"]:
                return {"models": [{"name": n, "model": n, **tag} for n in sorted(self.installed)]}
            case ["api", "info"]:
                return INFO
            case ["api", "ps"]:
                return {"models": self.ps}
            case ["v1", "models"]:
                views = {name: self.view(name) for name in self.licenses}
                installed = [views[name] for name in sorted(self.installed)]
                return {"available": [*views.values()], "installed": installed, "broken": self.broken}
            case ["v1", "models", name]:
                view = self.view(self.known(name))
                manifest = {
                    **{key: view[key] for key in ("name", "family", "source", "license", "capabilities")},
                    "adapter": "mock",
                    "size_bytes": 191_000_000,
                    "files": [{"path": "model.safetensors", "size": 190_000_000, "sha256": DIGEST}],
                    "resolved": {"commit_sha": "c" * 40},
                    "pulled_at": STAMP,
                    "installed_at": STAMP,
                    "defaults": {},
                    "requires": {},
                    "details": {"format": "safetensors", "parameter_size": "48M", "quantization_level": "F32"},
                }
                return view | ({"manifest": manifest} if name in self.installed else {})
            case ["v1", "models", name, "capabilities"]:
                return self.view(self.known(name))["capabilities"]
        raise errors.NotFound("There is no such route.")

    def delete(self, path: str) -> Any:
        name = self.known(path.rpartition("/")[2])
        if name not in self.installed:
            raise errors.ModelNotInstalled("The model is not installed.", hint="tollama list shows what is.")
        self.installed.remove(name)
        return {"removed": True, "name": name}

    def runnable(self, name: str) -> None:
        if self.licenses[self.known(name)]["needs_acceptance"] and name not in self.accepted:
            raise errors.LicenseNotAccepted(
                "The licence is not accepted.", hint=f"tollama pull {name} --accept-license"
            )
        if name not in self.installed:
            raise errors.ModelNotInstalled("The model is not installed.", hint=f"tollama pull {name}")

    def post(self, path: str, data: bytes) -> Any:
        if path == "/api/show":
            name = self.known(json.loads(data)["model"])
            return {
                **{"name": name, "license": f"The text of {self.licenses[name]['id']}.\n", "modelfile": "FROM org"},
                **{"parameters": "", "details": DETAILS, "model_info": {}, "capabilities": ["forecast"]},
                "modified_at": STAMP,
            }
        if path == "/api/pull":
            return self.pull(json.loads(data))
        if path.endswith(("/load", "/unload")):
            name, _, verb = path.removeprefix("/v1/models/").partition("/")
            self.runnable(name)
            if verb == "load":
                self.loaded[name] = json.loads(data)
            else:
                self.loaded.pop(name, None)
            return {"model": name, "created_at": STAMP, "done": True, "done_reason": verb}
        request = parse(ForecastRequest, data)
        self.forecasts.append(json.loads(data))
        self.runnable(request.model)
        if path == "/api/validate":
            return {"valid": True, "warnings": []}
        return self.streamed(request) if path == "/api/forecast" else forecast(request)

    def pull(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self.pulls.append(body)
        name = self.known(body["model"])
        if self.licenses[name]["needs_acceptance"] and not body.get("accept_license"):
            raise errors.LicenseNotAccepted(
                "The licence is not accepted.",
                detail={
                    "text": "The whole text.",
                    "text_sha256": TEXT_SHA256,
                    "notice": self.licenses[name]["notice"],
                    "url": "",
                },
                hint=f"tollama pull {name} --accept-license",
            )

        def lines() -> Iterator[dict[str, Any]]:
            yield {"status": "pulling manifest"}
            for done in (0, 500_000, 1_000_000):
                yield {"status": f"pulling {DIGEST[:12]}", "digest": DIGEST, "total": 1_000_000, "completed": done}
            if self.cut:
                error = errors.HubUnavailable("The hub could not be reached.")
                yield error.record.body()
                return
            self.accepted.add(name)
            self.installed.add(name)
            yield from ({"status": s} for s in ("verifying sha256 digest", "writing manifest", "success"))

        return lines()

    def streamed(self, request: ForecastRequest) -> Iterator[dict[str, Any]]:
        yield {"status": "queued"}
        yield {"status": "running forecast", "completed": 0, "total": len(request.series)}
        yield {"done": True, "response": forecast(request)}


def forecast(request: ForecastRequest) -> dict[str, Any]:
    """The last value again and again, with a band of 1 per decile; warns of ``null`` in a history."""
    found, warned = [], []
    for series in request.series:
        history = [value for value in series.target if value is not None and value == value]
        if len(history) < len(series.target):
            warned.append(f"Series '{series.id}' has missing values.")
        freq = series.freq
        if series.timestamps is not None and freq == "auto":
            freq = "MS" if all(stamp[8:10] in ("", "01") for stamp in series.timestamps) else "D"
        last = series.timestamps[-1] if series.timestamps else series.start
        steps = [step.isoformat() for step in pd.date_range(last, periods=request.horizon + 1, freq=freq)[1:]]
        mean = [history[-1]] * request.horizon
        one = {
            "id": series.id,
            "freq": freq,
            "start_timestamp": steps[0],
            "mean": mean,
            "quantiles": {quantile_key(q): [v + 10 * (q - 0.5) for v in mean] for q in request.quantiles},
            "point": "mean",
        }
        found.append(one | ({"timestamps": steps} if request.response_options.timestamps else {}))
    usage = {"runner": "mock", "device": "cpu", "model_load_ms": 0.0, "inference_ms": 1.0, "batch_series": 1}
    counts = {"series_count": len(found), "horizon": request.horizon, "context_length": 2048, "peak_memory_mb": 1.0}
    timing = dict.fromkeys(("total_ms", "queue_ms", "model_load_ms", "inference_ms"), 1.0)
    body = {"model": request.model, "forecasts": found, "timing": timing, "usage": usage | counts}
    return body | {"warnings": warned}


class _Handler(BaseHTTPRequestHandler):
    fake: Fake

    def _serve(self) -> None:
        data = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            if self.fake.api_key and self.headers.get("authorization") != f"Bearer {self.fake.api_key}":
                raise errors.Unauthorized("An API key is needed.")
            answer = {"GET": self.fake.get, "DELETE": self.fake.delete}.get(
                self.command, lambda path: self.fake.post(path, data)
            )(self.path)
        except errors.TollamaError as error:
            self._send(error.status, [error.record.body()], {"x-request-id": "r-1", **error.headers()})
        else:
            status = 200 if answer is not self.fake.unwell else 503
            self._send(status, [answer] if isinstance(answer, dict) else answer, {})

    def _send(self, status: int, lines: Any, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        for line in lines:
            self.wfile.write((line if isinstance(line, str) else json.dumps(line)).encode() + b"\n")

    do_GET = do_POST = do_DELETE = _serve

    def log_message(self, format: str, *args: Any) -> None:
        """The test's output is not the place for an access log."""


@contextmanager
def running() -> Iterator[Fake]:
    """A fake server on a free port of loopback; its ``url`` says where."""
    fake = Fake()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": fake}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
