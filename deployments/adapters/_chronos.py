"""What the three kinds of Chronos share: how their library loads a snapshot, and what a pipeline tells of itself."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deployments.adapters import _torch
from tollama.capabilities import Capabilities
from tollama.seam import ModelRef, Placement


@dataclass(slots=True)
class Loaded:
    """A loaded model; ``pipeline`` is the library's, None once unloaded."""

    pipeline: Any
    device: str

    @property
    def native(self) -> tuple[float, ...]:
        """The levels that the model gives."""
        return tuple(self.pipeline.quantiles)


def versions() -> Mapping[str, str]:
    return _torch.versions("chronos-forecasting", "transformers")


def capabilities(model: Loaded, declared: Capabilities) -> Capabilities:
    """``declared``, with the lengths and levels that the loaded model says."""
    pipeline = model.pipeline
    told: dict[str, Any] = {
        "max_context": pipeline.model_context_length,
        "native_horizon": pipeline.model_prediction_length,
    }
    if declared.quantiles.native:
        told["quantiles"] = declared.quantiles.model_copy(update={"native": model.native})
    return declared.model_copy(update=told)


def load(ref: ModelRef, placement: Placement, kind: str) -> Any:
    """The pipeline of the snapshot. Raises ValueError when it is not one of the library's class ``kind``."""
    _torch.start(placement)
    from chronos.base import BaseChronosPipeline

    _torch.quiet_transformers()
    # That long horizons are rolled out is told before the run.
    warnings.filterwarnings("ignore", message="We recommend keeping prediction length")
    pipeline = BaseChronosPipeline.from_pretrained(
        ref.snapshot,
        device_map=placement.device,
        torch_dtype=placement.dtype,
        local_files_only=True,
        use_safetensors=True,
    )
    if type(pipeline).__name__ != kind:
        raise ValueError(f"a model for {type(pipeline).__name__}, not for {kind}")
    return pipeline


def unload(model: Loaded) -> None:
    """Let go of the weights."""
    model.pipeline = None
    _torch.release(model.device)
