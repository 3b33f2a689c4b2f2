"""The client against a server: every method, every kind of failure."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from tests.cli.fake_server import DIGEST, Fake
from tollama import errors
from tollama.client import Client
from tollama.contract import ForecastRequest, SeriesForecast, SeriesInput

REQUEST: dict[str, Any] = {
    "model": "naive",
    "horizon": 3,
    "series": [{"id": "a", "target": [1.0, float("nan"), 3.0], "start": "2024-01-01", "freq": "D"}],
}


@pytest.fixture
def client(fake: Fake) -> Client:
    return Client(fake.url)


def test_reading_methods(client: Client) -> None:
    assert client.health().status == "ok"
    assert client.ready().checks.store == "ok"
    assert client.version() == "9.9.9"
    assert client.info()["versions"]["tollama"] == "9.9.9"
    assert client.metrics() == "tollama_up 1\n"
    assert [model.name for model in client.models().installed] == ["naive"]
    manifest = client.model("naive").manifest
    assert manifest is not None
    assert manifest.resolved.commit_sha == "c" * 40
    assert client.model("small").manifest is None
    assert client.show("naive").license == "The text of apache-2.0.\n"
    assert client.capabilities("naive").max_horizon == 1024
    assert client.tags()[0].digest == DIGEST
    assert client.ps()[0].context_length == 2048


def test_a_server_that_is_not_well_says_why(client: Client, fake: Fake) -> None:
    fake.unwell = {
        "status": "unwell",
        "checks": {"ingress": "ok", "store": "not writable", "disk": "ok", "families": {}},
    }
    told = client.ready()
    assert told.status == "unwell"
    assert told.checks is not None
    assert told.checks.store == "not writable"
    fake.unwell = {"status": "unwell"}  # to who has no key
    assert client.ready().checks is None
    fake.unwell = errors.RunnerUnavailable("Nobody is there.").record.body()
    with pytest.raises(errors.RunnerUnavailable, match="Nobody is there"):
        client.ready()
    fake.unwell = {"surprise": 1}
    with pytest.raises(errors.TollamaError, match="not what this client understands"):
        client.ready()


def test_forecast_takes_a_mapping_and_sends_nan_as_missing(client: Client, fake: Fake) -> None:
    answer = client.forecast(REQUEST)
    assert isinstance(answer.forecasts[0], SeriesForecast)
    assert answer.forecasts[0].mean == [3.0, 3.0, 3.0]
    assert answer.warnings == ["Series 'a' has missing values."]
    assert fake.forecasts[0]["stream"] is False


def test_forecast_takes_a_request_object_and_sends_only_what_was_set(client: Client, fake: Fake) -> None:
    series = SeriesInput(id="a", target=[1.0, 2.0], start="2024-01-01", freq="D")
    client.forecast(ForecastRequest(model="naive", horizon=2, series=[series]))
    assert set(fake.forecasts[0]) == {"model", "horizon", "series", "stream"}


def test_forecast_stream_yields_progress_and_then_the_answer(client: Client) -> None:
    lines = list(client.forecast_stream(REQUEST))
    assert [line.status for line in lines] == ["queued", "running forecast", ""]
    assert [line.done for line in lines] == [False, False, True]
    assert lines[-1].response is not None
    assert lines[-1].response.model == "naive"


def test_validate(client: Client) -> None:
    assert client.validate(REQUEST).warnings == []


def test_pull_then_delete(client: Client, fake: Fake) -> None:
    statuses = [event.status for event in client.pull("small", revision="abc")]
    assert statuses[0] == "pulling manifest"
    assert statuses[-1] == "success"
    assert fake.pulls == [{"model": "small", "stream": True, "revision": "abc"}]
    assert client.delete("small").removed is True
    assert "small" not in fake.installed


def test_a_pull_by_a_way_of_its_own(client: Client, fake: Fake) -> None:
    way = {"token": "hf_mine", "endpoint": "http://hub.example", "proxy": "http://proxy.example:3128", "offline": False}
    list(client.pull("small", **way))  # type: ignore[arg-type]
    assert fake.pulls == [{"model": "small", "stream": True, **way}]


def test_load_and_unload(client: Client, fake: Fake) -> None:
    answer = client.load("naive", keep_alive="10m")
    assert (answer.model, answer.done, answer.done_reason) == ("naive", True, "load")
    assert fake.loaded["naive"] == {"keep_alive": "10m"}
    client.load("naive", keep_alive=0, timeout=20)
    assert fake.loaded["naive"] == {"keep_alive": 0, "timeout": 20}
    client.load("naive")
    assert fake.loaded["naive"] == {}
    assert client.unload("naive").done_reason == "unload"
    assert fake.loaded == {}
    with pytest.raises(errors.LicenseNotAccepted):
        client.load("gated")


def test_server_errors_come_back_as_their_own_class(client: Client, fake: Fake) -> None:
    with pytest.raises(errors.InvalidRequest) as refused:
        client.forecast(REQUEST | {"horizon": "3", "extra": 1})
    assert {fault["loc"][0] for fault in refused.value.detail} == {"horizon", "extra"}
    assert refused.value.request_id == "r-1"
    with pytest.raises(errors.ModelNotFound, match="no such model") as unknown:
        client.capabilities("nothing")
    assert unknown.value.hint == "Did you mean small?"
    with pytest.raises(errors.LicenseNotAccepted):
        list(client.pull("gated"))
    with pytest.raises(errors.ModelNotInstalled):
        list(client.forecast_stream(REQUEST | {"model": "small"}))


def test_an_error_line_in_a_stream_is_raised(client: Client, fake: Fake) -> None:
    fake.cut = True
    events = client.pull("small")
    with pytest.raises(errors.HubUnavailable, match="could not be reached"):
        list(events)


def test_api_key(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.api_key = "secret"
    with pytest.raises(errors.Unauthorized):
        Client(fake.url).version()
    assert Client(fake.url, api_key="secret").version() == "9.9.9"
    monkeypatch.setenv("TOLLAMA_API_KEY", "secret")
    assert Client(fake.url).version() == "9.9.9"


def test_no_server_says_so_and_how_to_start_one() -> None:
    with socket.socket() as held:  # bound but not listening: nobody answers there
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        with pytest.raises(errors.TollamaError, match=f"No tollama server answers at http://127.0.0.1:{port}") as away:
            Client(f":{port}").version()
    assert away.value.hint == "Start one with: tollama serve"


def test_a_silent_server_is_a_deadline() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(errors.DeadlineExceeded):
            Client(f":{silent.getsockname()[1]}", timeout=0.05).forecast(REQUEST)


def test_another_server_on_the_port_is_recognised(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake, "get", lambda path: {"surprise": path})
    with pytest.raises(errors.TollamaError, match="not what this client understands"):
        Client(fake.url).capabilities("naive")


def test_a_proxy_in_the_environment_is_not_asked_for_loopback(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert Client(fake.url).version() == "9.9.9"
