"""Ollama's wire: the bodies that its clients send, and its answers made of what the catalog and the replicas know."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tollama.capabilities import Capabilities
from tollama.catalog import Model
from tollama.contract import KeepAlive

FOREVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""What ``expires_at`` says of a model that is kept for ever."""
MOST_LEFT_S = 1000 * 365 * 86400.0
"""Seconds that are as good as for ever."""
COLUMN = 30
"""Width of a name in the lines of ``parameters``, as Ollama writes them."""


class _Asked(BaseModel):
    """What Ollama's clients send beyond the declared fields is passed over, as Ollama does it."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class GenerateRequest(_Asked):
    """Ollama's request for text, of which there is none here: without a prompt it loads or unloads a model."""

    model: str = Field(min_length=1, description="A known or installed model name.")
    prompt: str | None = Field(None, description="Empty or absent; this server writes no text.")
    keep_alive: KeepAlive = Field(None, description="As in a forecast; 0 unloads the model.")
    stream: bool | None = Field(None, description="Accepted; the answer is one object either way.")


class NamedRequest(_Asked):
    """A request about one model."""

    name: str = Field("", min_length=1, validate_default=True, description="The model's name.")
    model: str | None = Field(None, description="The same as name; newer clients say it so.")

    @model_validator(mode="before")
    @classmethod
    def _one_name(cls, body: Any) -> Any:
        return body | {"name": body["model"]} if isinstance(body, dict) and body.get("model") else body


class ModelDetails(BaseModel):
    """What Ollama's clients show of a model beside its name."""

    parent_model: str = ""
    format: str = ""
    family: str
    families: list[str]
    parameter_size: str = ""
    quantization_level: str = ""


class Tag(BaseModel):
    """An installed model; ``size`` in bytes on the disk, ``digest`` in 64 hex digits."""

    name: str
    model: str
    modified_at: datetime
    size: int
    digest: str
    details: ModelDetails


class Tags(BaseModel):
    """The installed models."""

    models: list[Tag]


class Running(BaseModel):
    """A model in memory; sizes in bytes. From ``family`` on they are ours, not Ollama's."""

    name: str
    model: str
    size: int
    digest: str
    details: ModelDetails
    expires_at: datetime = Field(description="The year 9999 is for ever.")
    size_vram: int
    context_length: int
    family: str
    device: str
    replica: str
    state: str
    in_use: int


class Processes(BaseModel):
    """The models in memory, the longest remaining first."""

    models: list[Running]


class Show(BaseModel):
    """What there is to know of an installed model. ``model_info`` has our source, resolved and capabilities, too."""

    name: str
    license: str
    modelfile: str
    parameters: str
    template: str = ""
    details: ModelDetails
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: datetime


class Status(BaseModel):
    """One step of a pull; ``total`` and ``completed`` are bytes of the file that ``digest`` names."""

    status: str
    digest: str | None = Field(None, exclude_if=lambda value: value is None)
    total: int | None = Field(None, exclude_if=lambda value: value is None)
    completed: int | None = Field(None, exclude_if=lambda value: value is None)


def details(family: str, model: Model | None) -> ModelDetails:
    """The details of a model, which may be unknown by now."""
    if model is None:
        return ModelDetails(family=family, families=[family])
    return ModelDetails(family=family, families=[family], **model.about.details.model_dump())


def tag(model: Model) -> Tag:
    """An installed model as a list shows it."""
    return Tag(
        name=model.name,
        model=model.name,
        modified_at=model.modified_at,
        size=model.size_bytes,
        digest=model.digest,
        details=details(model.family, model),
    )


def running(held: Mapping[str, Any], model: Model | None, now: datetime) -> Running:
    """What a replica says that it holds; ``model`` is None for one that was deleted since.

    ``size`` is the memory that the replica counts for it, or its size on the disk while that is not measured.
    """
    left = held["expires"] - now.timestamp()
    stored = model.size_bytes if model is not None else 0
    return Running(
        name=held["name"],
        model=held["name"],
        size=int(held["memory_mb"] * 1e6) or stored,
        digest=held["digest"],
        details=details(held["family"], model),
        expires_at=FOREVER if left > MOST_LEFT_S else now + timedelta(seconds=max(0.0, left)),
        size_vram=int(held["vram_mb"] * 1e6),
        context_length=held["context_length"],
        family=held["family"],
        device=held["device"],
        replica=str(held["replica"]),
        state=held["state"],
        in_use=held["in_use"],
    )


def show(model: Model, license: str, capabilities: Capabilities) -> Show:
    """An installed model whole; ``license`` is the text that it came under."""
    about = model.about
    defaults = {name: option.default for name, option in capabilities.options.items() if option.default is not None}
    parameters = defaults | about.defaults.options
    return Show(
        name=model.name,
        license=license,
        modelfile=_modelfile(model, license, parameters),
        parameters="\n".join(f"{name:<{COLUMN}} {_value(value)}" for name, value in parameters.items()),
        details=details(model.family, model),
        model_info={
            "general.architecture": about.adapter,
            "general.description": about.description,
            "general.license": about.license.id,
            f"{about.adapter}.context_length": capabilities.max_context,
            "source": about.source.model_dump(),
            "resolved": model.manifest.resolved.model_dump() if model.manifest is not None else None,
            "capabilities": capabilities.model_dump(),
        },
        capabilities=abilities(capabilities),
        modified_at=model.modified_at,
    )


def abilities(capabilities: Capabilities) -> list[str]:
    """The capabilities as Ollama's list of words; ``forecast`` is every model's."""
    kinds = [f"{kind}_covariates" for kind, able in capabilities.covariates.model_dump().items() if able]
    more = [word for word in ("missing_values", "multivariate") if getattr(capabilities, word)]
    return ["forecast", *kinds, *more]


def _modelfile(model: Model, license: str, parameters: Mapping[str, Any]) -> str:
    source = model.about.source
    revision = model.manifest.resolved.commit_sha if model.manifest is not None else source.revision
    origin = f"{source.repo_id}@{revision}" if source.repo_id else model.name
    lines = ['# Modelfile generated by "tollama show"', f"FROM {origin}"]
    lines += [f"PARAMETER {name} {_value(value)}" for name, value in parameters.items()]
    return "\n".join([*lines, f'LICENSE """{license}"""', ""])


def _value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
