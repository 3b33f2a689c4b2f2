"""Counts every request and how long it took: the outermost layer of the ingress, about 5 us a request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import Counter, Histogram
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.ingress.metrics import Metrics
from tollama.errors import TollamaError

CLIENT_LEFT = 499


class Measured:
    """ASGI middleware. ``routes`` are the application's, as their routers hold them; ``known`` gives a model's own
    name, or raises :class:`TollamaError`. A route names a model that it has found by ``request.state.model``."""

    def __init__(
        self, app: ASGIApp, metrics: Metrics, routes: Iterable[BaseRoute], known: Callable[[str], str]
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._known = known
        self._templates: dict[Any, list[Route]] = {}
        for route in routes:
            if isinstance(route, Route) and route.param_convertors:
                self._templates.setdefault(route.endpoint, []).append(route)
        self._counters: dict[tuple[str, str, int], Counter] = {}
        self._seconds: dict[str, Histogram] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 0

        def noted(message: Message) -> Any:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            return send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception:
            status = status or 500  # answered further out, by the handler of what nobody expected
            raise
        finally:
            self._count(scope, status or CLIENT_LEFT, time.perf_counter() - start)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = self._template(scope)
        key = (route, self._model(scope), status)
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = self._metrics.requests.labels(route, key[1], str(status))
            self._seconds[route] = self._metrics.request_seconds.labels(route)
        counter.inc()
        self._seconds[route].observe(seconds)

    def _template(self, scope: Scope) -> str:
        """The path as its route was declared: the raw one has no bound. Empty for what no route takes."""
        endpoint = scope.get("endpoint")
        if endpoint is None:
            return ""
        path: str = scope["path"]
        if not scope.get("path_params"):
            return path
        return next((route.path for route in self._templates.get(endpoint, ()) if route.path_regex.match(path)), "")

    def _model(self, scope: Scope) -> str:
        state: Mapping[str, Any] = scope.get("state") or {}
        if "model" in state:
            return str(state["model"])
        name = (scope.get("path_params") or {}).get("name")
        if name is None:
            return ""
        try:
            return self._known(name)
        except TollamaError:
            return ""
