"""What an installation is made of: a server tells it of itself, the command line of its own side.

Secrets are masked (:mod:`tollama.redaction`).
"""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tollama.catalog import Catalog
from tollama.errors import TollamaError
from tollama.families import FamilySpec, families
from tollama.paths import data
from tollama.redaction import redacted
from tollama.registry import registry
from tollama.runtimes import Runtimes
from tollama.settings import SOURCES, Settings, config_path, env_name
from tollama.store import Home
from tollama.version import __version__

SERVING = ("ray", "pydantic", "fastapi", "starlette", "uvicorn", "prometheus-client")
LIBRARIES = (*SERVING, "numpy", "pandas", "huggingface-hub", "uv")
PREFIXES = ("TOLLAMA_", "RAY_", "HF_", "HUGGING_FACE_")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
OWN = (SOURCES, "TOLLAMA_SERVER")
"""Variables that nobody set but us, for ourselves."""


@cache
def versions() -> dict[str, str]:
    """Of tollama, Python, the system, and the libraries of the server's own environment."""
    found = {"tollama": __version__, "python": platform.python_version(), "system": platform.platform()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def config(settings: Settings, sources: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Each setting: its value, where that comes from (``option``, ``environment``, ``config``, ``default``, a file),
    and its environment variable."""
    values = settings.model_dump(mode="json")
    return {
        name: {
            "value": redacted(value, name),
            "source": sources.get(name, "default"),
            "env": env_name(name),
        }
        for name, value in values.items()
    }


def sources(settings: Settings, env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Where the values that are no defaults come from; the children of ``tollama serve`` know it from their parent,
    which sets the environment of all of them."""
    return dict(json.loads(env[SOURCES])) if SOURCES in env else dict(settings.sources)


def paths(settings: Settings) -> dict[str, str]:
    """The folders and files that are used."""
    home = Home(settings.home)
    found = {
        "home": home.root,
        "config": config_path(home.root),
        "models": home.models,
        "licenses": home.licenses,
        "runtimes": settings.runtimes,
        "cache": home.cache,
        "logs": home.logs,
        "run": home.run,
        "registry": data("model-registry/registry.yaml"),
    }
    return {name: str(path) for name, path in found.items()}


def environment(env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that change what tollama, Ray and the hub's client do."""
    shown = {
        name: value
        for name, value in sorted(env.items())
        if (name.startswith(PREFIXES) or name.lower() in PROXIES) and name not in OWN
    }
    masked: dict[str, str] = redacted(shown)
    return masked


def known() -> dict[str, Any]:
    """How many models the registry has, and of which families."""
    count = Counter(entry.family for entry in registry().values())
    return {"entries": len(registry()), "families": dict(count)}


def models(catalog: Catalog) -> dict[str, Any]:
    """The models that can run here, and those whose manifest cannot be read."""
    installed = []
    for model in catalog.installed():
        manifest = model.manifest
        installed.append(
            {
                "name": model.name,
                "family": model.family,
                "adapter": model.about.adapter,
                "source": model.about.source.repo_id or model.about.source.type,
                "revision": manifest.resolved.commit_sha if manifest is not None else None,
                "size_bytes": manifest.size_bytes if manifest is not None else 0,
                "installed_at": manifest.installed_at.isoformat() if manifest is not None else None,
                "license": model.about.license.id,
            }
        )
    return {"installed": redacted(installed), "broken": redacted(catalog.broken())}


def runtime(runtimes: Runtimes, spec: FamilySpec) -> dict[str, Any]:
    """A family's environment: whether it is installed and ready, its digest and its interpreter. A few stats."""
    state = runtimes.state(spec)
    try:
        digest = runtimes.digest(spec) if spec.lock is not None else None
        python = str(runtimes.python(spec))
    except TollamaError:  # its lock is gone; the state says so
        digest = python = None
    return {
        "installed": state.installed,
        "ready": state.ready,
        "reason": state.reason,
        "repair": state.repair,
        "digest": digest,
        "python": python,
    }


def local(settings: Settings) -> dict[str, Any]:
    """What can be told without a server: versions, config, paths, environment, registry, models, runtimes."""
    runtimes = Runtimes(settings.runtimes, keep_runtimes=settings.keep_runtimes)
    return {
        "versions": versions(),
        "config": config(settings, sources(settings)),
        "paths": paths(settings),
        "environment": environment(),
        "registry": known(),
        "models": models(Catalog(Home(settings.home))),
        "families": {name: {"runtime": runtime(runtimes, spec)} for name, spec in families().items()},
    }
