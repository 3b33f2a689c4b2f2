"""What every adapter on torch does alike: versions, ping, start-up, weights that must be there, and the way out."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tollama.errors import RunnerFailed
from tollama.rescale import WARNING, Rescaling
from tollama.seam import ItemFailure, ItemForecast, Placement

NOT_FINITE = RunnerFailed("The model gave a forecast that is not finite.", hint="Leave the series out.")
TOO_LARGE = RunnerFailed("The forecast is too large for 64-bit numbers.", hint="Send the series in a larger unit.")
COMPILER = ("torch._dynamo",)
"""To put off: torch's compiler. Libraries mark functions for it, and none of ours compiles any."""
TRANSFORMERS = (
    *COMPILER,
    "accelerate",
    "pandas",
    "scipy.optimize",
    "torch.distributed.tensor",
    "transformers.distributed.expert_parallel",
    "transformers.distributed.tensor_parallel",
)
"""To put off beside transformers: models spread over machines, the losses of image models, and tables: arrays come and
go here."""
GRANITE = (
    *TRANSFORMERS,
    *(
        f"tsfm_public.toolkit.{name}"
        for name in (
            "callbacks",
            "data_handling",
            "dataset",
            "get_model",
            "lr_finder",
            "recursive_predictor",
            "time_series_anomaly_detection_pipeline",
            "time_series_classification_pipeline",
            "time_series_classification_preprocessor",
            "time_series_forecasting_pipeline",
            "time_series_imputation_pipeline",
            "time_series_preprocessor",
            "util",
        )
    ),
)
"""To put off beside tsfm_public: all that its toolkit offers."""


def versions(*names: str) -> Mapping[str, str]:
    """Versions of the distributions ``names``, and of torch."""
    return {name: version(name) for name in (*names, "torch")}


def ping() -> None:
    """Raises when the CUDA context has gone bad: every call into the driver fails then. Waits for no kernel."""
    # While another thread imports torch, it is there without most of its names.
    cuda = sys.modules.get("torch.cuda")
    if cuda is not None and getattr(cuda, "is_initialized", bool)():
        cuda.mem_get_info()


def start(placement: Placement) -> Any:
    """The module torch, with as many threads as the placement says and no way to a hub."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    import torch

    torch.set_num_threads(placement.threads)
    return torch


def use_threads(threads: int) -> None:
    """What the calling thread computes takes so many threads: torch keeps the number for each thread by itself."""
    sys.modules["torch"].set_num_threads(threads)


def quiet_transformers() -> None:
    """No progress bars and no advice from transformers."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def quiet_granite() -> None:
    """Import tsfm_public, which else sets up the root logger, and have no advice from it."""
    quiet_transformers()
    logging.getLogger("tsfm_public").setLevel(logging.ERROR)
    handled = logging.NullHandler()  # with a handler there, ``logging.basicConfig`` does nothing
    logging.root.addHandler(handled)
    try:
        import tsfm_public  # noqa: F401
    finally:
        logging.root.removeHandler(handled)


def release(device: str) -> None:
    """After the last reference to a model went: give its memory back."""
    gc.collect()
    if device == "cuda":
        sys.modules["torch"].cuda.empty_cache()
    # glibc keeps freed weights in its heap: 1.3 GB of TimesFM 3.0 stayed without this. Other C libraries have no such
    # function and need none.
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def stored(snapshot: str | None) -> set[str]:
    """The names of the weights in the snapshot's safetensors."""
    from safetensors import safe_open

    names: set[str] = set()
    for file in Path(snapshot or "").glob("*.safetensors"):
        with safe_open(file, framework="numpy") as tensors:
            names |= set(tensors.keys())
    return names


def require_weights(network: Any, snapshot: str | None, *, shared: Iterable[str] = ()) -> None:
    """Raises ValueError when the snapshot's safetensors lack weights of ``network``.

    Libraries fill weights that they do not find with random numbers; these would be random forecasts. ``shared`` are
    the names (or ends of names) of one tensor that is stored under one of them.
    """
    there = stored(snapshot)
    missing = set(network.state_dict()) - there
    same = {name for name in missing | there if name.endswith(tuple(shared))} if shared else set()
    if same & there:
        missing -= same
    if missing:
        raise ValueError(f"the snapshot lacks {len(missing)} of the model's weights")


def seed_of(seed: int, series_id: str) -> int:
    """A series' own seed, whatever its neighbours are: the first 8 bytes of the SHA-256 of ``<seed>:<series id>``."""
    return int.from_bytes(sha256(f"{seed}:{series_id}".encode()).digest()[:8], "big")


@contextmanager
def seeded(seed: int, series_id: str, device: str) -> Iterator[None]:
    """Within, torch's random numbers start from :func:`seed_of`; after, they go on as if nothing had been."""
    import torch

    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device == "cuda" else []):
        torch.manual_seed(seed_of(seed, series_id))
        yield


def answers(
    values: NDArray[np.float64], scales: Sequence[Rescaling | None], notes: Sequence[str] = ()
) -> list[ItemForecast | ItemFailure]:
    """``values`` (B, 1 + Q, H), the point first, back on each item's scale; one that is not finite is a failure."""
    done: list[ItemForecast | ItemFailure] = []
    for given, scale in zip(values, scales, strict=True):
        forecast = given if scale is None else scale.restore(given)
        if np.isfinite(forecast).all():
            told = (*notes, WARNING) if scale is not None else tuple(notes)
            done.append(ItemForecast(forecast[0], forecast[1:], told))
        else:
            fault = NOT_FINITE if not np.isfinite(given).all() else TOO_LARGE
            done.append(ItemFailure(fault.record))
    return done
