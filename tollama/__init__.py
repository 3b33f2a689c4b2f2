"""tollama: Ollama for time-series foundation models.

The names here are the public ones; each is imported when it is first used, so ``import tollama`` stays cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tollama.version import __version__ as __version__

if TYPE_CHECKING:
    from tollama.client import Client
    from tollama.contract import ForecastRequest, ForecastResponse, SeriesForecast, SeriesInput
    from tollama.errors import TollamaError

__all__ = [
    "Client",
    "ForecastRequest",
    "ForecastResponse",
    "SeriesForecast",
    "SeriesInput",
    "TollamaError",
    "__version__",
]

_HOMES = {"Client": "client", "TollamaError": "errors"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'tollama' has no attribute {name!r}")
    return getattr(import_module(f"tollama.{_HOMES.get(name, 'contract')}"), name)
