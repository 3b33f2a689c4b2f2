"""What a pull is asked for: its request, the model or repository that is meant, the hub, and the way there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from tollama import licenses
from tollama.errors import InvalidRequest
from tollama.manifest import Manifest
from tollama.registry import Entry, canonical_name, find, registry
from tollama.settings import Settings
from tollama.store import Store

HUB = "hf:"
"""What the name of a repository on the hub begins with."""

_REVISION = r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}"
_REPOSITORY = re.compile(
    rf"(?P<repo>[A-Za-z0-9][\w.-]{{0,95}}/[A-Za-z0-9_][\w.-]{{0,95}})(@(?P<revision>{_REVISION}))?", re.ASCII
)


class PullRequest(BaseModel):
    """The body of a pull, ours and Ollama's."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: str = Field("", min_length=1, validate_default=True, description="A model, or hf:ORG/NAME[@REVISION].")
    model: str | None = Field(None, description="The same as name, as Ollama's clients say it.")
    local_name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$",
        description="What a model of the hub is called here; default org--name.",
    )
    accept_license: bool = Field(False, description="Accept the licence, on record.")
    license_sha256: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="Accept this text alone: detail.text_sha256 of the 409."
    )
    revision: str | None = Field(None, pattern=f"^{_REVISION}$", description="Instead of the known.")
    offline: bool | None = Field(
        None, description="Use only what is in the cache, or false to ask the hub; default as the server is set."
    )
    no_runtime: bool = Field(False, description="Leave the family's runtime uninstalled.")
    stream: bool | None = Field(None, description="NDJSON progress lines; default true on /api/pull.")
    token: SecretStr | None = Field(None, description="Token for the hub, for this pull.")
    endpoint: str | None = Field(None, pattern=r"^https?://", description="Another hub, for this pull.")
    proxy: str | None = Field(None, pattern=r"^https?://", description="Another proxy to the hub, for this pull.")
    insecure: bool | None = Field(None, description="Taken for Ollama's clients; changes nothing.")

    @model_validator(mode="before")
    @classmethod
    def _one_name(cls, body: Any) -> Any:
        return body | {"name": body["model"]} if isinstance(body, dict) and body.get("model") else body


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository of the hub, whatever it holds; ``name`` is what its model is called here."""

    name: str
    repo_id: str
    revision: str


def target(request: PullRequest, store: Store) -> Entry | Repository:
    """What a request wants: a model of the registry, or a repository, named or that of an installed model.

    Raises :class:`ModelNotFound`, :class:`InvalidRequest` for what cannot be pulled, and
    :class:`LicenseNotAccepted` for a model from a folder of which only that is missing.
    """
    if request.name[: len(HUB)].lower() == HUB:
        return _repository(request)
    if request.local_name is not None:
        raise InvalidRequest(
            "Only a model of the hub can be given a name (local_name).",
            hint="Name it as hf:ORG/NAME, or leave that out.",
        )
    name = canonical_name(request.name)
    here = None if name in registry() else store.get(name)
    if here is None or here.source.type == "embedded":
        return find(name)
    if here.source.repo_id is None:
        if request.accept_license:
            return as_entry(here)
        licenses.require(store.home, name, here.license, here.source, snapshot=here.snapshot)
        raise InvalidRequest(
            f"The model {name!r} was taken from a folder; there is nothing to pull it from.",
            hint=f"tollama pull --from-dir DIR {name}",
        )
    return Repository(name, here.source.repo_id, request.revision or str(here.source.revision))


def _repository(request: PullRequest) -> Repository:
    given = _REPOSITORY.fullmatch(request.name[len(HUB) :])
    if given is None:
        raise InvalidRequest(
            "That is not a repository of the hub.", hint="Name it as hf:ORG/NAME or hf:ORG/NAME@REVISION."
        )
    asked = {given["revision"], request.revision} - {None}
    if len(asked) > 1:
        raise InvalidRequest("The revision is given twice.", hint="Say it after the @ or as revision.")
    default = re.sub(r"^[^a-z0-9]+", "", given["repo"].replace("/", "--").lower())[:128]
    name = free_name(request.local_name or default)
    return Repository(name, given["repo"], asked.pop() or "main" if asked else "main")


def free_name(name: str) -> str:
    """``name`` in lower case. Raises :class:`InvalidRequest` for one of the registry, which means another model."""
    name = canonical_name(name)
    if name in registry():
        raise InvalidRequest(
            f"{name!r} is the name of a model of the registry.", hint="Choose another name for the model here."
        )
    return name


def access(request: PullRequest, settings: Settings) -> tuple[str, str | None]:
    """The hub to ask and the token to show it: the configured token is for the configured hub alone."""
    endpoint = request.endpoint or settings.hf_endpoint
    if request.token:
        return endpoint, request.token.get_secret_value()
    return endpoint, settings.hf_token if endpoint == settings.hf_endpoint else None


def offline(request: PullRequest, settings: Settings) -> bool:
    """Whether the hub is not to be asked."""
    return settings.offline if request.offline is None else request.offline


def proxies(request: PullRequest, settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` with the variables by which HTTP clients find the proxy that the pull is to use.

    The request's stands above the setting, and the standard variables above a setting of the config file.
    """
    proxy = request.proxy or settings.proxies
    standard = {name for name in environment if name.lower() in ("http_proxy", "https_proxy", "all_proxy")}
    if proxy is None or (not request.proxy and standard and settings.sources.get("proxies") == "config"):
        return dict(environment)
    dropped = standard | ({"no_proxy", "NO_PROXY"} if request.proxy else set())
    kept = {name: value for name, value in environment.items() if name not in dropped}
    return kept | {"http_proxy": proxy, "https_proxy": proxy}


def as_entry(here: Manifest) -> Entry:
    """The registry entry that an installed model's manifest amounts to."""
    fields = {name: getattr(here, name) for name in Entry.model_fields if hasattr(here, name)}
    terms = here.license.model_dump(include={"id", "needs_acceptance", "notice"})
    license = {**terms, "verified": not here.license.needs_acceptance, "url": here.license.url or ""}
    return Entry.model_validate(fields | {"license": license, "files": tuple(file.path for file in here.files)})
