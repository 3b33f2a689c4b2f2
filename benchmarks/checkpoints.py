"""Checkpoints of the published sizes with random weights, made once and kept in a folder."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks import environments
from tollama.registry import find


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model of the registry, what builds it (``module:name``, the module one beside ``tests/families``), and the
    parameters that the published one has."""

    model: str
    builder: str
    parameters: int

    def folder(self, cache: Path) -> Path:
        """The folder of its files, which are built if they are not there.

        Raises RuntimeError when they do not have the published number of parameters.
        """
        module, _, name = self.builder.partition(":")
        folder = cache / name
        if not folder.exists():
            cache.mkdir(parents=True, exist_ok=True)
            part = cache / f"{name}.part"
            shutil.rmtree(part, ignore_errors=True)
            environments.run(find(self.model).family, (f"{module}:build", {"name": name, "folder": str(part)}))
            part.rename(folder)
        found = _parameters(folder / "model.safetensors")
        if found != self.parameters:
            raise RuntimeError(f"{folder} has {found:,} parameters, {self.model} has {self.parameters:,}.")
        return folder


def _parameters(file: Path) -> int:
    """The numbers in a file of safetensors, by its header."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
