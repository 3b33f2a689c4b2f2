"""The registry: what is known of every model before it is installed, from ``model-registry/registry.yaml``.

Each family may bring a file of its own (``FamilySpec.registry``), of the same form.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tollama.capabilities import Capabilities
from tollama.errors import ConfigError, ModelNotFound
from tollama.families import families
from tollama.paths import data

T = TypeVar("T", bound=BaseModel)

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_TAGGED = re.compile(rf"{_NAME.pattern}:[\w.-]*", re.ASCII)
LATEST = ":latest"
"""Ollama's name for the only one there is."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Frozen):
    """Where a model's files come from: the hub, a folder (``local``), or nowhere (``embedded``: the model is code).

    ``revision`` is a commit of 40 hex digits where one is known, else a branch, resolved once at pull.
    """

    type: Literal["embedded", "huggingface", "local"]
    repo_id: str | None = None
    revision: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> Source:
        on_hub = self.type == "huggingface"
        if on_hub != bool(self.repo_id) or on_hub != bool(self.revision):
            raise ValueError("a huggingface source has repo_id and revision, any other neither")
        return self

    @property
    def place(self) -> str:
        """Where the models of it come from, at any revision: the repository in lower case, else the type."""
        return self.repo_id.lower() if self.repo_id else self.type


class License(_Frozen):
    """The licence of the weights, not of the code. ``verified``: read at its source, not by hearsay."""

    id: str
    needs_acceptance: bool
    verified: bool
    notice: str
    url: str

    @model_validator(mode="after")
    def _careful(self) -> License:
        if not self.verified and not self.needs_acceptance:
            raise ValueError("an unverified licence needs acceptance")
        return self


class Defaults(_Frozen):
    """What a request gets that does not say otherwise; None leaves it to the server."""

    options: dict[str, Any] = Field(default_factory=dict)
    quantiles: tuple[float, ...] | None = None
    keep_alive: float | str | None = None
    timeout: float | None = None


class Requires(_Frozen):
    """Version specifiers: of tollama, and of the libraries in the family's environment by distribution name."""

    tollama: str = ">=0.1"
    libraries: dict[str, str] = Field(default_factory=dict)


class Details(_Frozen):
    """What Ollama's clients show of a model."""

    format: str
    parameter_size: str
    quantization_level: str


class Entry(_Frozen):
    """One model. ``files`` are the patterns to download, ``size_bytes`` an estimate of them (None: unknown)."""

    name: str = Field(pattern=rf"^{_NAME.pattern}$")
    family: str
    adapter: str
    source: Source
    files: tuple[str, ...] = ()
    size_bytes: int | None = Field(None, ge=0)
    license: License
    capabilities: Capabilities
    defaults: Defaults = Defaults()
    requires: Requires = Requires()
    details: Details
    description: str


def canonical_name(text: str) -> str:
    """``text`` as a model name: lower case, without Ollama's tag ``:latest``, nothing that could reach the file system.

    Raises :class:`ModelNotFound` for a text that no model can have as its name.
    """
    name = text.lower().removesuffix(LATEST)
    if not _NAME.fullmatch(name):
        said = (
            "That is not a model name: one has letters, digits, '.', '_' and '-', at most 128, a letter or digit first."
        )
        tagged = "Models have no tags here: leave out the colon and what follows." if _TAGGED.fullmatch(name) else None
        raise ModelNotFound(said, hint=tagged)
    return name


def data_files() -> list[Path]:
    """The registry's files: tollama's own, then those that families bring."""
    return [data("model-registry/registry.yaml"), *(spec.registry for spec in families().values() if spec.registry)]


@cache
def registry() -> Mapping[str, Entry]:
    """Every known model by name, in the order of the files. :class:`ConfigError` says what is malformed."""
    entries: dict[str, Entry] = {}
    for file in data_files():
        for entry in read(file):
            if entry.name in entries:
                raise _malformed(file, entry.name, "is there twice")
            entries[entry.name] = entry
    return MappingProxyType(entries)


def find(name: str) -> Entry:
    """The entry of ``name``, in any case; :class:`ModelNotFound` hints at the closest names."""
    known = registry()
    wanted = canonical_name(name)
    if wanted in known:
        return known[wanted]
    close = get_close_matches(wanted, known, n=3)
    hint = f"Did you mean {' or '.join(close)}? {ModelNotFound.default_hint}" if close else None
    raise ModelNotFound(f"No model named {wanted} is known.", hint=hint)


def read(file: Path) -> Iterator[Entry]:
    """The entries of one file: a list under ``models``; what its anchors need may stand under ``shared``."""
    yield from rows(file, "models", Entry)


def rows(file: Path, key: str, model: type[T], *, optional: bool = False) -> Iterator[T]:
    """The list under ``key`` of a data file, each row checked. :class:`ConfigError` says what is malformed."""
    document = _document(file)
    found = document.get(key, [] if optional else None) if isinstance(document, dict) else None
    if not isinstance(found, list):
        raise _malformed(file, "", f"has no list under {key!r}")
    for index, raw in enumerate(found):
        named = (raw.get("name") or raw.get("id")) if isinstance(raw, dict) else None
        try:
            yield model.model_validate(raw)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
            field = ".".join(str(part) for part in fault["loc"])
            raise _malformed(file, str(named or f"#{index + 1}"), f"{field}: {fault['msg']}") from error


def _document(file: Path) -> Any:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(file.read_text(encoding="utf-8"), loader)
    except (OSError, UnicodeDecodeError) as error:
        raise _malformed(file, "", "cannot be read") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise _malformed(file, "", f"is not YAML, line {mark.line + 1 if mark else '?'}") from error


def _malformed(file: Path, name: str, what: str) -> ConfigError:
    where = f"{file.name}: {name}:" if name else f"{file.name}"
    return ConfigError(f"{where} {what}.", hint="Correct that file of the model registry.")
