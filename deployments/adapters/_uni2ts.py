"""What the adapters on uni2ts do alike: load a network, prepare a series, compute in the precision asked for."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stdout
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.adapters import _torch
from tollama.rescale import Rescaling, rescaling
from tollama.seam import ModelRef, Placement

if np.__version__.startswith("1."):
    # The server's numpy 2 pickles arrays by a function of this module, which numpy 1 has under its older name only.
    sys.modules.setdefault("numpy._core.numeric", import_module("numpy.core.numeric"))

UNUSED = (
    *_torch.COMPILER,
    "jax",
    "lightning.fabric.fabric",
    "lightning.pytorch.trainer.connectors",
    "lightning.pytorch.trainer.trainer",
    "scipy.stats",
    "torchmetrics",
    "uni2ts.model.moirai.finetune",
    "uni2ts.model.moirai.pretrain",
)
"""To put off beside uni2ts: training, the distributions of other models, and jax, which is there for annotations."""


def load(kind: Any, ref: ModelRef, placement: Placement) -> Any:
    """The network of class ``kind``, a ``PyTorchModelHubMixin``, from the snapshot's one file ``model.safetensors``.

    Raises ValueError when that lacks weights, FileNotFoundError when it is not there, TypeError for the configuration
    of another kind of model.
    """
    with redirect_stdout(io.StringIO()):  # the mixin prints that it loads
        network = kind.from_pretrained(ref.snapshot, local_files_only=True)
    _torch.require_weights(network, ref.snapshot)
    return network.to(placement.device)


def precision(placement: Placement) -> Any:
    """A context in which the layers compute in the placement's type.

    The networks normalise in float64 and float32 on their own, so the weights stay float32 and torch casts per layer.
    """
    import torch

    return torch.autocast(placement.device, torch.bfloat16, enabled=placement.dtype == "bfloat16")


def column(
    values: NDArray[np.float64], *, impute: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.bool_], Rescaling | None]:
    """``values`` (T,) in float32 with nothing missing, which of them were there, and how they were rescaled.

    What is missing becomes 0, or with ``impute`` the library's choice for its later models: the mean of all before.
    """
    known = ~np.isnan(values)
    scale = rescaling(values) if known.any() else None
    series = (values if scale is None else scale.apply(values)).astype(np.float32)
    if known.all():
        return series, known, scale
    if impute:
        from gluonts.transform import CausalMeanValueImputation

        with np.errstate(invalid="ignore"):  # the mean of no values, which it does not use
            return CausalMeanValueImputation()(series), known, scale
    return np.where(known, series, np.float32(0)), known, scale
