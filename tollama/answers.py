"""The answers of the routes about models and about the server's health, typed."""

from __future__ import annotations

from typing import Any, Literal

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


class ServerInfo(BaseModel):
    """The ingress that answers; ``api`` is the address of its door, if it has one."""

    pid: int
    started_at: str
    api: str | None


class SettingInfo(BaseModel):
    """A setting in force: its value, where that is from, and its environment variable."""

    value: Any
    source: str
    env: str


class RegistryInfo(BaseModel):
    """How many models the registry has, in all and of each family."""

    entries: int
    families: dict[str, int]


class InstalledInfo(BaseModel):
    """A model that can run; one without files has no revision and was never installed."""

    name: str
    family: str
    adapter: str
    source: str
    revision: str | None
    size_bytes: int
    installed_at: str | None
    license: str


class InstalledModels(BaseModel):
    """The models that can run, and why others cannot."""

    installed: list[InstalledInfo]
    broken: dict[str, str]


class EnvironmentInfo(BaseModel):
    """A family's environment, what is wrong with it and what mends that."""

    installed: bool
    ready: bool
    reason: str
    repair: str
    digest: str | None
    python: str | None


class HeldModel(BaseModel):
    """A model in memory."""

    name: str
    state: str
    in_use: int
    memory_mb: float
    vram_mb: float


class ReplicaInfo(BaseModel):
    """A process of a family."""

    replica: str
    pid: int
    started_at: str
    device: str
    models: list[HeldModel]


class DeathInfo(BaseModel):
    """How a process of the family ended, and the model that it computed for."""

    reason: str
    model: str | None
    at: str


class FailureInfo(BaseModel):
    """A request that failed by the family."""

    code: str
    at: str


class FamilyInfo(BaseModel):
    """A family; ``answers`` says whether its replicas told of themselves at once."""

    runtime: EnvironmentInfo
    adapters: list[str]
    answers: bool
    replicas: list[ReplicaInfo]
    waiting: int
    in_flight: int
    restarts: dict[str, int]
    last_death: DeathInfo | None
    last_error: FailureInfo | None
    unavailable: str | None


class RayInfo(BaseModel):
    """Ray's own pages."""

    dashboard: str | None


class Info(BaseModel):
    """What the server is made of and how it is; secrets are masked."""

    server: ServerInfo
    versions: dict[str, str]
    config: dict[str, SettingInfo]
    paths: dict[str, str]
    environment: dict[str, str]
    registry: RegistryInfo
    models: InstalledModels
    families: dict[str, FamilyInfo]
    ray: RayInfo
