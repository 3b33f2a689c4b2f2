"""Weights in safetensors, as files: what their header says, and whether they are whole. Nothing is loaded."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from tollama.errors import UnsupportedRepository
from tollama.registry import Details

MAX_HEADER = 100_000_000
"""Bytes of a header at most, as in the format's own library."""


def details(snapshot: Path) -> Details:
    """What is shown of the model with the weights in ``snapshot``.

    Raises :class:`UnsupportedRepository` when one of its files is no whole safetensors.
    """
    numbers: Counter[str] = Counter()
    for path in sorted(snapshot.glob("*.safetensors")):
        try:
            numbers += _numbers(path)
        except (ValueError, TypeError, KeyError, RecursionError):
            raise UnsupportedRepository(
                "Its weights are not in safetensors, or not whole.", detail=path.name, hint="Save the model again."
            ) from None
    ((dtype, _),) = numbers.most_common(1) or [("", 0)]
    return Details(format="safetensors", parameter_size=_short(numbers.total()), quantization_level=dtype)


def _numbers(path: Path) -> Counter[str]:
    """How many numbers of each type the file holds. Raises when its header does not fit its length."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise ValueError("no header")
        tensors: dict[str, Any] = json.loads(file.read(length))
    tensors.pop("__metadata__", None)
    found: Counter[str] = Counter()
    end = 0
    for tensor in tensors.values():
        found[str(tensor["dtype"])] += math.prod(int(side) for side in tensor["shape"])
        end = max(end, int(tensor["data_offsets"][1]))
    if 8 + length + end != size:
        raise ValueError("another length")
    return found


def _short(count: int) -> str:
    """A number of parameters as models are called by it: 8.7M, 205M, 1.2B."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)
