"""``pull``, ``list``, ``show`` and ``rm``: the models of the server."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tollama.cli import output
from tollama.cli.connection import Host, Json, connect

Name = Annotated[str, typer.Argument(metavar="MODEL", help="A model, as in: tollama list --available")]
Accept = Annotated[bool, typer.Option("--accept-license", help="Accept the model's licence.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(epilog="Example: tollama pull chronos-bolt-small")(pull)
    app.command("list", epilog="Example: tollama list --available")(list_models)
    app.command("ls", hidden=True, epilog="Example: tollama ls")(list_models)
    app.command(epilog="Example: tollama show seasonal-naive")(show)
    app.command(epilog="Example: tollama rm chronos-bolt-small")(rm)


def pull(
    name: Name,
    accept_license: Accept = False,
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit instead of the registry's.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use only what is on the disk.")] = False,
    no_runtime: Annotated[bool, typer.Option("--no-runtime", help="Do not install the family's runtime.")] = False,
    host: Host = None,
) -> None:
    """Download a model, and its family's runtime when that is absent."""
    from tollama.cli.pulling import pull_model

    with connect(host) as client:
        pull_model(
            client, name, accept_license=accept_license, revision=revision, offline=offline, no_runtime=no_runtime
        )


def list_models(
    available: Annotated[bool, typer.Option("--available", help="List every model that can be pulled.")] = False,
    as_json: Json = False,
    host: Host = None,
) -> None:
    """List the installed models."""
    with connect(host) as client:
        models = client.models()
        tags = {tag["name"]: tag for tag in client.tags()}
    if available:
        entries = models["available"]
        if as_json:
            output.emit(entries)
            return
        rows = [(m["name"], str(m.get("family", "-")), _licence(m), str(m.get("state", "-"))) for m in entries]
        output.table(("NAME", "FAMILY", "LICENSE", "STATE"), rows)
        return
    installed = {entry["name"]: entry for entry in models["installed"]}
    merged = {name: installed.get(name, {}) | tags.get(name, {}) for name in [*tags, *installed]}
    if as_json:
        output.emit(list(merged.values()))
        return
    output.table(
        ("NAME", "ID", "SIZE", "FAMILY", "LICENSE", "MODIFIED"),
        [
            (
                name,
                str(model.get("digest") or "-")[:12],
                output.size(model.get("size")),
                str(model.get("family") or (model.get("details") or {}).get("family") or "-"),
                str((model.get("license") or {}).get("id", "-")),
                output.ago(model.get("modified_at")) if name in tags else str(model.get("state", "-")),
            )
            for name, model in merged.items()
        ],
    )


def _licence(model: dict[str, Any]) -> str:
    licence = model.get("license") or {}
    asked = licence.get("needs_acceptance") and not licence.get("accepted")
    return f"{licence.get('id', '-')}{' (to be accepted)' if asked else ''}"


def show(name: Name, as_json: Json = False, host: Host = None) -> None:
    """Show what a model is, can do and is licensed under."""
    with connect(host) as client:
        model = client.model(name)
    if as_json:
        output.emit(model)
        return
    manifest, source = model.get("manifest") or {}, model.get("source") or {}
    details = manifest.get("details") or model.get("details") or {}
    resolved = manifest.get("resolved") or {}
    output.section(
        "Model",
        _present(
            name=model["name"],
            family=model.get("family"),
            state=model.get("state"),
            parameters=details.get("parameter_size"),
            source=source.get("repo_id") or source.get("type"),
            revision=resolved.get("commit_sha") or source.get("revision"),
            size=output.size(manifest.get("size_bytes")) if manifest else None,
        ),
    )
    can: dict[str, Any] = model.get("capabilities") or {}
    quantiles, covariates = can.get("quantiles") or {}, can.get("covariates") or {}
    output.section(
        "Capabilities",
        _present(
            quantiles=_levels(quantiles),
            covariates=", ".join(kind.replace("_", " ") for kind, able in covariates.items() if able) or "none",
            missing_values=_yes(can.get("missing_values")),
            multivariate=_yes(can.get("multivariate")),
            deterministic=_yes(can.get("deterministic")),
            point=can.get("point"),
            options=", ".join(can.get("options") or {}) or "none",
        ),
    )
    limits = ("max_context", "min_context", "max_horizon", "native_horizon")
    output.section("Limits", _present(**{key: can.get(key) for key in limits}))
    licence: dict[str, Any] = (model.get("license") or {}) | (manifest.get("license") or {})
    output.section(
        "License",
        _present(
            id=licence.get("id"),
            needs_acceptance=_yes(licence.get("needs_acceptance")),
            accepted=_yes(licence.get("accepted")),
            notice=licence.get("notice"),
            url=licence.get("url"),
        ),
    )
    files = [(file["path"], output.size(file.get("size"))) for file in manifest.get("files") or []]
    output.section("Files", files or [("none", "")])


def _present(**pairs: Any) -> list[tuple[str, str]]:
    return [(key.replace("_", " "), str(value)) for key, value in pairs.items() if value not in (None, "")]


def _yes(value: Any) -> str | None:
    return None if value is None else "yes" if value else "no"


def _levels(quantiles: dict[str, Any]) -> str:
    native = [f"{level:g}" for level in quantiles.get("native") or []]
    shown = ", ".join(native if len(native) <= 9 else [*native[:4], "...", *native[-4:]]) or "any"
    return f"{shown} ({quantiles.get('method', 'native')})"


def rm(
    names: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Models to remove.")], host: Host = None
) -> None:
    """Remove installed models."""
    with connect(host) as client:
        for name in names:
            client.delete(name)
            output.line(f"Removed {name}.")
