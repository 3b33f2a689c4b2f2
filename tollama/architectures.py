"""What a repository or folder holds that the registry does not know: read from its ``config.json`` by the registry's
``architectures``, which are data, as its models are; a family of a stranger's package brings its own in its file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tollama.capabilities import Capabilities
from tollama.contract import MAX_HORIZON
from tollama.errors import UnsupportedRepository
from tollama.registry import Details, Entry, License, Requires, Source, data_files, rows

CONFIG = "config.json"
CARD = "README.md"
MAX_SIZE = 1_000_000
"""Bytes of a config or a model card that are read."""
PASSES = 16
"""Times that a model with a native horizon rolls out at most."""
LONGEST = 2**20
"""Steps of history that a config may claim; models are warmed up with as many."""

_PLAIN = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")
_PRODUCT = " * "
_SHARD = re.compile(r".*-\d{5}-of-\d{5}\.safetensors")


class Architecture(BaseModel):
    """One kind of model: what tells it (``match``), how it is served, and what its config fixes (``told``).

    ``match`` maps a dotted path in the config to a value that is there, or in a list there; ``*`` is any, None is none.
    ``told`` maps a dotted field of the capabilities to paths, numbers and their `` * ``, `` - `` and `` | `` (else).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    match: dict[str, Any] = Field(min_length=1)
    family: str
    adapter: str
    files: tuple[str, ...]
    capabilities: Capabilities
    told: dict[str, str] = Field(default_factory=dict)
    requires: Requires = Requires()
    description: str
    license: None = None  # of the weights, so never of the kind

    def matches(self, config: Mapping[str, Any]) -> bool:
        """Whether ``config`` is of this kind."""
        return all(_is(_at(config, path), wanted) for path, wanted in self.match.items())

    def limits(self, config: Mapping[str, Any]) -> Capabilities:
        """The capabilities of the model with this ``config``: what it says of them, else what is true of the kind.

        Raises :class:`UnsupportedRepository` for limits that no model can have.
        """
        can = self.capabilities.model_dump()
        try:
            found = {field: _value(config, text) for field, text in self.told.items()}
            for field, value in found.items():
                if value is not None:
                    *parents, last = field.split(".")
                    place = can
                    for parent in parents:
                        place = place[parent]
                    place[last] = value
            if found.get("native_horizon") is not None:
                can["max_horizon"] = min(PASSES * can["native_horizon"], can["max_context"])
            can["max_horizon"] = min(can["max_horizon"], MAX_HORIZON)
            if can["native_horizon"] is not None and can["native_horizon"] >= can["max_horizon"]:
                can["native_horizon"] = None
            if "context_length" in can["options"]:
                can["options"]["context_length"]["maximum"] = can["max_context"]
            limits = Capabilities.model_validate(can)
        except (ValidationError, TypeError):
            raise _impossible() from None
        levels = limits.quantiles.native
        if limits.max_context > LONGEST or sorted({q for q in levels if 0 < q < 1}) != list(levels):
            raise _impossible()
        return limits


@cache
def served() -> tuple[Architecture, ...]:
    """Every architecture that this installation serves. :class:`ConfigError` says what is malformed."""
    return tuple(kind for file in data_files() for kind in rows(file, "architectures", Architecture, optional=True))


def detect(config: Mapping[str, Any]) -> Architecture:
    """The kind of the model with this ``config``.

    Raises :class:`UnsupportedRepository` with what it is and what is served, or when it asks for code of its own.
    """
    if "auto_map" in config:
        raise UnsupportedRepository(
            "The model asks for code of its own (auto_map in its config.json); tollama runs none.",
            hint="Take a model of an architecture that tollama serves: " + _names(),
        )
    for kind in served():
        if kind.matches(config):
            return kind
    found = _called(config)
    raise UnsupportedRepository(
        f"The architecture {found} is not one that tollama serves.",
        detail={"architecture": found, "served": list(dict.fromkeys(kind.name for kind in served()))},
        hint=f"Served are {_names()}.",
    )


def entry(
    name: str, kind: Architecture, config: Mapping[str, Any], source: Source, license: License, wanted: Iterable[str]
) -> Entry:
    """The registry entry of a model that the registry does not know; its details are those of its files.

    ``wanted`` are the paths of all files there. Raises :class:`UnsupportedRepository` when none is safetensors, or
    when those are parts of one whose index is missing.
    """
    top = [path for path in wanted if "/" not in path]
    found = [path for path in top if path.endswith(".safetensors")]
    if not found:
        raise UnsupportedRepository(
            "There are no weights in safetensors; pickled ones are not loaded, since they can hold code.",
            hint="Save the model again with safe_serialization=True.",
        )
    if all(map(_SHARD.fullmatch, found)) and not any(path.endswith(".safetensors.index.json") for path in top):
        raise UnsupportedRepository(
            "The weights are in several parts and the index of these (model.safetensors.index.json) is missing.",
            hint="Save the model again, or add the index that it was saved with.",
        )
    return Entry(
        name=name,
        family=kind.family,
        adapter=kind.adapter,
        source=source,
        files=kind.files,
        license=license,
        capabilities=kind.limits(config),
        requires=kind.requires,
        details=Details(format="safetensors", parameter_size="", quantization_level=""),
        description=f"{kind.description} From {source.repo_id or 'a folder'}.",
    )


def parse(content: bytes) -> dict[str, Any]:
    """A ``config.json``. Raises :class:`UnsupportedRepository` when it is none."""
    try:
        config = json.loads(content)
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise UnsupportedRepository("Its config.json is not a JSON object.", hint="Check the repository or folder.")
    return config


def card(content: bytes) -> dict[str, Any]:
    """What the front matter of a model card says; nothing where there is none or it cannot be read."""
    import yaml

    head = re.match(rb"---\s*\n(.*?)\n---\s*(\n|$)", content, re.DOTALL)
    try:
        said = yaml.safe_load(head[1].decode(errors="replace")) if head else None
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date that is none
        return {}
    return said if isinstance(said, dict) else {}


def _at(config: Any, path: str) -> Any:
    for key in path.split("."):
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def _is(value: Any, wanted: Any) -> bool:
    if wanted == "*":
        return value is not None
    return wanted in value if isinstance(value, list) else bool(value == wanted)


def _value(config: Mapping[str, Any], text: str) -> Any:
    """The first alternative of ``text`` that is wholly there; None where none is."""
    for alternative in text.split(" | "):
        first, *less = (_product(config, part) for part in alternative.split(" - "))
        if first is not None and None not in less:
            return first - sum(less) if less else first
    return None


def _product(config: Mapping[str, Any], text: str) -> Any:
    values = [int(part) if part.isdigit() else _at(config, part) for part in text.split(_PRODUCT)]
    if len(values) == 1:
        return values[0]
    if None in values:
        return None
    if any(type(value) is not int for value in values):
        raise _impossible()
    first, *others = values
    for other in others:
        first *= other
    return first


def _called(config: Mapping[str, Any]) -> str:
    """What the config calls its architecture, if that is a plain name."""
    given = config.get("architectures")
    for name in (*(given if isinstance(given, list) else ()), config.get("model_type")):
        if isinstance(name, str) and _PLAIN.fullmatch(name):
            return name
    return "(none is named)"


def _names() -> str:
    return ", ".join(dict.fromkeys(kind.name for kind in served()))


def _impossible() -> UnsupportedRepository:
    return UnsupportedRepository(
        "Its config.json gives limits that no model can have.", hint="Check the repository or folder."
    )
