"""FlowState: a state-space model that is told how many steps make a season; nine quantiles in one pass.

The season sets the clock: the model sees about 85 seasons of history and horizon together, whatever their steps.
Series of one length and season go in one call, as padding is not neutral to a state-space model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.adapters import _lazy, _torch
from tollama.capabilities import Capabilities
from tollama.errors import InvalidSeries
from tollama.quantiles import at_levels
from tollama.rescale import rescaling
from tollama.seam import Item, ItemFailure, ItemForecast, ModelRef, Placement, Task

STEPS = 16 * 1024
"""Steps of history and horizon of one tensor call, over all of its series (measured: 55 kB each for r1); more at once
bring nothing on a CPU (5.3 series/s at 1, 4.7 at 32)."""
CHUNK = {"cpu": 4, "cuda": 64}
"""Series of one forecast call: at 512 steps they take 0.2 s each on two cores, however many they are."""
BASE_SEASON = 24.0
"""Steps of the season at scale 1 (``tsfm_public.models.flowstate.utils``)."""
NO_SEASON = 4
"""Steps of the season where there is none: the library's own choice for years."""
LONGEST = 16 * 1024
"""Steps that the library reads at most, at any scale."""

Floats = NDArray[np.float64]


@dataclass(slots=True)
class Flow:
    """A loaded model; ``network`` is a ``FlowStateForPrediction``, None once unloaded."""

    network: Any
    placement: Placement


@dataclass(frozen=True, slots=True)
class Clock:
    """What the model can do at one ``season``: ``patch`` steps without masking, ``window`` steps in all."""

    scale: float
    patch: int
    window: int

    @classmethod
    def of(cls, season: int, context_length: int, patch_length: int) -> Clock:
        """The clock of a model of those two lengths, which hold at scale 1."""
        scale = BASE_SEASON / (season if season > 1 else NO_SEASON)
        # The library rounds patch_length / scale down in two ways; they agree for the number just below.
        if int(patch_length / scale) != int(patch_length / scale + 1e-6):
            scale = math.nextafter(scale, 0.0)
        return cls(scale, int(patch_length / scale + 1e-6), min(LONGEST, int(context_length / scale)))

    def ask(self, steps: int) -> int:
        """The steps to ask for: one more where the library would else give too few."""
        return steps + (steps > self.patch > 1 and (steps + 1) % self.patch == 0)

    def reads(self, steps: int) -> int:
        """Steps of history that the library reads when it forecasts ``steps``."""
        return self.window - max(0, self.ask(steps) - self.patch)


class FlowState:
    """Adapter ``flowstate``."""

    chunk = CHUNK["cpu"]

    def hello(self) -> Mapping[str, str]:
        return _torch.versions("granite-tsfm", "transformers")

    def ping(self) -> None:
        _torch.ping()

    def capabilities(self, model: Flow, declared: Capabilities) -> Capabilities:
        config = model.network.config
        native = declared.quantiles.model_copy(update={"native": tuple(config.quantiles)})
        return declared.model_copy(
            update={"max_context": config.context_length, "quantiles": native, "point": config.prediction_type}
        )

    @_lazy.put_off(*_torch.GRANITE)
    def load(self, ref: ModelRef, placement: Placement) -> Flow:
        """Raises ValueError for a snapshot that lacks weights. The weights stay in float32 whatever ``dtype`` says:
        the recurrence is in complex numbers, which have no half precision."""
        _torch.start(placement)
        self.chunk = CHUNK[placement.device]
        _torch.quiet_granite()
        from tsfm_public.models.flowstate import FlowStateForPrediction

        network = FlowStateForPrediction.from_pretrained(ref.snapshot, local_files_only=True, use_safetensors=True)
        _torch.require_weights(network, ref.snapshot)
        model = Flow(network.to(placement.device), placement)
        clock = Clock.of(24, network.config.context_length, network.config.decoder_patch_len)
        _predict(model, np.zeros((1, 48)), clock, 24)
        return model

    def unload(self, model: Flow) -> None:
        model.network = None
        _torch.release(model.placement.device)

    def forecast(self, model: Flow, items: Sequence[Item], task: Task) -> list[ItemForecast | ItemFailure]:
        config = model.network.config
        groups: dict[tuple[int, int], list[int]] = {}
        for index, item in enumerate(items):
            season = task.options.get("season_length") or item.season_length
            groups.setdefault((item.target.size, season), []).append(index)
        answers: dict[int, ItemForecast | ItemFailure] = {}
        for (size, season), members in groups.items():
            clock = Clock.of(season, config.context_length, config.decoder_patch_len)
            rows = max(1, STEPS // (size + task.horizon))
            for start in range(0, len(members), rows):
                chosen = members[start : start + rows]
                done = _forecast(model, [items[index] for index in chosen], clock, task)
                answers.update(zip(chosen, done, strict=True))
        return [answers[index] for index in range(len(items))]


def _forecast(model: Flow, items: list[Item], clock: Clock, task: Task) -> list[ItemForecast | ItemFailure]:
    """Forecasts of series of one length."""
    steps = min(task.horizon, clock.window)
    reads, size = clock.reads(steps), items[0].target.size
    notes = []
    if reads < size:
        notes.append(f"At this season and horizon the model reads the newest {reads} steps of {size}.")
    if steps < task.horizon:
        notes.append(f"At this season the model gives {steps} steps in one pass; those beyond are rolled out.")
    histories = np.stack([item.target[-reads:] for item in items])
    known = [bool(np.isfinite(history).any()) for history in histories]
    answers = iter(_rolled_out(model, histories[known], clock, task, tuple(notes)) if any(known) else ())
    return [next(answers) if seen else _unseen(item, reads) for item, seen in zip(items, known, strict=True)]


def _unseen(item: Item, reads: int) -> ItemFailure:
    fault = InvalidSeries(
        f"Series {item.id!r} holds no value in its last {reads} steps, which the model reads.",
        series_id=item.id,
        field="target",
        hint="Send at least one number in them, ask for a shorter horizon, or leave the series out.",
    )
    return ItemFailure(fault.record)


def _rolled_out(
    model: Flow, histories: Floats, clock: Clock, task: Task, notes: tuple[str, ...]
) -> list[ItemForecast | ItemFailure]:
    scales = [rescaling(history) for history in histories]
    for history, scale in zip(histories, scales, strict=True):
        if scale is not None:
            history[:] = scale.apply(history)
    native = tuple(model.network.config.quantiles)
    parts: list[Floats] = []
    left = task.horizon
    while left:
        steps = min(left, clock.window)
        point, quantiles = _predict(model, histories, clock, steps)
        parts.append(np.concatenate([point[:, None], at_levels(quantiles, native, task.quantiles)], axis=1))
        histories = np.concatenate([histories, at_levels(quantiles, native, (0.5,))[:, 0]], axis=1)
        left -= steps
    return _torch.answers(np.concatenate(parts, axis=2), scales, notes)


def _predict(model: Flow, histories: Floats, clock: Clock, steps: int) -> tuple[Floats, Floats]:
    """Point (B, steps) and native quantiles (B, Q, steps) of ``histories`` (B, T)."""
    import torch

    histories = histories[:, -clock.reads(steps) :]
    if histories.shape[1] == 1:  # of one step the library cannot make a kernel; a missing one before it says no more
        histories = np.pad(histories, ((0, 0), (1, 0)), constant_values=np.nan)
    values = torch.from_numpy(histories.astype(np.float32)[..., None]).to(model.placement.device)
    with torch.inference_mode():
        out = model.network(
            values, prediction_length=clock.ask(steps), scale_factor=clock.scale, batch_first=True, return_dict=True
        )
    point, quantiles = out.prediction_outputs[:, :steps, 0], out.quantile_outputs[:, :, :steps, 0]
    return point.double().cpu().numpy(), quantiles.double().cpu().numpy()
