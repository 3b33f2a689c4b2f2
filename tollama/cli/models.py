"""``pull``, ``list``, ``show`` and ``rm``: the models of the server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tollama.cli import completion, output
from tollama.cli.connection import Host, Json, connect
from tollama.errors import TollamaError

if TYPE_CHECKING:
    from tollama.answers import LicenseInfo, ModelDetail
    from tollama.capabilities import Quantiles
    from tollama.client import Client

Name = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A model, as in: tollama list --available", autocompletion=completion.known),
]
Accept = Annotated[bool, typer.Option("--accept-license", help="Accept the model's licence.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(epilog="Example: tollama pull chronos-bolt-small")(pull)
    app.command("list", epilog="Example: tollama list --available")(list_models)
    app.command("ls", hidden=True, epilog="Example: tollama ls")(list_models)
    app.command(epilog="Example: tollama show seasonal-naive")(show)
    app.command(epilog="Example: tollama rm chronos-bolt-small")(rm)
    app.command(epilog="Example: tollama prune --dry-run")(prune)


def pull(
    name: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A model, hf:ORG/NAME[@REVISION], or a name of yours.",
            autocompletion=completion.known,
        ),
    ],
    accept_license: Accept = False,
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit instead of the registry's.")] = None,
    local_name: Annotated[
        str | None, typer.Option("--name", help="What a model of hf:... is called here; default org--name.")
    ] = None,
    from_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Take the checkpoint in this folder, copied; asks no server.")
    ] = None,
    license_id: Annotated[
        str | None, typer.Option("--license", metavar="ID", help="With --from-dir: the licence of the weights, as mit.")
    ] = None,
    offline: Annotated[
        bool | None,
        typer.Option("--offline/--no-offline", help="Use only what is on the disk, or not; else as the server is set."),
    ] = None,
    no_runtime: Annotated[bool, typer.Option("--no-runtime", help="Do not install the family's runtime.")] = False,
    token: Annotated[
        str | None, typer.Option(help="Token of the hub for this pull, as for a gated repository.", show_default=False)
    ] = None,
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="Another hub, for this pull.")] = None,
    proxy: Annotated[str | None, typer.Option(metavar="URL", help="Another proxy to the hub, for this pull.")] = None,
    host: Host = None,
) -> None:
    """Download a model, and its family's runtime when that is absent.

    A model is one of tollama list --available, or any repository of the hub whose architecture is served; with
    --from-dir it is a checkpoint of this machine, put into TOLLAMA_HOME.
    """
    from tollama.cli import pulling

    if from_dir is not None:
        if revision or local_name or offline is not None or token or endpoint or proxy or host:
            raise typer.BadParameter("--from-dir goes with --license, --accept-license and --no-runtime only.")
        _tell_where()
        pulling.adopt_model(from_dir, name, license_id, accept_license=accept_license, no_runtime=no_runtime)
        return
    if license_id is not None:
        raise typer.BadParameter("--license goes with --from-dir.")
    with connect(host) as client:
        pulling.pull_model(
            client,
            name,
            accept_license=accept_license,
            revision=revision,
            local_name=local_name,
            offline=offline,
            no_runtime=no_runtime,
            token=token,
            endpoint=endpoint,
            proxy=proxy,
        )


def _tell_where() -> None:
    """A folder is taken into this machine's home, wherever the server is that other commands ask."""
    from tollama.network import on_loopback
    from tollama.settings import load

    settings = load()
    if not on_loopback(settings.host) and settings.host not in ("0.0.0.0", "::"):
        output.note(f"Warning: the server is at {settings.host}; the model goes into {settings.home} of this machine.")


def list_models(
    available: Annotated[bool, typer.Option("--available", help="List every model that can be pulled.")] = False,
    as_json: Json = False,
    host: Host = None,
) -> None:
    """List the installed models."""
    with connect(host) as client:
        models = client.models()
        tags = {tag.name: tag for tag in client.tags()}
    if available:
        if as_json:
            output.emit(models.available)
            return
        rows = [(model.name, model.family, _licence(model.license), model.state) for model in models.available]
        output.table(("NAME", "FAMILY", "LICENSE", "STATE"), rows)
        return
    installed = [(model, tags[model.name]) for model in models.installed if model.name in tags]
    if as_json:
        merged = [model.model_dump(mode="json") | tag.model_dump(mode="json") for model, tag in installed]
        output.emit(merged + [{"state": "broken"} | one.model_dump() for one in models.broken])
        return
    output.table(
        ("NAME", "ID", "SIZE", "FAMILY", "LICENSE", "MODIFIED"),
        [
            (
                model.name,
                tag.digest[:12],
                output.size(tag.size),
                model.family,
                model.license.id,
                output.ago(tag.modified_at),
            )
            for model, tag in installed
        ],
    )
    if models.broken:
        from tollama.catalog import mending

    for one in models.broken:
        output.note(f"Warning: {one.name} is broken: {one.reason}. Mend it with: {mending(one.name)}")


def _licence(licence: LicenseInfo) -> str:
    return f"{licence.id}{'' if licence.accepted else ' (to be accepted)'}"


def show(
    name: Name,
    text: Annotated[bool, typer.Option("--license", help="Print the text of the model's licence, no more.")] = False,
    as_json: Json = False,
    host: Host = None,
) -> None:
    """Show what a model is, can do and is licensed under."""
    with connect(host) as client:
        model = client.model(name)
        licence = _text(client, model) if text else ""
    if text:
        # Word for word: whoever accepts it has to have read it.
        told = {"name": model.name, "license": licence}
        output.emit(told, reveal=True) if as_json else output.line(licence.rstrip(), reveal=True)
    elif as_json:
        output.emit(model)
    else:
        _sections(model)


def _text(client: Client, model: ModelDetail) -> str:
    """The licence's text where the model's files have one; before the pull, what is known of it."""
    if model.installed:
        return client.show(model.name).license
    terms = model.license
    return "\n".join(part for part in (terms.id, terms.notice, terms.url) if part)


def _sections(model: ModelDetail) -> None:
    manifest, can, licence = model.manifest, model.capabilities, model.license
    output.section(
        "Model",
        _present(
            name=model.name,
            family=model.family,
            state=model.state,
            parameters=manifest.details.parameter_size if manifest else None,
            source=model.source.repo_id or model.source.type,
            revision=manifest.resolved.commit_sha if manifest else model.source.revision,
            size=output.size(manifest.size_bytes) if manifest else None,
            runtime="ready" if model.runtime.ready else "broken" if model.runtime.installed else "not installed",
        ),
    )
    covariates = [kind.replace("_", " ") for kind, able in can.covariates.model_dump().items() if able]
    output.section(
        "Capabilities",
        _present(
            quantiles=_levels(can.quantiles),
            covariates=", ".join(covariates) or "none",
            missing_values=_yes(can.missing_values),
            multivariate=_yes(can.multivariate),
            deterministic=_yes(can.deterministic),
            point=can.point,
            options=", ".join(can.options) or "none",
        ),
    )
    limits = ("max_context", "min_context", "max_horizon", "native_horizon")
    output.section("Limits", _present(**{key: getattr(can, key) for key in limits}))
    output.section(
        "License",
        _present(
            id=licence.id,
            needs_acceptance=_yes(licence.needs_acceptance),
            accepted=_yes(licence.accepted) if licence.needs_acceptance else None,
            notice=licence.notice,
            url=licence.url,
        ),
    )
    files = [(file.path, output.size(file.size)) for file in manifest.files] if manifest else []
    output.section("Files", files or [("none", "")])


def _present(**pairs: Any) -> list[tuple[str, str]]:
    return [(key.replace("_", " "), str(value)) for key, value in pairs.items() if value not in (None, "")]


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _levels(quantiles: Quantiles) -> str:
    native = [f"{level:g}" for level in quantiles.native]
    shown = ", ".join(native if len(native) <= 9 else [*native[:4], "...", *native[-4:]]) or "any"
    return f"{shown} ({quantiles.method})"


def rm(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL...", help="Models to remove.", autocompletion=completion.installed),
    ] = None,
    cache: Annotated[bool, typer.Option("--cache", help="Remove what was downloaded and no model needs.")] = False,
    host: Host = None,
) -> None:
    """Remove installed models, or the cache of downloads in TOLLAMA_HOME."""
    if not names and not cache:
        raise typer.BadParameter("MODEL is missing.")
    if names:
        with connect(host) as client:
            for name in names:
                client.delete(name)
                output.line(f"Removed {name}.")
    if cache:
        from tollama.retention import empty_cache
        from tollama.settings import load
        from tollama.store import Home

        freed = empty_cache(Home(load().home))
        if freed is None:
            raise TollamaError("A pull is at work in the cache.", hint="Try again when it is done.")
        output.line(f"Removed the cache: {output.size(freed) if freed else 'nothing'} became free.")


def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False, as_json: Json = False
) -> None:
    """Remove what the settings say is too much or too old in TOLLAMA_HOME.

    Downloads that no model uses, older snapshots and runtimes, logs; models and licence receipts stay.
    """
    from tollama import retention
    from tollama.settings import load

    gone = list(retention.prune(load(), dry_run=dry_run))
    if as_json:
        output.emit([{"path": str(one.path), "size": one.size, "why": one.why} for one in gone])
        return
    for one in gone:
        output.line(f"{'Would remove' if dry_run else 'Removed'} {one.path}: {one.why}.")
    total = sum(one.size for one in gone)
    output.line(f"{output.size(total) if total else 'Nothing'} {'would become' if dry_run else 'became'} free.")
