"""Nothing runs without its licence's receipt, whatever the family and the route; it is looked for each time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.contract.checks import refused
from tests.serving import Server, request
from tollama import licenses
from tollama.registry import registry
from tollama.store import Home

GATED = {entry.family: entry for entry in reversed(registry().values()) if entry.license.needs_acceptance}
"""One model of each family that has one to be accepted; none is installed."""

ROUTES: dict[str, Callable[[httpx.Client, str], httpx.Response]] = {
    "/v1/forecast": lambda api, name: api.post("/v1/forecast", json=request(model=name)),
    "/v1/forecast, streamed": lambda api, name: api.post("/v1/forecast", json=request(model=name, stream=True)),
    "/api/forecast": lambda api, name: api.post("/api/forecast", json=request(model=name, stream=False)),
    "/api/forecast, streamed": lambda api, name: api.post("/api/forecast", json=request(model=name)),
    "/api/validate": lambda api, name: api.post("/api/validate", json=request(model=name)),
    "/v1/validate": lambda api, name: api.post("/v1/validate", json=request(model=name)),
    "/api/generate": lambda api, name: api.post("/api/generate", json={"model": name}),
    "/v1/models/{name}/load": lambda api, name: api.post(f"/v1/models/{name}/load"),
}


@pytest.fixture(params=sorted(GATED))
def gated(request: pytest.FixtureRequest, server: Server) -> Iterator[Any]:
    """The family's model, without a receipt before and after."""
    entry = GATED[request.param]
    path = server.home / "licenses" / f"{entry.name}.json"
    path.unlink(missing_ok=True)
    yield entry
    path.unlink(missing_ok=True)


def test_there_is_one_of_each_family_of_weights() -> None:
    assert set(GATED) == {"torch", "timesfm", "uni2ts"}


def test_no_route_runs_a_model_whose_receipt_is_gone(api: httpx.Client, server: Server, gated: Any) -> None:
    for route, post in ROUTES.items():
        found = refused(post(api, gated.name), 409, "LICENSE_NOT_ACCEPTED")
        assert found["hint"] == f"tollama pull {gated.name} --accept-license", route
    licenses.accept(Home(server.home), gated.name, gated.license)
    for post in ROUTES.values():
        refused(post(api, gated.name), 404, "MODEL_NOT_INSTALLED")
    (server.home / "licenses" / f"{gated.name}.json").unlink()
    for post in ROUTES.values():
        assert refused(post(api, gated.name), 409, "LICENSE_NOT_ACCEPTED")["detail"]["license"] == gated.license.id
