"""The answers of the routes about models and about the server's health, typed."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from tollama.capabilities import Capabilities
from tollama.registry import Source
from tollama.store import Manifest


class LicenseInfo(BaseModel):
    """A model's licence, and whether it may run as far as that goes."""

    id: str
    needs_acceptance: bool
    accepted: bool = Field(description="Accepted on record, or nothing to accept.")
    notice: str = ""
    url: str | None = None


class RuntimeInfo(BaseModel):
    """The environment of the model's family."""

    installed: bool
    ready: bool


class ModelInfo(BaseModel):
    """One model, as the list shows it."""

    name: str
    family: str
    source: Source
    license: LicenseInfo
    capabilities: Capabilities
    installed: bool
    state: Literal["available", "installed", "loading", "loaded"]
    runtime: RuntimeInfo


class ModelDetail(ModelInfo):
    """One model whole; an installed one has its manifest."""

    manifest: Manifest | None = Field(None, exclude_if=lambda value: value is None)


class BrokenModel(BaseModel):
    """A model folder that cannot be used; pulling the model again repairs it."""

    name: str
    reason: str


class ModelList(BaseModel):
    """Every known model, every installed one, and those whose manifest cannot be read."""

    available: list[ModelInfo]
    installed: list[ModelInfo]
    broken: list[BrokenModel] = Field(default_factory=list, exclude_if=lambda value: not value)


class Removed(BaseModel):
    """A model that was removed."""

    removed: Literal[True] = True
    name: str


class Validation(BaseModel):
    """A forecast request that passed every check."""

    valid: Literal[True] = True
    warnings: list[str]


class Health(BaseModel):
    """A sign of life."""

    status: Literal["ok"] = "ok"


class Checks(BaseModel):
    """``ok``, or what is wrong, the ingress's being ``draining``; each family is ``ready``, ``idle``, ``starting`` or
    ``unavailable: why``."""

    ingress: str
    store: str
    disk: str
    families: dict[str, str]


class Readiness(BaseModel):
    """Whether the server is well; per check, unless the server has API keys and none of them came along."""

    status: Literal["ready", "unwell"]
    checks: Checks | None = None


class Version(BaseModel):
    """The server's version."""

    version: str
