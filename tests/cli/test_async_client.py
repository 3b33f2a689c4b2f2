"""The awaited client: the same methods as the other, the same answers, the same errors."""

from __future__ import annotations

import asyncio
import inspect
import re
from typing import Any

import pandas as pd
import pytest

from tests.cli.fake_server import Fake
from tollama import AsyncClient, Client, errors
from tollama.answers import Readiness

REQUEST: dict[str, Any] = {
    "model": "naive",
    "horizon": 3,
    "series": [{"id": "a", "target": [1.0, float("nan"), 3.0], "start": "2024-01-01", "freq": "D"}],
}
TABLE = pd.DataFrame({"ds": pd.date_range("2024-01-01", periods=4, freq="D"), "y": [1.0, 2.0, 3.0, 4.0]})


def public(kind: type) -> dict[str, Any]:
    return {name: value for name, value in vars(kind).items() if not name.startswith("_") and callable(value)}


def test_both_clients_have_the_same_methods_and_every_one_of_the_first_is_described() -> None:
    waits, awaited = public(Client), public(AsyncClient)
    assert list(waits) == list(awaited)
    for name, method in waits.items():
        ours, theirs = inspect.signature(method), inspect.signature(awaited[name])
        assert ours.parameters == theirs.parameters, name
        assert re.sub(r"\bIterator", "AsyncIterator", str(ours.return_annotation)) == str(theirs.return_annotation), (
            name
        )
        assert method.__doc__, name


def test_the_same_answers(fake: Fake) -> None:
    simple = ("health", "ready", "version", "info", "metrics", "models", "tags", "ps")
    named = ("model", "capabilities", "show", "load", "unload")

    async def awaited() -> list[Any]:
        async with AsyncClient(fake.url) as client:
            found = [await getattr(client, name)() for name in simple]
            found += [await getattr(client, name)("naive") for name in named]
            found += [await getattr(client, name)(REQUEST) for name in ("validate", "forecast")]
            found += [[line async for line in client.forecast_stream(REQUEST)]]
            found += [[line async for line in client.pull("small")]]
            found += [await client.delete("small")]
            found += [(await client.forecast_frame(TABLE, "naive", 2)).to_dict()]
            return found

    with Client(fake.url) as client:
        found: list[Any] = [getattr(client, name)() for name in simple]
        found += [getattr(client, name)("naive") for name in named]
        found += [getattr(client, name)(REQUEST) for name in ("validate", "forecast")]
        found += [list(client.forecast_stream(REQUEST)), list(client.pull("small")), client.delete("small")]
        found += [client.forecast_frame(TABLE, "naive", 2).to_dict()]
    assert asyncio.run(awaited()) == found


def test_the_same_pull(fake: Fake) -> None:
    way = {"token": "hf_mine", "endpoint": "http://hub.example", "proxy": "http://proxy.example:3128", "offline": True}

    async def awaited() -> None:
        async with AsyncClient(fake.url) as client:
            async for _ in client.pull("small", **way):  # type: ignore[arg-type]
                pass

    asyncio.run(awaited())
    assert fake.pulls == [{"model": "small", "stream": True, **way}]


def test_the_same_of_a_server_that_is_not_well(fake: Fake) -> None:
    fake.unwell = {"status": "unwell", "checks": {"ingress": "draining", "store": "ok", "disk": "ok", "families": {}}}

    async def awaited() -> Readiness:
        async with AsyncClient(fake.url) as client:
            return await client.ready()

    with Client(fake.url) as client:
        assert asyncio.run(awaited()) == client.ready()
    assert asyncio.run(awaited()).status == "unwell"


def test_the_same_errors(fake: Fake) -> None:
    async def awaited() -> None:
        async with AsyncClient(fake.url, api_key="k") as client:
            with pytest.raises(errors.ModelNotFound) as unknown:
                await client.capabilities("nothing")
            assert (unknown.value.hint, unknown.value.request_id) == ("Did you mean small?", "r-1")
            with pytest.raises(errors.LicenseNotAccepted):
                [line async for line in client.pull("gated")]
            fake.cut = True
            with pytest.raises(errors.HubUnavailable):
                [line async for line in client.pull("small")]
        async with AsyncClient("127.0.0.1:9") as nobody:
            with pytest.raises(errors.ServerUnreachable):
                await nobody.version()

    asyncio.run(awaited())


def test_frames_in_and_out(fake: Fake) -> None:
    with Client(fake.url) as client:
        found = client.forecast_frame(TABLE, "naive", 2, quantiles=[0.5], keep_alive="1m")
        assert list(found.columns) == ["ds", "mean", "0.5"]
        assert found["ds"].tolist() == [pd.Timestamp("2024-01-05"), pd.Timestamp("2024-01-06")]
        assert (fake.forecasts[-1]["quantiles"], fake.forecasts[-1]["keep_alive"]) == ([0.5], "1m")
        named = pd.concat([TABLE.assign(shop=shop) for shop in (7, 3)])
        found = client.forecast_frame(named, "naive", 1, id_column="shop", target_column="y")
        assert found["shop"].tolist() == [7, 3]
        series = TABLE.set_index("ds")["y"]
        assert list(client.forecast_frame(series, "naive", 1).columns) == ["ds", "mean", "0.1", "0.5", "0.9"]
