"""Which model a name means, and whether it may run: the checks between the schema and the graph.

An installed model is what its manifest says; the registry is consulted only for what is not installed, so a registry
edit never changes an installed model. Embedded models (no weights) need no manifest.
"""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from tollama import licenses, version
from tollama.capabilities import Capabilities
from tollama.errors import ModelNotInstalled, RunnerUnavailable
from tollama.registry import Entry, canonical_name, find, registry
from tollama.seam import ModelRef
from tollama.store import Broken, Home, Manifest, Store
from tollama.version import __version__


@dataclass(frozen=True)
class Model:
    """A known model: its registry entry, its manifest, or both. ``installed`` is true of embedded models too."""

    name: str
    entry: Entry | None
    manifest: Manifest | None

    @property
    def about(self) -> Entry | Manifest:
        """Where what is true of the model stands: the manifest when installed, else the registry entry."""
        found = self.manifest or self.entry
        assert found is not None
        return found

    @property
    def embedded(self) -> bool:
        return self.manifest is None and self.about.source.type == "embedded"

    @property
    def installed(self) -> bool:
        return self.manifest is not None or self.embedded

    @property
    def family(self) -> str:
        return self.about.family

    @property
    def capabilities(self) -> Capabilities:
        return self.about.capabilities

    @property
    def snapshot(self) -> Path | None:
        """The folder of its files; none for what has none."""
        return self.manifest.snapshot if self.manifest is not None else None

    @property
    def size_bytes(self) -> int:
        """Bytes on the disk; none for an embedded model."""
        return self.manifest.size_bytes if self.manifest is not None else 0

    @property
    def modified_at(self) -> datetime:
        """When it was installed; an embedded model came with this version of tollama."""
        if self.manifest is not None:
            return self.manifest.installed_at
        return datetime.fromtimestamp(Path(version.__file__).stat().st_mtime, UTC)

    @cached_property
    def fits(self) -> bool:
        """Whether this version of tollama is one that the model asks for."""
        return SpecifierSet(self.about.requires.tollama).contains(__version__, prereleases=True)

    @cached_property
    def digest(self) -> str:
        """64 hex digits that tell one snapshot of a model from another."""
        if self.manifest is not None:
            return self.manifest.digest
        return hashlib.sha256(self.about.model_dump_json().encode()).hexdigest()

    @cached_property
    def ref(self) -> bytes:
        """The pickled :class:`ModelRef` that a family loads it by."""
        about = self.about
        snapshot = str(self.snapshot) if self.snapshot is not None else None
        return pickle.dumps(
            ModelRef(self.name, about.family, about.adapter, snapshot, self.digest, about.capabilities), protocol=5
        )


def mending(name: str) -> str:
    """What mends a broken model: only one of the registry can be pulled by a name whose manifest cannot be read."""
    if name in registry():
        return f"tollama pull {name}"
    return f"tollama rm {name}, then pull it again as hf:ORG/NAME or with --from-dir"


class Catalog:
    """The models of one home."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.store = Store(home)
        self._known: dict[str, tuple[Any, Model]] = {}

    def find(self, name: str) -> Model:
        """The model of that name, in any letter case. Raises :class:`ModelNotFound` with the closest names."""
        name = canonical_name(name)
        return self._model(name, self.store.get(name))

    def _model(self, name: str, manifest: Manifest | None) -> Model:
        known = self._known.get(name)
        if known is None or known[0] is not manifest:
            entry = registry().get(name)
            if manifest is None and entry is None:
                find(name)
            known = self._known[name] = (manifest, Model(name, entry, manifest))
        return known[1]

    def runnable(self, name: str) -> Model:
        """The model, if it may run: known, its licence accepted, its files here. In this order."""
        model = self.find(name)
        about = model.about
        licenses.require(self.home, model.name, about.license, about.source, snapshot=model.snapshot)
        if not model.installed:
            raise ModelNotInstalled(
                f"The model {model.name!r} is known but not installed.", hint=f"tollama pull {model.name}"
            )
        if not model.fits:
            raise RunnerUnavailable(
                f"The model {model.name!r} needs tollama {model.about.requires.tollama}; this is {__version__}.",
                hint="Upgrade tollama.",
            )
        return model

    def accepted(self, model: Model) -> bool:
        """Whether the model may run as far as its licence goes."""
        return licenses.accepted(self.home, model.name, model.about.license, model.about.source)

    def available(self) -> list[Model]:
        """Every model of the registry."""
        return [self.find(name) for name in registry()]

    def installed(self) -> list[Model]:
        """Every model that can run: embedded ones and those with a manifest."""
        embedded = {model.name: model for model in self.available() if model.embedded}
        stored = {
            found.name: self._model(found.name, found) for found in self.store.all() if isinstance(found, Manifest)
        }
        return [model for _, model in sorted((embedded | stored).items())]

    def broken(self) -> dict[str, str]:
        """Name -> what is wrong, for each installed model whose manifest cannot be read."""
        return {found.name: found.reason for found in self.store.all() if isinstance(found, Broken)}
