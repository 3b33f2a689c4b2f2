"""How tollama's own code gets into a family's environment: links to its two packages, nothing else of the server."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import tollama
from tollama.version import __version__


def linked_code(run: Path) -> Path:
    """A folder with links to ``tollama`` and ``deployments``, to be a family's PYTHONPATH.

    Named after what it points to, so two versions of the code never share one.
    """
    packages = [Path(tollama.__file__).parent, Path(__file__).parent]
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
