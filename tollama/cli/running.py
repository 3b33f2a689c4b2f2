"""``ps`` and ``stop``: the models in memory."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from tollama.cli import output
from tollama.cli.connection import Host, Json, connect


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(epilog="Example: tollama ps --json")(ps)
    app.command(epilog="Example: tollama stop chronos-bolt-small")(stop)


def ps(as_json: Json = False, host: Host = None) -> None:
    """List the loaded models."""
    with connect(host) as client:
        models = client.ps()
    if as_json:
        output.emit(models)
        return
    output.table(
        ("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"),
        [
            (
                model["name"],
                str(model.get("digest") or "-")[:12],
                output.size(model.get("size")),
                _processor(model),
                str(model.get("context_length", "-")),
                _until(model),
            )
            for model in models
        ],
    )


def stop(
    names: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Models to unload.")], host: Host = None
) -> None:
    """Unload models: at once, or as soon as they are no longer used. Their files stay."""
    with connect(host) as client:
        for name in names:
            client.unload(name)
            output.line(f"Stopped {name}.")


def _processor(model: dict[str, Any]) -> str:
    total, on_gpu = model.get("size") or 0, model.get("size_vram") or 0
    share = round(100 * min(1.0, on_gpu / total)) if total else 0
    if 0 < share < 100:
        return f"{100 - share}%/{share}% CPU/GPU"
    return "100% GPU" if share or str(model.get("device", "")).startswith("cuda") else "100% CPU"


def _until(model: dict[str, Any]) -> str:
    if model.get("state") == "loading":
        return "Loading..."
    moment = model.get("expires_at")
    if moment and datetime.fromisoformat(moment) <= datetime.now(UTC):
        return "Stopping..."
    return output.ago(moment)
