"""Everything that can be set, once: name, type, default and help; environment variable and config key follow from it.

A value comes from the command line, else the environment (``TOLLAMA_<NAME>``), else ``config.json`` in the home,
else the default; :attr:`Settings.sources` says which.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator

from tollama import keys
from tollama.durations import seconds
from tollama.errors import ConfigError, TollamaError
from tollama.keys import ApiKey

ENV_PREFIX = "TOLLAMA_"
DEFAULT_PORT = 11435
ALIASES = {"hf_endpoint": "HF_ENDPOINT", "hf_token": "HF_TOKEN", "offline": "HF_HUB_OFFLINE"}
"""Variables of the hub's own tools that are read when ours is not set."""
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@]+")
SOURCES = "TOLLAMA_SOURCES"
"""Variable in which ``tollama serve`` tells its processes where its settings came from."""


class Settings(BaseModel):
    """The settings of one server and of the command line beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="Address that the API listens on, and that the command line asks.")
    port: int = Field(DEFAULT_PORT, ge=1, le=65535, description="Port of the API.")
    proxy_port: int | None = Field(None, ge=1, le=65535, description="Port of Serve's own proxy; default port + 1.")
    insecure: bool = Field(False, description="Listen beyond this machine without API keys.")
    api_keys: tuple[ApiKey, ...] = Field((), description="Who may ask; tollama config key makes them.")
    cors_origins: tuple[str, ...] = Field((), description="Origins of web pages that may ask: https://a.example, or *.")
    home: Path = Field(Path("~/.tollama"), description="Folder of models, licences, runtimes, cache and logs.")
    runtimes_dir: Path | None = Field(None, description="Folder of the families' environments; default home/runtimes.")
    keep_runtimes: int = Field(2, ge=1, description="Environments kept per family, the current one included.")
    keep_snapshots: int = Field(2, ge=1, description="Snapshots kept per model, the current one included.")
    cache_max_gb: float = Field(20.0, ge=0, description="Most GB (10^9 bytes) of downloads that no model uses.")
    cache_max_days: float = Field(30.0, ge=0, description="Days that a download is kept which no model uses.")
    auto_install_runtimes: bool = Field(False, description="Install a missing runtime when a forecast needs it.")
    keep_alive: str | float = Field("5m", description="How long an idle model stays loaded: seconds or 300ms, 10m, 1d.")
    family_linger: float = Field(60.0, ge=0, description="Seconds an empty process stays; unset: 0 with a GPU.")
    max_loaded_models: int = Field(3, ge=1, description="Models loaded per replica; the least recently used gives way.")
    max_memory_fraction: float = Field(0.9, gt=0, le=1, description="Part of the memory (host, GPU) that may be used.")
    request_timeout: float = Field(300.0, gt=0, description="Seconds for a request that names no timeout.")
    max_body_mb: float = Field(128.0, gt=0, description="Largest decoded request body in MB (10^6 bytes).")
    max_queue: int = Field(512, ge=1, description="Waiting requests per family; more are answered 503.")
    restart_max: int = Field(5, ge=1, description="Times a model may end its process before it is held back.")
    restart_backoff: float = Field(1.0, gt=0, description="Pause after that, or after a start that failed; up to 60 s.")
    hf_endpoint: str = Field("https://huggingface.co", description="The hub that models are pulled from.")
    hf_token: str | None = Field(None, description="Token for gated repositories; sent to hf_endpoint only.")
    offline: bool = Field(False, description="Never ask the hub.")
    proxies: str | None = Field(
        None, pattern=r"^https?://", description="Proxy to the hub, a URL; above it in a config file: HTTPS_PROXY."
    )
    dashboard: bool = Field(True, description="Start the Ray dashboard.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged.")
    log_format: Literal["json", "text"] = Field("json", description="Log lines as JSON objects or as text.")
    log_max_mb: float = Field(500.0, gt=0, description="Size of all logs in MB; the oldest go first.")
    log_max_days: float = Field(14.0, gt=0, description="Days that logs are kept.")

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    @field_validator("home", "runtimes_dir")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else Path(os.path.abspath(path.expanduser()))

    @field_validator("api_keys", mode="before")
    @classmethod
    def _hashed(cls, value: Any) -> Any:
        if isinstance(value, str) or (isinstance(value, list) and any(isinstance(one, str) for one in value)):
            raise ValueError("keys are kept as hashes. Make one with tollama config key add, or set TOLLAMA_API_KEYS")
        return value

    @field_validator("api_keys")
    @classmethod
    def _names(cls, value: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        if len({key.name for key in value}) != len(value):
            raise ValueError("two keys have one name")
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [one.strip() for one in value.split(",") if one.strip()] if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(one != "*" and not ORIGIN.fullmatch(one) for one in value):
            raise ValueError("an origin is a scheme, a host and perhaps a port, as https://a.example:8443, or *")
        return value

    @field_validator("keep_alive")
    @classmethod
    def _duration(cls, value: str | float) -> str | float:
        try:
            seconds(value)
        except TollamaError as error:
            raise ValueError(str(error)) from None
        return value

    @property
    def sources(self) -> Mapping[str, str]:
        """Where each value that is not a default comes from."""
        return self._sources

    @property
    def runtimes(self) -> Path:
        """Folder of the families' environments."""
        return self.runtimes_dir or self.home.absolute() / "runtimes"

    @property
    def serve_port(self) -> int:
        """Port of Serve's own proxy."""
        return self.proxy_port or self.port + 1

    @property
    def max_body(self) -> int:
        """Largest decoded request body in bytes."""
        return int(self.max_body_mb * 1e6)


def env_name(field: str) -> str:
    """The environment variable of a setting."""
    return ENV_PREFIX + field.upper()


def variable_of(field: str, env: Mapping[str, str]) -> str:
    """The variable that a setting is read from: its own, or the hub's where only that is set."""
    ours, alias = env_name(field), ALIASES.get(field)
    return alias if alias is not None and not env.get(ours) and env.get(alias) else ours


def told(settings: Settings) -> dict[str, str]:
    """The environment that tells a server's processes what its command line said, and where each setting is from."""
    options = [name for name, source in settings.sources.items() if source == "option"]
    return {env_name(name): str(getattr(settings, name)) for name in options} | {SOURCES: json.dumps(settings._sources)}


def home_of(env: Mapping[str, str], given: str | Path | None = None) -> Path:
    """The home that ``given``, else the environment, else the default names."""
    return Path(os.path.abspath(Path(given or env.get(env_name("home")) or "~/.tollama").expanduser()))


def config_path(home: Path) -> Path:
    """The config file of a home."""
    return home / "config.json"


def read_file(path: Path) -> dict[str, Any]:
    """What the config file says; nothing when there is none. Raises :class:`ConfigError` naming the line at fault."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(
            f"The config file cannot be read: {reason}: {path}", hint="Mend the file or its permissions."
        ) from None
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path}, line {error.lineno}: {error.msg}.", hint="Correct the line or remove the file."
        ) from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}, line 1: the config must be one JSON object.", hint="Mend the file or remove it.")
    if unknown := sorted(set(values) - set(Settings.model_fields)):
        raise ConfigError(f"{_place(path, unknown[0])} is no setting.", hint="tollama config list shows them all.")
    return values


def _place(path: Path, key: str) -> str:
    """Where the file speaks of ``key``, for a person who has to mend it."""
    rows = path.read_text().splitlines()
    line = next((n for n, row in enumerate(rows, 1) if f'"{key}"' in row), 1)
    return f"{path}, line {line}: {key}"


def _fault(field: str, source: str, home: Path, told: str, env: Mapping[str, str]) -> ConfigError:
    """What is wrong with a setting, and where it was set."""
    variable = variable_of(field, env)
    where, hint = {
        "environment": (variable, f"Correct {variable}, or unset it."),
        "option": (f"--{field.replace('_', '-')}", "The command's --help says what it takes."),
    }.get(source) or (_place(config_path(home), field), "Correct the line, or take it out.")
    # No colon behind the name: what follows one behind a secret's name is taken for the secret.
    return ConfigError(f"{where} is not valid: {told.removeprefix('Value error, ')}.", hint=hint)


def _split(host: str) -> tuple[str, int | None]:
    """Name and port, if it has one, of a ``host`` as Ollama takes it: ``host:port`` or a URL. ValueError otherwise."""
    with suppress(ValueError):
        return str(ip_address(host)), None  # an IPv6 address has colons of its own
    parts = urlsplit(host if "://" in host else f"//{host}")
    return parts.hostname or "127.0.0.1", parts.port


def load(env: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """The settings in force; ``overrides`` (None is not set) are the command line's.

    Raises :class:`ConfigError` naming the variable, or the line of the file, that is at fault.
    """
    env = os.environ if env is None else env
    given = {name: value for name, value in overrides.items() if value is not None}
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    home = home_of(env, given.get("home"))
    from_env: dict[str, Any] = {name: env[env_name(name)] for name in Settings.model_fields if env.get(env_name(name))}
    from_env |= {name: env[alias] for name, alias in ALIASES.items() if name not in from_env and env.get(alias)}
    if "api_keys" in from_env:
        try:
            from_env["api_keys"] = keys.given(from_env["api_keys"])
        except ValueError as error:
            raise _fault("api_keys", "environment", home, str(error), env) from None
    port: tuple[Any, str] | None = None
    alone = port
    for source, layer in (("config", read_file(config_path(home))), ("environment", from_env), ("option", given)):
        values |= layer
        sources |= dict.fromkeys(layer, source)
        if "port" in layer:
            port = alone = (layer["port"], source)
        if "host" in layer:
            try:
                values["host"], inside = _split(str(layer["host"]))
            except ValueError:
                raise _fault("host", source, home, "it is no host, host:port or URL", env) from None
            # The port in a host yields to one set beside it, and goes with the host when another takes its place.
            port = alone if inside is None or "port" in layer else (inside, source)
    if port is not None:
        values["port"], sources["port"] = port
    values["home"] = home
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        field = str(fault["loc"][0])
        raise _fault(field, sources.get(field, ""), home, fault["msg"], env) from None
    settings._sources.update(sources)
    return settings
