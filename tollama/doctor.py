"""What ``tollama doctor`` looks at: each check says how things are, and what to do where they are not well."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import metadata
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet

from tollama import licenses
from tollama.catalog import Catalog, mending
from tollama.client import Client
from tollama.errors import (
    ConfigError,
    DeadlineExceeded,
    ModelNotFound,
    RunnerUnavailable,
    ServerUnreachable,
    TollamaError,
)
from tollama.families import FamilySpec, families
from tollama.pull_child import pull_in_child
from tollama.redaction import text
from tollama.retention import left_over, snapshots
from tollama.runtime_build import MARK, Progress, probe
from tollama.runtimes import Runtimes
from tollama.settings import Settings, config_path, env_name, load
from tollama.store import Home, Manifest, fault_of, in_use, sha256_of
from tollama.version import __version__
from tollama.wanted import PullRequest, as_entry, proxies

LEAST_BYTES = 100e6
"""Free space under which not even manifests and logs can be relied on."""
SCARCE_BYTES = 5e9
"""Free space under which an environment (1 to 6 GB) or a model may not find room."""
HUB_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Check:
    """How one thing is: ``warn`` is a lack that one can live with. ``hint`` says what mends it, "" when it is well."""

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    hint: str = ""


def examine(
    connect: Callable[[], Client], say: Progress, *, quick: bool = False, repair: bool = False
) -> Iterator[Check]:
    """Every check, each made when it is asked for, its secrets masked. Never raises for what it finds.

    ``connect`` makes a client of the server; ``say`` gets the lines of what takes long. ``quick`` leaves out the import
    of each environment's libraries (3 to 15 s each) and reading each model's files through; ``repair`` builds anew the
    runtimes that are broken, pulls the models that are, and clears away what was left over.
    """
    for check in _checks(connect, say, quick=quick, repair=repair):
        yield replace(check, detail=text(check.detail), hint=text(check.hint))


def _checks(connect: Callable[[], Client], say: Progress, *, quick: bool, repair: bool) -> Iterator[Check]:
    yield python()
    settings, check = configuration()
    yield check
    yield _safely("home", lambda: home(settings))
    yield _safely("disk", lambda: disk(settings))
    try:
        runtimes = Runtimes(settings.runtimes, keep_runtimes=settings.keep_runtimes)
    except ConfigError as error:
        yield _told("runtimes", error)
    else:
        for spec in families().values():
            yield runtime(runtimes, spec, say, quick=quick, repair=repair)
    yield from models(settings, say, quick=quick, repair=repair)
    yield _safely("store", lambda: store(settings, repair=repair))
    yield hub(settings)
    yield _safely("server", lambda: server(connect))


def python() -> Check:
    """Whether this Python is one that tollama is made for."""
    here, wanted = platform.python_version(), SpecifierSet(metadata("tollama")["Requires-Python"])
    if wanted.contains(here):
        return Check("python", "ok", here)
    return Check("python", "fail", f"{here}; tollama needs {wanted}", "Install tollama under another Python.")


def configuration() -> tuple[Settings, Check]:
    """The settings in force; where they are malformed, the defaults, so that the rest can still be looked at."""
    try:
        settings = load()
    except ConfigError as error:
        folders = {name: os.environ.get(env_name(name)) for name in ("home", "runtimes_dir")}
        fallback = Settings.model_validate({name: folder for name, folder in folders.items() if folder})
        return fallback, _told("config", error)
    path = config_path(settings.home)
    return settings, Check("config", "ok", str(path) if path.exists() else f"{path} (none, the defaults hold)")


def home(settings: Settings) -> Check:
    """Whether the folder of models, licences and logs can be written to, or made."""
    folder = _nearest(settings.home)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        hint = "Give yourself the right to write there, or set TOLLAMA_HOME to another folder."
        return Check("home", "fail", f"{folder} cannot be written to: {error.strerror}.", hint)
    made = "" if folder == settings.home else " (made when it is needed)"
    return Check("home", "ok", f"{settings.home}{made}")


def disk(settings: Settings) -> Check:
    """Whether there is room where models and environments go."""
    free, folder = min((shutil.disk_usage(_nearest(path)).free, path) for path in (settings.home, settings.runtimes))
    detail = f"{free / 1e9:.1f} GB free for {folder}"
    hint = "Free some space, or set TOLLAMA_HOME or TOLLAMA_RUNTIMES_DIR to a larger disk."
    if free < SCARCE_BYTES:
        return Check("disk", "fail" if free < LEAST_BYTES else "warn", detail, hint)
    return Check("disk", "ok", detail)


def runtime(runtimes: Runtimes, spec: FamilySpec, say: Progress, *, quick: bool, repair: bool) -> Check:
    """Whether a family's environment can be started and, unless ``quick``, whether its libraries import."""
    found = _runtime(runtimes, spec, say, quick=quick)
    if not repair or found.status != "fail" or not found.hint.startswith("tollama runtime"):
        return found
    try:
        runtimes.repair(spec, say)
    except TollamaError as error:
        return _told(found.name, error)
    return _runtime(runtimes, spec, say, quick=True)  # a repair ends with an import


def _runtime(runtimes: Runtimes, spec: FamilySpec, say: Progress, *, quick: bool) -> Check:
    name, mend = f"runtime {spec.name}", f"tollama runtime repair {spec.name}"
    if spec.lock is None:
        return Check(name, "ok", "the server's own environment")
    state = runtimes.state(spec)
    if not state.ready:
        absent = not state.installed and state.repair.startswith("tollama runtime")
        return Check(name, "warn" if absent else "fail", state.reason, state.repair)
    try:
        libraries: dict[str, str] = json.loads((runtimes.folder(spec) / MARK).read_bytes())["libraries"]
        if not quick and probe(spec, runtimes.folder(spec), say)["libraries"] != libraries:
            return Check(name, "fail", "Its libraries are not those that were installed.", mend)
    except RunnerUnavailable as error:
        return Check(name, "fail", f"It is installed, but {str(error).partition(': ')[2]}", mend)
    except (OSError, ValueError, KeyError):
        return Check(name, "fail", "The record of its installation cannot be read.", mend)
    return Check(name, "ok", ", ".join(f"{one} {libraries[one]}" for one in _named(spec) if one in libraries))


def _named(spec: FamilySpec) -> list[str]:
    """The libraries that a family is about: Ray, torch, and what its wishes beside the lock pin by name."""
    named = ["ray", *(["torch"] if spec.torch else [])]
    assert spec.lock is not None
    wishes = spec.lock.with_suffix(".in")
    for line in wishes.read_text().splitlines() if wishes.exists() else ():
        try:
            wish = Requirement(line.partition("#")[0])
        except InvalidRequirement:  # a comment, an empty line, an option of pip
            continue
        if any(one.operator == "==" for one in wish.specifier):
            named.append(wish.name.lower().replace("_", "-"))
    return list(dict.fromkeys(named))


def models(settings: Settings, say: Progress, *, quick: bool, repair: bool) -> Iterator[Check]:
    """One row for each installed model that cannot run or whose files are others than they were, and one for all."""
    try:
        catalog = Catalog(Home(settings.home))
        broken, installed = catalog.broken(), catalog.installed()
    except (TollamaError, OSError) as error:
        yield _told("models", error)
        return
    whole = 0
    for model in installed:
        if model.manifest is not None and not quick and (reason := altered(model.manifest)):
            broken[model.name] = reason
    for name, reason in broken.items():
        told = f"The model {name!r} is broken: {reason}."
        manifest = catalog.store.get(name) if repair and not settings.offline else None
        if manifest is not None and manifest.source.type == "huggingface":
            if not (failed := repulled(manifest, settings, say)):
                whole += 1
                continue
            told = f"{told} It could not be pulled: {failed}"
        yield Check(f"model {name}", "fail", told, mending(name))
    for model in installed:
        if model.name in broken:
            continue
        whole += not model.embedded
        try:
            catalog.runnable(model.name)
        except TollamaError as error:
            yield Check(f"model {model.name}", "warn", str(error), error.hint)
            continue
        if model.family not in families():
            told = f"The model {model.name!r} is of the family {model.family!r}, which is not here."
            yield Check(f"model {model.name}", "warn", told, "Install the package that the family comes with.")
    yield Check("models", "ok", f"{whole} pulled and whole")


def altered(manifest: Manifest) -> str:
    """What of an installed model's files is not what was pulled, "" if nothing is; they are read through."""
    with suppress(OSError):
        changed = [file.path for file in manifest.files if sha256_of(manifest.snapshot / file.path) != file.sha256]
        return f"the file {changed[0]} has another content" if changed else ""
    return fault_of(manifest) or "a file of it cannot be read"


def repulled(manifest: Manifest, settings: Settings, say: Progress) -> str:
    """Pull a model that is damaged, at the commit that it was at; why that failed, "" if it did not."""
    request = PullRequest(name=manifest.name, revision=manifest.resolved.commit_sha, no_runtime=True)

    async def ask() -> dict[str, Any]:
        line: dict[str, Any] = {}
        async for line in pull_in_child(as_entry(manifest), request, settings):
            say(f"{manifest.name}: {line.get('status', '')}")
        return line

    last = asyncio.run(ask())
    if "error" in last:
        return str(last["error"])
    found = Catalog(Home(settings.home)).store
    if (again := found.get(manifest.name)) is not None:  # a branch goes on being the one that is followed
        found.update(again.model_copy(update={"source": manifest.source}))
    return ""


def store(settings: Settings, *, repair: bool) -> Check:
    """Whether something was left over by what was cut short, and whether every licence receipt can be read."""
    home, found = Home(settings.home), []
    if (home.cache / "staging").is_dir():
        with in_use(home.cache, alone=True) as free:  # else a pull is at work
            for one in left_over(settings) if free else ():
                found.append(str(one.path))
                if repair:
                    shutil.rmtree(one.path, ignore_errors=True)
    if home.models.is_dir():
        found += [str(one.path) for one in snapshots(settings, dry_run=not repair)]
    damaged = []
    for path in sorted(home.licenses.glob("[!.]*.json")):
        with suppress(ModelNotFound):  # no file of ours
            if licenses.receipt(home, path.stem) is None:
                damaged.append(path.stem)
    if damaged:
        told = f"The licence receipt of {', '.join(damaged)} cannot be read: it has to be accepted again."
        return Check("store", "warn", told, f"tollama pull {damaged[0]} --accept-license")
    if found and not repair:
        return Check("store", "warn", f"Left over: {', '.join(found)}", "tollama doctor --fix")
    return Check("store", "ok", f"{len(found)} removed that were left over" if found else "nothing is left over")


def hub(settings: Settings) -> Check:
    """Whether the hub answers, unless it is not to be asked. No token is sent."""
    address = urlsplit(settings.hf_endpoint)
    shown = f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}"
    if settings.offline:
        return Check("hub", "ok", "not asked: the settings say offline")
    if address.scheme not in ("http", "https") or not address.hostname:
        return Check("hub", "fail", "The address of the hub is no URL.", "Correct TOLLAMA_HF_ENDPOINT or HF_ENDPOINT.")
    hint = "Check the network, HF_ENDPOINT and the proxy settings. What is installed works without the hub."
    way = proxies(PullRequest(name="any"), settings, os.environ)
    proxy = settings.proxies if settings.proxies in (way.get("http_proxy"), None) else None  # else the standard ones
    try:
        status = httpx.head(settings.hf_endpoint, timeout=HUB_TIMEOUT_S, proxy=proxy).status_code
    except httpx.TimeoutException:
        return Check("hub", "warn", f"{shown} does not answer within {HUB_TIMEOUT_S:g} s", hint)
    except httpx.HTTPError:
        return Check("hub", "warn", f"{shown} cannot be reached", hint)
    except (httpx.InvalidURL, ValueError, ImportError):  # of the proxy
        return Check("hub", "warn", "The proxy settings cannot be used.", "Check HTTPS_PROXY and ALL_PROXY.")
    if status < 400 or status in (401, 404, 405):  # the page of a hub's root is nothing that we need
        return Check("hub", "ok", f"{shown} answers")
    return Check("hub", "warn", f"{shown} answers with HTTP {status}", hint)


def server(connect: Callable[[], Client]) -> Check:
    """Whether a server of this version answers."""
    try:
        with connect() as client:
            url, found = client.url, client.version()
    except ServerUnreachable as error:
        return Check("server", "warn", str(error), error.hint)
    except DeadlineExceeded as error:
        return Check("server", "fail", str(error), "Restart the server; its log tells what it is busy with.")
    if found != __version__:
        return Check("server", "warn", f"tollama {found} at {url}, this is {__version__}", "Restart the server.")
    return Check("server", "ok", f"tollama {found} at {url}")


def _safely(name: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except (TollamaError, OSError) as error:
        return _told(name, error)


def _told(name: str, error: TollamaError | OSError) -> Check:
    if isinstance(error, TollamaError):
        return Check(name, "fail", str(error), error.hint)
    detail = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return Check(name, "fail", detail, "Check the path and its permissions.")


def _nearest(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())
