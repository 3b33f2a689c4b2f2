"""The scenarios that the product's roadmap promises (its section 14), one test each, by their names there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import Inside
from tests.contract.checks import lines, refused
from tests.families.test_adapters import SUBJECTS
from tests.hub import LoopbackHub
from tests.serving import RUNTIMES, TOLLAMA, Server, request, series, wait_for
from tollama.registry import find

NAME = "chronos-bolt-tiny"
GATED = "moirai-2.0-r-small"
OTHER_GATED = "moirai-1.1-r-small"
MOCK = "ServeReplica:tollama:mock"
FILES: dict[str, bytes | Path] = {"config.json": b"{}", "model.safetensors": b"weights" * 5000}
SECRET = "hf_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6"


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory, hub: LoopbackHub) -> Iterator[Server]:
    """A server without the big families' runtimes; the hub in its config file, a token in its environment."""
    folder = tmp_path_factory.mktemp("seed")
    (folder / "runtimes").mkdir()
    for family in RUNTIMES.glob("baseline*"):
        (folder / "runtimes" / family.name).symlink_to(family)
    (folder / "home").mkdir()
    (folder / "home/config.json").write_text(json.dumps({"hf_endpoint": hub.url}))
    with Server(
        folder / "home",
        TOLLAMA_RUNTIMES_DIR=str(folder / "runtimes"),
        TOLLAMA_HF_TOKEN=SECRET,
        TOLLAMA_RESTART_MAX="1",
        TOLLAMA_RESTART_BACKOFF="3",
        TOLLAMA_FAMILY_LINGER="1",
        HTTPS_PROXY="http://user:open-sesame@127.0.0.1:9",
    ) as running:
        yield running


@pytest.fixture
def offered(hub: LoopbackHub, seed: Server) -> Iterator[str]:
    """A model on the hub; removed from the server afterwards. Its commit."""
    source = find(NAME).source
    yield hub.add(str(source.repo_id), FILES, str(source.revision))
    seed.http.delete(f"{seed.door}/v1/models/{NAME}")


def pull(seed: Server, path: str = "/api/pull", **changes: object) -> httpx.Response:
    return seed.post(path, {"name": NAME, "no_runtime": True, **changes})


def test_forecast_success(seed: Server) -> None:
    answer = seed.forecast(model="seasonal-naive", horizon=2)
    assert answer.status_code == 200, answer.text
    (forecast,) = answer.json()["forecasts"]
    assert len(forecast["mean"]) == 2
    assert set(forecast["quantiles"]) == {"0.1", "0.5", "0.9"}


def test_schema_failure_is_400(seed: Server) -> None:
    found = refused(seed.post("/v1/forecast", {"model": "mock", "horizon": "3"}), 400, "INVALID_REQUEST")
    assert {tuple(fault["loc"]) for fault in found["detail"]} == {("horizon",), ("series",)}


def test_missing_model_is_404(seed: Server) -> None:
    refused(seed.forecast(model="nothing"), 404, "MODEL_NOT_FOUND")
    refused(seed.forecast(model=NAME), 404, "MODEL_NOT_INSTALLED")


def test_licence_not_accepted_is_409(seed: Server) -> None:
    found = refused(seed.forecast(model=GATED), 409, "LICENSE_NOT_ACCEPTED")
    assert f"tollama pull {GATED} --accept-license" in found["hint"]
    refused(seed.post("/api/pull", {"name": GATED, "stream": False}), 409, "LICENSE_NOT_ACCEPTED")


def test_runner_unavailable_is_503(seed: Server, offered: str) -> None:
    assert pull(seed, stream=False).status_code == 200
    found = refused(seed.forecast(model=NAME), 503, "RUNNER_UNAVAILABLE")
    assert found["hint"] == "tollama runtime install torch"


def test_runner_call_failure_is_502(seed: Server) -> None:
    refused(seed.forecast(options={"fail": "raise"}), 502, "RUNNER_FAILED")
    assert seed.forecast().status_code == 200


def test_runner_protocol_failure_is_502(seed: Server) -> None:
    """What is no forecast (not finite) never passes for one."""
    refused(seed.forecast(options={"fail": "non_finite"}), 502, "RUNNER_FAILED")
    assert seed.forecast().status_code == 200


def command(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line beside the server."""
    return subprocess.run(
        [str(TOLLAMA), *arguments], env=server.environment, capture_output=True, text=True, timeout=120
    )


def test_cli_licence_acceptance_ux(seed: Server, hub: LoopbackHub) -> None:
    """Refused with the way to go on, shown, accepted by the flag: then the model is there, and its receipt."""
    source = find(OTHER_GATED).source
    hub.add(str(source.repo_id), FILES, str(source.revision))
    refused_ = command(seed, "pull", OTHER_GATED, "--no-runtime")
    assert refused_.returncode == 1
    assert refused_.stderr.splitlines()[-1] == f"Hint: tollama pull {OTHER_GATED} --accept-license"
    assert find(OTHER_GATED).license.id in command(seed, "show", OTHER_GATED, "--license").stdout
    assert OTHER_GATED not in command(seed, "list").stdout
    assert command(seed, "pull", OTHER_GATED, "--no-runtime", "--accept-license").returncode == 0
    assert OTHER_GATED in command(seed, "list").stdout
    assert json.loads((seed.home / f"licenses/{OTHER_GATED}.json").read_text())["name"] == OTHER_GATED
    assert command(seed, "rm", OTHER_GATED).returncode == 0


@pytest.mark.parametrize("name", ["timesfm-3.0", "moirai-2.0-r-small"])
def test_timesfm_and_uni2ts_forecast_paths(
    name: str, server: Server, hub: LoopbackHub, inside: Inside, tmp_path: Path
) -> None:
    """A small checkpoint of the real architecture, pulled and asked; its numbers have tests of their own."""
    module, _, checkpoint = str(SUBJECTS[name].checkpoint).partition(":")
    inside(find(name).family, (f"{module}:build", {"name": checkpoint, "folder": str(tmp_path / "made")}))
    source = find(name).source
    hub.add(str(source.repo_id), {path.name: path for path in (tmp_path / "made").iterdir()}, str(source.revision))
    pulled = server.post("/v1/models/pull", {"name": name, "accept_license": True})
    assert pulled.json() == {"status": "success"}, pulled.text
    try:
        answer = server.forecast(model=name, horizon=4, series=[series(n=96)], keep_alive=0)
        assert answer.status_code == 200, answer.text
        (forecast,) = answer.json()["forecasts"]
        assert [len(values) for values in (forecast["mean"], *forecast["quantiles"].values())] == [4] * 4
        assert forecast["start_timestamp"] == "2029-01-01T00:00:00"
        assert answer.json()["usage"]["runner"] == find(name).family
    finally:
        assert server.http.delete(f"{server.door}/v1/models/{name}", timeout=60).status_code == 200
        (server.home / "licenses" / f"{name}.json").unlink(missing_ok=True)  # other tests are to be asked


def test_restart_backoff(seed: Server) -> None:
    assert seed.forecast(keep_alive="1m").status_code == 200
    answers: list[httpx.Response] = []
    slow = threading.Thread(target=lambda: answers.append(seed.forecast(options={"delay_s": 30.0})))
    slow.start()
    wait_for(lambda: any(model["in_use"] for model in seed.ps() if model["name"] == "mock"))
    (pid,) = seed.processes(MOCK)
    os.kill(pid, signal.SIGKILL)
    slow.join(60)
    refused(answers[0], 502, "RUNNER_FAILED")
    held = seed.forecast()
    found = refused(held, 503, "RUNNER_UNAVAILABLE")
    assert "ended its process once" in found["error"]
    assert 1 <= int(held.headers["retry-after"]) <= 3
    assert seed.forecast(model="seasonal-naive").status_code == 200, "nobody else is held back"
    wait_for(lambda: seed.forecast().status_code == 200, 30, "the model's recovery")


def test_idle_timeout(seed: Server) -> None:
    """By itself, with no request that would look at the clock: the model goes, then its process."""
    assert seed.forecast(keep_alive=0.5).status_code == 200
    assert seed.processes(MOCK)
    wait_for(lambda: not seed.processes(MOCK), 20, "the end of the idle process")
    assert "mock" not in {model["name"] for model in seed.ps()}


def test_pull_streams_ndjson(seed: Server, offered: str) -> None:
    with seed.http.stream("POST", f"{seed.door}/api/pull", json={"name": NAME, "no_runtime": True}) as answer:
        statuses = [line["status"] for line in lines(answer)]
    assert statuses[0] == "pulling manifest"
    assert statuses[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
    assert any(status.startswith("pulling ") and len(status) == 20 for status in statuses)


def test_pull_without_a_stream(seed: Server, offered: str) -> None:
    assert pull(seed, stream=False).json() == {"status": "success"}
    assert pull(seed, "/v1/models/pull").json() == {"status": "success"}


def test_pull_defaults_come_from_config_and_environment(seed: Server, hub: LoopbackHub, offered: str) -> None:
    """The endpoint is the config file's, the token the environment's."""
    before = hub.asked("GET", NAME)
    assert pull(seed, stream=False).status_code == 200
    assert hub.asked("GET", NAME) > before
    config = seed.get("/api/info").json()["config"]
    assert config["hf_endpoint"]["source"] == "config"
    assert config["hf_token"]["source"] == "environment"


def test_diagnostics_are_redacted(seed: Server) -> None:
    for path in ("/api/info", "/v1/info"):
        text = seed.get(path).text
        assert SECRET not in text
        assert "open-sesame" not in text
        assert "hf_token" in text


def test_the_default_launch_command_is_the_runtimes_own_interpreter(seed: Server) -> None:
    assert seed.forecast(model="seasonal-naive", keep_alive="1m").status_code == 200
    (pid,) = seed.processes("ServeReplica:tollama:baseline")
    environ = Path(f"/proc/{pid}/environ").read_bytes().decode()
    assert f"TOLLAMA_HOME={seed.home}" in environ
    mapped = Path(f"/proc/{pid}/maps").read_text()
    assert str((RUNTIMES / "baseline/current").resolve()) in mapped
    assert seed.forecast(model="seasonal-naive", keep_alive=0).status_code == 200


def test_capabilities_endpoint(seed: Server) -> None:
    told = seed.get(f"/v1/models/{NAME}/capabilities").json()
    assert told == find(NAME).capabilities.model_dump(mode="json")
    refused(seed.get("/v1/models/nothing/capabilities"), 404, "MODEL_NOT_FOUND")


def test_family_feature_preflight(seed: Server, offered: str) -> None:
    """What a model cannot do is told before it runs, here even before its runtime is there."""
    assert pull(seed, stream=False).status_code == 200
    covariate = series(past_covariates={"price": [1.0] * 24}, future_covariates={"price": [1.0] * 3})
    strict = {"covariates_mode": "strict"}
    body = request(model=NAME, series=[covariate], parameters=strict)
    refused(seed.post("/v1/forecast", body), 400, "UNSUPPORTED_BY_MODEL")
    limit = find(NAME).capabilities.max_horizon
    refused(seed.forecast(model=NAME, horizon=limit + 1), 400, "UNSUPPORTED_BY_MODEL")


def test_a_licence_receipt_is_kept(seed: Server, hub: LoopbackHub) -> None:
    source = find(GATED).source
    hub.add(str(source.repo_id), FILES, str(source.revision))
    body = {"name": GATED, "accept_license": True, "no_runtime": True, "stream": False}
    assert seed.post("/api/pull", body).json() == {"status": "success"}
    receipt = json.loads((seed.home / f"licenses/{GATED}.json").read_text())
    assert (receipt["name"], receipt["license"]) == (GATED, find(GATED).license.id)
    assert seed.http.delete(f"{seed.door}/v1/models/{GATED}").status_code == 200
    assert (seed.home / f"licenses/{GATED}.json").exists(), "it survives the model"
    assert seed.post("/api/pull", body | {"accept_license": False}).json() == {"status": "success"}
    seed.http.delete(f"{seed.door}/v1/models/{GATED}")
