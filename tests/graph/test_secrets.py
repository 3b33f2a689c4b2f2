"""Secrets wherever a server can be given them; none comes out, while it runs or after."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import LoopbackHub, safetensors
from tests.serving import TOLLAMA, Server, request, wait_for
from tollama.keys import made
from tollama.registry import find

NAME = "chronos-bolt-tiny"
API_KEY = made("unused")[0]
PLACES = ("token", "endpoint", "file-token", "file-proxy", "proxy", "pull-token", "pull-proxy")
SECRETS = {place: f"Zq9-{place}-word" for place in PLACES} | {
    "key": API_KEY,
    "pull-hub-token": "hf_" + "Zq9pullZq9pull99",
}
READ = (
    "/ /api/version /api/tags /api/ps /api/info /v1/info /v1/ps /v1/models /v1/models/mock /health/live /health/ready"
)
MORE = f"/metrics /openapi.json /docs /v1/models/{NAME} /v1/models/{NAME}/capabilities /nothing /v1/models/nothing"
COMMANDS = (
    "info, info --json, doctor --quick, doctor --quick --json, config list, config list --json, config get hf_token, "
    "config get hf_endpoint --json, config key list, config key list --json, list --json, ps, "
    f"show {NAME}, show {NAME} --json, show nothing, pull nothing, pull {NAME} --revision nothing --no-runtime"
)


def guarded(url: str, place: str) -> str:
    """The address with a password in it."""
    return url.replace("//", f"//user:{SECRETS[place]}@")


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    """A hub whose faults are this module's own."""
    with LoopbackHub(tmp_path_factory.mktemp("upstream")) as running:
        files: dict[str, bytes | Path] = {"config.json": b"{}", "model.safetensors": safetensors(100_000)}
        running.add(str(find(NAME).source.repo_id), files, str(find(NAME).source.revision))
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, upstream: LoopbackHub) -> Iterator[Server]:
    """A server with a secret in everything that it is set by."""
    home = tmp_path_factory.mktemp("secrets")
    told = {"hf_token": SECRETS["file-token"], "proxies": guarded(upstream.url, "file-proxy")}
    (home / "config.json").write_text(json.dumps(told))
    running = Server(
        home,
        TOLLAMA_HF_TOKEN=SECRETS["token"],
        TOLLAMA_HF_ENDPOINT=guarded(upstream.url, "endpoint"),
        TOLLAMA_API_KEYS=API_KEY,
        TOLLAMA_LOG_LEVEL="DEBUG",
        HTTPS_PROXY=guarded("http://127.0.0.1:9", "proxy"),
    )
    running.http.headers["Authorization"] = f"Bearer {API_KEY}"
    with running:
        yield running


def clean(where: str, what: str) -> None:
    """No secret is in it; a password may not even be there with its URL's escapes."""
    for place, secret in SECRETS.items():
        assert secret not in what, f"the secret of {place} is in {where}"


def pulls(server: Server, upstream: LoopbackHub) -> Iterator[str]:
    """The lines of pulls that go wrong in every way, and at last of one that does not."""
    source = str(find(NAME).source.repo_id)

    def lines(**changes: object) -> str:
        return server.post("/api/pull", {"name": NAME, "no_runtime": True, **changes}).text

    token, other = SECRETS["pull-token"], guarded(upstream.url, "pull-proxy")
    for status in (401, 403, 404, 429, 500):
        upstream.status = status
        yield lines()
        yield lines(token=SECRETS["pull-hub-token"])
    upstream.status = None
    upstream.gated.add(source)
    yield lines(token=token)
    upstream.gated.clear()
    yield lines(endpoint=guarded("http://127.0.0.1:9", "pull-proxy"))
    yield lines(proxy=guarded("http://127.0.0.1:9", "pull-proxy"))
    yield lines(proxy=other, token=token, revision="nothing")
    upstream.corrupt.add("model.safetensors")
    yield lines(token=token)
    upstream.corrupt.clear()
    yield lines(name="hf:org/nothing", token=token)
    whole = lines(token=token)
    assert whole.endswith('{"status":"success"}\n'), whole
    yield whole


def test_no_answer_and_no_command_tells_one(server: Server, upstream: LoopbackHub) -> None:
    codes = set()
    for text in pulls(server, upstream):
        clean("a pull", text)
        codes.add(json.loads(text.splitlines()[-1]).get("code"))
    assert {None, "HUB_ERROR", "HUB_UNAUTHORIZED", "HUB_UNAVAILABLE", "DIGEST_MISMATCH", "REVISION_NOT_FOUND"} <= codes
    for path in f"{READ} {MORE}".split():
        clean(path, server.get(path).text)
        clean(path, server.get(path, headers={"Authorization": "Bearer wrong"}).text)
    assert "[redacted]" in server.get("/api/info").text
    for fault in ("raise", "item", "non_finite"):
        for path in ("/v1/forecast", "/api/forecast"):
            clean(fault, server.post(path, request(options={"fail": fault})).text)
    for command in COMMANDS.split(", "):
        environment = server.environment | {"TOLLAMA_API_KEY": API_KEY}
        done = subprocess.run([TOLLAMA, *command.split()], env=environment, capture_output=True, text=True, timeout=120)
        clean(command, done.stdout + done.stderr)


def test_no_log_keeps_one(server: Server) -> None:
    """Last in this module: Ray's own logs are in the home when the server has stopped."""
    wait_for(lambda: "pull of the model" in logged(server.home), 10, "the pulls' lines")
    assert server.stop() == 0
    files = [path for path in (server.home / "logs").rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"serve.log", "gcs_server.out", "raylet.out"} <= names
    for path in [*files, server.out]:
        clean(path.name, path.read_text(errors="replace"))


def logged(home: Path) -> str:
    return "\n".join(path.read_text() for path in (home / "logs/serve").glob("*ingress*"))
