"""tollama: Ollama for time-series foundation models.

The names here are the public ones; each is imported when it is first used, so ``import tollama`` stays cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tollama.version import __version__ as __version__

if TYPE_CHECKING:
    from tollama.async_client import AsyncClient
    from tollama.capabilities import Capabilities
    from tollama.client import Client
    from tollama.contract import (
        ForecastLine,
        ForecastRequest,
        ForecastResponse,
        SeriesFailure,
        SeriesForecast,
        SeriesInput,
    )
    from tollama.errors import TollamaError

__all__ = [
    "AsyncClient",
    "Capabilities",
    "Client",
    "ForecastLine",
    "ForecastRequest",
    "ForecastResponse",
    "SeriesFailure",
    "SeriesForecast",
    "SeriesInput",
    "TollamaError",
    "__version__",
]

_HOMES = {
    "AsyncClient": "async_client",
    "Capabilities": "capabilities",
    "Client": "client",
    "TollamaError": "errors",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'tollama' has no attribute {name!r}")
    return getattr(import_module(f"tollama.{_HOMES.get(name, 'contract')}"), name)


def __dir__() -> list[str]:
    return __all__
