"""The client of :mod:`tollama.client` for asyncio: the same methods, awaited; streams by ``async for``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx

from tollama import calls
from tollama.answers import Health, ModelDetail, ModelList, Readiness, Removed, Validation
from tollama.calls import Call, Request
from tollama.capabilities import Capabilities
from tollama.client import base_url, opened
from tollama.contract import ForecastLine, ForecastResponse, LoadResponse
from tollama.protocols.ollama import Running, Show, Status, Tag

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")


class AsyncClient:
    """As :class:`tollama.Client`, for asyncio; each method does there what it does here::

    async with AsyncClient() as client:
        print((await client.forecast(request)).forecasts[0].mean)
    """

    def __init__(self, host: str | None = None, api_key: str | None = None, timeout: float | None = None) -> None:
        self.url = base_url(host)
        self._timeout = timeout
        self._http = opened(httpx.AsyncClient, self.url, api_key)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ask(self, call: Call[T]) -> T:
        with calls.on_the_way(self.url):
            return call.answer(await self._http.request(**call.arguments()))

    async def _stream(self, call: Call[T]) -> AsyncIterator[T]:
        with calls.on_the_way(self.url):
            async with self._http.stream(**call.arguments()) as response:
                if response.status_code >= 400:
                    await response.aread()
                    calls.raise_for(response)
                async for line in response.aiter_lines():
                    for read in call.line(line, response):
                        yield read

    async def health(self) -> Health:
        return await self.ask(calls.health())

    async def ready(self) -> Readiness:
        return await self.ask(calls.ready())

    async def version(self) -> str:
        return await self.ask(calls.version())

    async def info(self) -> dict[str, Any]:
        return await self.ask(calls.info())

    async def metrics(self) -> str:
        return await self.ask(calls.metrics())

    async def models(self) -> ModelList:
        return await self.ask(calls.models())

    async def model(self, name: str) -> ModelDetail:
        return await self.ask(calls.model(name))

    async def capabilities(self, name: str) -> Capabilities:
        return await self.ask(calls.capabilities(name))

    async def show(self, name: str) -> Show:
        return await self.ask(calls.show(name))

    async def tags(self) -> list[Tag]:
        return await self.ask(calls.tags())

    async def ps(self) -> list[Running]:
        return await self.ask(calls.ps())

    async def load(
        self,
        name: str,
        keep_alive: float | str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the server's, not ours
    ) -> LoadResponse:
        return await self.ask(calls.load(name, keep_alive, timeout, self._timeout))

    async def unload(self, name: str) -> LoadResponse:
        return await self.ask(calls.unload(name))

    async def delete(self, name: str) -> Removed:
        return await self.ask(calls.delete(name))

    def pull(
        self,
        name: str,
        *,
        accept_license: bool = False,
        revision: str | None = None,
        local_name: str | None = None,
        offline: bool | None = None,
        no_runtime: bool = False,
        token: str | None = None,
        endpoint: str | None = None,
        proxy: str | None = None,
        license_sha256: str | None = None,
    ) -> AsyncIterator[Status]:
        flags: dict[str, Any] = {"accept_license": accept_license, "offline": offline, "no_runtime": no_runtime}
        flags["license_sha256"] = license_sha256
        way: dict[str, Any] = {"token": token, "endpoint": endpoint, "proxy": proxy}
        return self._stream(calls.pull(name, revision=revision, local_name=local_name, **flags, **way))

    async def validate(self, request: Request) -> Validation:
        return await self.ask(calls.validate(request, self._timeout))

    async def forecast(self, request: Request) -> ForecastResponse:
        return await self.ask(calls.forecast(request, self._timeout))

    def forecast_stream(self, request: Request) -> AsyncIterator[ForecastLine]:
        return self._stream(calls.forecast_stream(request, self._timeout))

    async def forecast_frame(
        self,
        frame: pd.DataFrame | pd.Series[Any],
        model: str,
        horizon: int,
        *,
        id_column: str | None = None,
        time_column: str | None = None,
        target_column: str | None = None,
        known_future: tuple[str, ...] = (),
        freq: str = "auto",
        **more: Any,
    ) -> pd.DataFrame:
        columns = {"id": id_column, "time": time_column, "target": target_column, "known_future": known_future}
        return await self.ask(calls.forecast_frame(frame, model, horizon, columns, freq, more, self._timeout))
