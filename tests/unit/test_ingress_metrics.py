"""Several processes make one page; what is gone keeps what it counted; nothing without bound is a label."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import values
from prometheus_client.parser import text_string_to_metric_families as parse
from prometheus_client.values import close_all_multiprocess_files
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from deployments.ingress.desk import Desk
from deployments.ingress.measured import Measured
from deployments.ingress.metrics import METRICS, Metrics, prepare
from deployments.messages import Call, Result
from tests.serving import CHECKOUT
from tollama.errors import ModelNotFound
from tollama.seam import Task

CALL = Call("mock", "", b"", (b"", b""), 3, Task(1, (), {}), 0.0, 0.0, "")
OTHER = """
import sys
from pathlib import Path
from types import SimpleNamespace
from deployments.ingress.metrics import Metrics

metrics = Metrics(Path(sys.argv[1]), ["mock"])
metrics.requests.labels("/v1/forecast", "mock", "200").inc(5)
client = SimpleNamespace(waiting=4, in_flight=2)
supervision = SimpleNamespace(restarts={("mock", "hang"): 2})
metrics.refresh(SimpleNamespace(families={"mock": client}, supervision=supervision))
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The values' folder; afterwards the library is as it was."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    yield tmp_path
    close_all_multiprocess_files()


@pytest.fixture
def other(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that counts in the folder."""
    env = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-c", OTHER, str(folder)]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


def desk(waiting: int = 0, in_flight: int = 0, **restarts: int) -> Desk:
    """As much of a desk as the metrics look at: one family, and deaths by reason."""
    found = {("mock", reason): number for reason, number in restarts.items()}
    client = SimpleNamespace(waiting=waiting, in_flight=in_flight)
    return cast(Desk, SimpleNamespace(families={"mock": client}, supervision=SimpleNamespace(restarts=found)))


def result(**changes: Any) -> Result:
    given: dict[str, Any] = {"load_ms": 0.0, "inference_ms": 20.0, "batch_series": 3, "queue_ms": 0.0}
    return Result(parts=(), device="cpu", peak_memory_mb=0.0, **given | changes)


def samples(page: bytes) -> dict[str, float]:
    """``name{label="value",...}`` -> value."""
    found = {}
    for family in parse(page.decode()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


REQUESTS = 'tollama_requests_total{model="mock",route="/v1/forecast",status="200"}'
HANGS = 'tollama_restarts_total{family="mock",reason="hang"}'
DEPTH = 'tollama_queue_depth{family="mock"}'


def test_a_page_adds_up_all_processes_and_keeps_what_a_killed_one_counted(
    folder: Path, other: subprocess.Popen[bytes]
) -> None:
    metrics = Metrics(folder, ["mock"])
    metrics.requests.labels("/v1/forecast", "mock", "200").inc(2)
    metrics.refresh(desk(waiting=1, in_flight=1, hang=1))
    page = samples(metrics.page({}))
    assert (page[REQUESTS], page[HANGS], page[DEPTH]) == (7, 3, 5)
    other.kill()
    other.wait()
    page = samples(metrics.page({}))
    assert (page[REQUESTS], page[HANGS], page[DEPTH]) == (7, 3, 1)
    assert page['tollama_in_flight{family="mock"}'] == 1
    assert metrics.restarts() == {"mock": {"hang": 3}}


def leave_dead(folder: Path, pid: int) -> None:
    """The files of a process that counted what this one has, and is gone."""
    for path in list(folder.glob(f"*_{os.getpid()}.db")):
        shutil.copy(path, folder / f"{path.stem.rpartition('_')[0]}_{pid}.db")


def counting(folder: Path) -> Metrics:
    """Two forecasts counted, of a second each."""
    metrics = Metrics(folder, ["mock"])
    metrics.requests.labels("/v1/forecast", "mock", "200").inc(2)
    for _ in range(2):
        metrics.request_seconds.labels("/v1/forecast").observe(1.0)
    return metrics


def test_files_of_dead_processes_are_folded_into_one_of_each_kind(folder: Path) -> None:
    metrics = counting(folder)
    for dead in (3, 5):
        for number in range(dead):
            leave_dead(folder, 10**8 + number)
        page = samples(metrics.page({}))
        ids = {path.stem.rpartition("_")[2] for path in folder.glob("*.db")}
        assert ids == {str(os.getpid()), "dead"}
    assert page[REQUESTS] == 2 * 9
    assert page['tollama_request_seconds_count{route="/v1/forecast"}'] == 2 * 9
    assert page['tollama_request_seconds_sum{route="/v1/forecast"}'] == pytest.approx(2 * 9)
    assert page['tollama_request_seconds_bucket{le="0.5",route="/v1/forecast"}'] == 0
    assert page['tollama_request_seconds_bucket{le="1.0",route="/v1/forecast"}'] == 2 * 9
    assert samples(metrics.page({}))[REQUESTS] == 2 * 9


@pytest.mark.parametrize("steps", range(14))
def test_a_fold_that_was_cut_short_is_finished_or_begun_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    metrics = counting(folder)
    for number in range(3):
        leave_dead(folder, 10**8 + number)

    class Killed(BaseException):
        pass

    left = steps

    def until(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return real(*args, **kwargs)

        return step

    with monkeypatch.context() as patch:
        for name in ("rename", "unlink", "write_text"):
            patch.setattr(Path, name, until(getattr(Path, name)))
        with suppress(Killed):
            metrics.page({})
    page = samples(metrics.page({}))
    assert page[REQUESTS] == page['tollama_request_seconds_count{route="/v1/forecast"}'] == 2 * 4


def test_pages_that_bury_the_same_dead_at_once_all_come_out(folder: Path) -> None:
    metrics = counting(folder)
    for number in range(30):
        leave_dead(folder, 10**8 + number)
    with ThreadPoolExecutor(6) as pool:
        pages = list(pool.map(lambda _: samples(metrics.page({})), range(18)))
    assert {page[REQUESTS] for page in pages} == {2 * 31}
    assert {page[DEPTH] for page in pages} == {0}


def test_deaths_are_counted_once(folder: Path) -> None:
    metrics = Metrics(folder, ["mock"])
    for crashes in (1, 1, 3, 3):
        metrics.refresh(desk(crash=crashes))
    assert samples(metrics.page({}))['tollama_restarts_total{family="mock",reason="crash"}'] == 3


def test_a_file_that_was_begun_and_no_more_harms_no_page(folder: Path) -> None:
    metrics = Metrics(folder, ["mock"])
    (folder / "counter_1.db").touch()
    (folder / "histogram_1.db").write_bytes(bytes(65536))
    assert samples(metrics.page({}))[DEPTH] == 0


def test_a_start_empties_the_folder_unless_an_ingress_lives(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = prepare(tmp_path / "new" / "metrics")
    (folder / "counter_1.db").touch()
    (folder / "1.alive").touch()
    assert list(prepare(folder).iterdir()) == []
    metrics = Metrics(folder, [])
    (folder / "counter_1.db").touch()
    assert (prepare(folder) / "counter_1.db").exists()
    del metrics


def test_every_metric_is_on_a_page_under_its_name(folder: Path) -> None:
    metrics = Metrics(folder, ["mock"])
    metrics.requests.labels("/metrics", "", "200").inc()
    metrics.request_seconds.labels("/metrics").observe(0.1)
    metrics.family("mock").answered(CALL, result(load_ms=5.0, load_first=True))
    model = {"state": "loaded", "memory_mb": 2.5, "vram_mb": 0.0}
    report = {"replica": "mock-1", "models": [model, {**model, "state": "loading"}]}
    page = metrics.page({"mock": [report], "torch": []})
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page.decode(), re.MULTILINE))
    assert kinds == {name: metric.kind for name, metric in METRICS.items()}
    texts = dict(re.findall(r"^# HELP (\S+) (.+)$", page.decode(), re.MULTILINE))
    assert texts == {name: metric.text for name, metric in METRICS.items()}
    found = samples(page)
    assert found['tollama_loaded_models{family="mock"}'] == 1
    assert found['tollama_loaded_models{family="torch"}'] == 0
    assert found['tollama_memory_bytes{family="mock",replica="mock-1"}'] == 5e6
    assert found['tollama_vram_bytes{family="mock",replica="mock-1"}'] == 0
    for family in parse(page.decode()):
        total = family.name + ("_total" if family.type == "counter" else "")
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(METRICS[total].labels)


def test_a_load_counts_once_for_all_who_waited_for_it(folder: Path) -> None:
    metrics = Metrics(folder, ["mock"])
    family = metrics.family("mock")
    # Of the two that waited for the first load, another ingress replica may have had the one that is marked.
    for load_ms, first in ((12.5, True), (12.5, False), (0.0, False), (12.5, True)):
        family.answered(CALL, result(load_ms=load_ms, load_first=first))
    alone = Call("mock", "", b"", (b"",), 0, CALL.task, 0.0, 0.0, "")
    family.answered(alone, result(load_ms=14.0, load_first=True))
    page = samples(metrics.page({}))
    assert page['tollama_load_seconds_count{model="mock"}'] == 3
    assert page['tollama_inference_seconds_count{model="mock"}'] == 4
    assert page['tollama_inference_seconds_sum{model="mock"}'] == pytest.approx(0.08)
    assert page['tollama_batch_size_bucket{family="mock",le="2.0"}'] == 0
    assert page['tollama_batch_size_bucket{family="mock",le="4.0"}'] == 4


def test_pulls_are_counted_by_outcome_and_bytes(folder: Path) -> None:
    metrics = Metrics(folder, [])

    async def pull(*statuses: dict[str, Any], read: int = 99) -> None:
        async def lines() -> AsyncGenerator[dict[str, Any]]:
            for status in statuses:
                yield status

        counted = metrics.pulling(lines())
        for _ in range(min(read, len(statuses))):
            await anext(counted)
        await counted.aclose()

    def at(completed: int, digest: str = "a") -> dict[str, Any]:
        return {"status": "pulling", "digest": digest, "total": 100, "completed": completed}

    asyncio.run(pull(at(0), at(40), at(0, "b"), at(100), at(7, "b"), {"status": "success"}))
    asyncio.run(pull(at(60), at(100), {"error": "The hub.", "code": "HUB_UNAVAILABLE"}))  # 60 were there already
    asyncio.run(pull(at(0), at(1), at(2), {"status": "success"}, read=2))
    page = samples(metrics.page({}))
    outcomes = {outcome: page[f'tollama_pulls_total{{outcome="{outcome}"}}'] for outcome in ("success", "aborted")}
    assert outcomes == {"success": 1, "aborted": 1}
    assert page['tollama_pulls_total{outcome="HUB_UNAVAILABLE"}'] == 1
    assert page["tollama_pull_bytes_total"] == 107 + 40 + 1


def client(metrics: Metrics) -> TestClient:
    async def plain(request: Request) -> Response:
        return PlainTextResponse("", int(request.query_params.get("status", 200)))

    async def named(request: Request) -> Response:
        request.state.model = "mock"
        return PlainTextResponse("")

    async def broken(request: Request) -> Response:
        raise RuntimeError

    def known(name: str) -> str:
        if name.lower() != "mock":
            raise ModelNotFound("No.")
        return name.lower()

    routes = [
        Route("/plain", plain, methods=["GET"]),
        Route("/named", named),
        Route("/broken", broken),
        Route("/models/{name}", plain),
        Route("/models/{name}/load", plain),
    ]
    app = Starlette(routes=routes)
    app.add_middleware(Measured, metrics=metrics, routes=routes, known=known)
    return TestClient(app, raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("path", "labels"),
    [
        ("/plain?x=1", ("/plain", "", 200)),
        ("/plain?status=503", ("/plain", "", 503)),
        ("/named", ("/named", "mock", 200)),
        ("/broken", ("/broken", "", 500)),
        ("/models/MOCK", ("/models/{name}", "mock", 200)),
        ("/models/no-such-model", ("/models/{name}", "", 200)),
        ("/models/mock/load", ("/models/{name}/load", "mock", 200)),
        ("/models/models/load", ("/models/{name}/load", "", 200)),
        ("/wp-login.php", ("", "", 404)),
        ("/plain/../etc/passwd", ("", "", 404)),
    ],
)
def test_requests_are_counted_by_template_known_model_and_status(
    folder: Path, path: str, labels: tuple[str, str, int]
) -> None:
    metrics = Metrics(folder, [])
    api = client(metrics)
    for _ in range(2):
        api.get(path)
    page = samples(metrics.page({}))
    route, model, status = labels
    counted = {name: value for name, value in page.items() if name.startswith("tollama_requests_total")}
    assert counted == {f'tollama_requests_total{{model="{model}",route="{route}",status="{status}"}}': 2}
    assert page[f'tollama_request_seconds_count{{route="{route}"}}'] == 2


def test_a_wrong_method_is_the_routes(folder: Path) -> None:
    metrics = Metrics(folder, [])
    client(metrics).post("/plain")
    assert 'tollama_requests_total{model="",route="/plain",status="405"}' in samples(metrics.page({}))


def test_who_leaves_before_an_answer_is_499(folder: Path) -> None:
    metrics = Metrics(folder, [])

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    async def leave() -> None:
        scope = {"type": "http", "path": "/plain", "endpoint": waits}
        task = asyncio.ensure_future(Measured(waits, metrics, (), str)(scope, None, None))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert samples(metrics.page({}))['tollama_requests_total{model="",route="/plain",status="499"}'] == 1
