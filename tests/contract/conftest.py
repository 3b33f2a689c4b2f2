"""One client per way in, and models whose capabilities the tests choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from tests.hub import EMBEDDED, entry
from tests.serving import Server, request
from tollama.capabilities import Capabilities, Covariates, Option, Quantiles
from tollama.store import Home, Manifest, Resolved, Store, StoredLicense

OPTIONS = {
    "seed": Option(type="int", default=0),
    "extrapolate_quantiles": Option(type="bool", default=False),
    "context_length": Option(type="int", minimum=1, maximum=16),
}
NARROW = Capabilities(
    max_context=16,
    min_context=5,
    max_horizon=8,
    native_horizon=4,
    quantiles=Quantiles(native=(0.2, 0.5, 0.8), method="interpolated"),
    covariates=Covariates(past_numeric=True),
    options=OPTIONS,
    point="median",
)
POINT = Capabilities(max_context=512, max_horizon=8, quantiles=Quantiles(method="conformal"), options=OPTIONS)


def install(store: Store, name: str, capabilities: Capabilities = POINT, family: str = "mock") -> None:
    """A model without files, as if it had been pulled."""
    known, now = entry(name, source=EMBEDDED), datetime.now(UTC)
    manifest = Manifest(
        name=name,
        family=family,
        adapter="mock",
        source=known.source,
        resolved=Resolved(commit_sha=""),
        size_bytes=0,
        files=(),
        pulled_at=now,
        installed_at=now,
        license=StoredLicense(id="test"),
        capabilities=capabilities,
        defaults=known.defaults,
        requires=known.requires,
        details=known.details,
    )
    store.install(manifest, store.staging(name))


@pytest.fixture(scope="package", autouse=True)
def installed(server: Server) -> Iterator[None]:
    """``narrow`` can do little, ``pointed`` has no quantiles of its own, ``ghost`` is of a family that is not there."""
    store = Store(Home(server.home))
    models = {"narrow": (NARROW, "mock"), "pointed": (POINT, "mock"), "ghost": (NARROW, "ghosts")}
    for name, (capabilities, family) in models.items():
        install(store, name, capabilities, family)
    yield
    for name in models:
        store.remove(name)


@pytest.fixture(scope="package")
def clients(server: Server) -> Iterator[dict[str, httpx.Client]]:
    """A client per way in."""
    made = {base: httpx.Client(base_url=base, timeout=120) for base in (server.door, server.proxy)}
    yield made
    for client in made.values():
        client.close()


@pytest.fixture
def api(base: str, clients: dict[str, httpx.Client]) -> httpx.Client:
    """The client of the way in that the test is run for."""
    return clients[base]


@pytest.fixture
def ask(api: httpx.Client) -> Callable[..., httpx.Response]:
    """``ask(horizon=5)``: a small forecast of the mock model, with changes."""

    def forecast(path: str = "/v1/forecast", **changes: Any) -> httpx.Response:
        return api.post(path, json=request(**changes))

    return forecast
