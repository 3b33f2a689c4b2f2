"""Ollama's own Python client, pointed at us: list, show, pull, ps, delete and their errors, on both ways in."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import ollama
import pytest

from tests.hub import LoopbackHub
from tests.serving import TOLLAMA, Server, request
from tollama.registry import find

NAME = "chronos-bolt-mini"
GATED = "moirai-1.0-r-large"
"""No other test of the same server accepts its licence."""
LICENSE = b"The text of a licence.\n"
WEIGHTS = 350_000
FILES: dict[str, bytes | Path] = {"config.json": b"{}", "model.safetensors": b"weights" * 50_000, "LICENSE": LICENSE}
SIZE = 2 + WEIGHTS + len(LICENSE)


@pytest.fixture
def client(base: str) -> ollama.Client:
    return ollama.Client(host=base, trust_env=False)


@pytest.fixture
def commit(hub: LoopbackHub, server: Server) -> Iterator[str]:
    """The model's repository on the hub, at the revision that the registry names; not on the server before or after."""
    source = find(NAME).source
    server.http.delete(f"{server.door}/v1/models/{NAME}")
    yield hub.add(str(source.repo_id), FILES, str(source.revision))
    server.http.delete(f"{server.door}/v1/models/{NAME}")


@pytest.fixture
def pulled(client: ollama.Client, commit: str) -> str:
    assert client.pull(NAME).status == "success"
    return commit


def listed(client: ollama.Client) -> dict[str, Any]:
    return {str(model.model): model for model in client.list().models}


def test_pull_in_one_answer_then_list(client: ollama.Client, pulled: str) -> None:
    model = listed(client)[NAME]
    assert model.size == SIZE
    assert re.fullmatch("[0-9a-f]{64}", model.digest)
    assert datetime.now(UTC) - timedelta(minutes=5) < model.modified_at <= datetime.now(UTC)
    assert (model.details.family, model.details.families) == ("torch", ["torch"])
    assert (model.details.format, model.details.quantization_level) == ("safetensors", "F32")
    assert model.details.parameter_size == find(NAME).details.parameter_size


def test_the_digest_is_that_of_the_files_and_the_date_that_of_the_pull(
    client: ollama.Client, server: Server, pulled: str
) -> None:
    manifest = json.loads((server.home / "models" / NAME / "manifest.json").read_text())
    held = {name: content for name, content in FILES.items() if isinstance(content, bytes)}
    lines = sorted(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in held.items())
    model = listed(client)[NAME]
    assert model.digest == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert model.size == manifest["size_bytes"] == sum(len(content) for content in held.values())
    assert model.modified_at == datetime.fromisoformat(manifest["installed_at"])


def test_a_name_may_have_ollamas_tag_latest(client: ollama.Client, commit: str) -> None:
    tagged = f"{NAME}:latest"
    assert client.pull(tagged).status == "success"
    assert NAME in listed(client)
    assert client.show(tagged).details == client.show(NAME).details
    assert client.delete(tagged).status == "success"
    assert NAME not in listed(client)
    assert client.generate("mock:latest").model == "mock"
    assert client.generate("mock:latest", keep_alive=0).done_reason == "unload"
    for verb in ("show", "delete", "pull", "generate"):
        with pytest.raises(ollama.ResponseError) as refused:
            getattr(client, verb)("mock:7b")
        assert refused.value.status_code == 404


def test_the_command_line_takes_it_too(base: str, server: Server) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(TOLLAMA), *words, "--host", base]
        return subprocess.run(command, env=server.environment, capture_output=True, text=True)

    assert json.loads(run("show", "mock:latest", "--json").stdout)["name"] == "mock"
    series = json.dumps(request(model="mock"))
    (server.home / "series.json").write_text(series)
    done = run("forecast", "mock:latest", str(server.home / "series.json"), "--horizon", "2", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert run("stop", "mock:latest").stdout == "Stopped mock:latest.\n"
    other = run("show", "mock:7b")
    assert (other.returncode, "Hint: Models have no tags here" in other.stderr) == (1, True)


def test_what_is_part_of_tollama_is_listed_too(client: ollama.Client) -> None:
    model = listed(client)["seasonal-naive"]
    assert (model.size, model.details.family) == (0, "baseline")
    assert len(bytes.fromhex(model.digest)) == 32
    assert datetime(2020, 1, 1, tzinfo=UTC) < model.modified_at <= datetime.now(UTC)


def test_pull_as_a_stream(client: ollama.Client, commit: str) -> None:
    came = list(client.pull(NAME, stream=True))
    told = list(dict.fromkeys(str(line.status) for line in came))
    assert told[0] == "pulling manifest"
    assert told[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
    layers = {line.digest: line for line in came if line.digest}
    assert len(layers) == 3
    assert sum(line.total or 0 for line in layers.values()) == SIZE
    assert all(line.completed == line.total for line in layers.values())
    assert all(line.status == f"pulling {digest.partition(':')[2][:12]}" for digest, line in layers.items())


def test_show(client: ollama.Client, pulled: str) -> None:
    shown = client.show(NAME.upper())
    source, can = find(NAME).source, find(NAME).capabilities
    assert shown.license == LICENSE.decode()
    assert shown.capabilities == ["forecast", "missing_values"]
    assert shown.template == ""
    assert re.split(r"\s+", str(shown.parameters)) == ["seed", "0", "extrapolate_quantiles", "false"]
    for line in (f"FROM {source.repo_id}@{pulled}", "PARAMETER seed 0", 'LICENSE """The text of a licence.'):
        assert line in str(shown.modelfile).splitlines()
    info = dict(shown.modelinfo or {})
    assert info["source"] == {"type": "huggingface", "repo_id": source.repo_id, "revision": source.revision}
    assert info["resolved"]["commit_sha"] == pulled
    assert info["capabilities"]["max_context"] == info["chronos-bolt.context_length"] == can.max_context
    assert info["general.architecture"] == "chronos-bolt"
    assert shown.details == listed(client)[NAME].details
    assert shown.modified_at == listed(client)[NAME].modified_at


def test_show_of_a_model_without_files(client: ollama.Client) -> None:
    shown = client.show("seasonal-naive")
    assert str(shown.license).splitlines()[0] == "Apache-2.0"
    assert "FROM seasonal-naive" in str(shown.modelfile)
    assert dict(shown.modelinfo or {})["resolved"] is None


def test_ps_tells_of_what_is_loaded_and_until_when(client: ollama.Client) -> None:
    client.generate("mock", keep_alive="20m")
    (model,) = [model for model in client.ps().models if model.name == "mock"]
    assert timedelta(minutes=19) < model.expires_at - datetime.now(UTC) <= timedelta(minutes=20)
    assert (model.size_vram, model.details.family) == (0, "mock")
    assert model.digest == listed(client)["mock"].digest
    assert model.context_length == find("mock").capabilities.max_context
    client.generate("mock", keep_alive=-1)
    (model,) = [model for model in client.ps().models if model.name == "mock"]
    assert model.expires_at.year == 9999
    assert client.generate("mock", keep_alive=0).done_reason == "unload"
    assert "mock" not in {model.name for model in client.ps().models}


def test_delete(client: ollama.Client, pulled: str) -> None:
    assert client.delete(NAME).status == "success"
    assert NAME not in listed(client)
    with pytest.raises(ollama.ResponseError, match="is not installed") as again:
        client.delete(NAME)
    assert again.value.status_code == 404


@pytest.mark.parametrize("verb", ["show", "delete", "pull", "generate"])
def test_an_unknown_model_is_404_with_a_sentence(client: ollama.Client, verb: str) -> None:
    with pytest.raises(ollama.ResponseError, match="No model named nothing is known") as refused:
        getattr(client, verb)("nothing")
    assert refused.value.status_code == 404


def test_a_known_model_that_is_not_pulled_is_404(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="known but not installed") as refused:
        client.show("chronos-bolt-base")
    assert refused.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="is not installed"):
        client.delete("chronos-bolt-base")


def test_what_is_part_of_tollama_cannot_be_deleted(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="part of tollama") as refused:
        client.delete("mock")
    assert refused.value.status_code == 404


@pytest.mark.parametrize("stream", [False, True])
def test_a_licence_that_is_not_accepted_is_409(client: ollama.Client, stream: bool) -> None:
    with pytest.raises(ollama.ResponseError, match="has to be accepted first") as refused:
        list(client.pull(GATED, stream=stream))
    assert refused.value.status_code == 409


def test_a_hub_that_fails_is_502(client: ollama.Client, hub: LoopbackHub, commit: str) -> None:
    source = find(NAME).source  # other weights, which no test before this one has left in the cache
    hub.add(str(source.repo_id), FILES | {"model.safetensors": b"other" * 50_000}, str(source.revision))
    hub.corrupt = {"model.safetensors"}
    try:
        with pytest.raises(ollama.ResponseError, match="not what the hub said") as refused:
            client.pull(NAME)
        assert refused.value.status_code == 502
        with pytest.raises(ollama.ResponseError, match="not what the hub said"):
            list(client.pull(NAME, stream=True))
    finally:
        hub.corrupt = set()
    assert NAME not in listed(client)


def test_the_asynchronous_client(base: str, commit: str) -> None:
    async def all_of_it() -> None:
        client = ollama.AsyncClient(host=base, trust_env=False)
        statuses = [line.status async for line in await client.pull(NAME, stream=True)]
        assert statuses[-1] == "success"
        assert (await client.pull(NAME)).status == "success"
        assert NAME in {model.model for model in (await client.list()).models}
        assert (await client.show(NAME)).license == LICENSE.decode()
        await client.generate("mock")
        assert "mock" in {model.name for model in (await client.ps()).models}
        assert (await client.delete(NAME)).status == "success"
        with pytest.raises(ollama.ResponseError, match="known but not installed"):
            await client.show(NAME)

    asyncio.run(all_of_it())


def test_head_requests(base: str, server: Server) -> None:
    for path in ("/", "/api/version", "/api/tags"):
        answer = server.http.head(f"{base}{path}")
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"] == server.http.get(f"{base}{path}").headers["content-type"]


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/api/show"), ("DELETE", "/api/delete"), ("POST", "/api/generate")]
)
@pytest.mark.parametrize("body", [b"", b"{", b"{}", b'{"model": ""}', b'{"model": 5}', b"[]"])
def test_a_body_that_is_none(base: str, server: Server, method: str, path: str, body: bytes) -> None:
    answer = server.http.request(method, f"{base}{path}", content=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")


def test_the_name_may_be_said_as_older_clients_say_it(base: str, server: Server) -> None:
    for body in ({"name": "mock"}, {"model": "mock", "verbose": True, "system": ""}):
        assert server.http.post(f"{base}/api/show", json=body).json()["name"] == "mock"
