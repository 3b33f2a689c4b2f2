"""How code gets into a family's environment: links to tollama's two packages and to the family's own, nothing else."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from tollama.errors import ConfigError
from tollama.version import __version__

OURS = ("tollama", "deployments")


def linked_code(run: Path, adapters: Iterable[str]) -> Path:
    """A folder with links to the packages that ``adapters`` (``module:Class``) need, to be a family's PYTHONPATH.

    Named after what it points to, so two versions of the code never share one. Raises :class:`ConfigError` for an
    adapter whose package is not installed beside the server.
    """
    names = sorted({*OURS, *(adapter.partition(":")[0].partition(".")[0] for adapter in adapters)})
    packages = [_place(name) for name in names]
    told = "\n".join([__version__, *map(str, packages)])
    folder = run / "code" / hashlib.sha256(told.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    for package in packages:
        link = folder / package.name
        if not link.is_symlink():
            fresh = folder / f".{package.name}.{os.getpid()}"
            fresh.symlink_to(package)
            fresh.replace(link)
    return folder


def _place(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ConfigError(f"The package {name!r} of a family is not installed beside the server.")
    place = Path(spec.origin).resolve()
    return place.parent if place.name == "__init__.py" else place
