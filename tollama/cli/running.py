"""``ps`` and ``stop``: the models in memory."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from tollama.cli import completion, output
from tollama.cli.connection import Host, Json, connect

if TYPE_CHECKING:
    from tollama.protocols.ollama import Running


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
                model.name,
                model.digest[:12],
                output.size(model.size),
                _processor(model),
                str(model.context_length),
                _until(model),
            )
            for model in models
        ],
    )


def stop(
    names: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Models to unload.", autocompletion=completion.loaded)
    ],
    host: Host = None,
) -> None:
    """Unload models: at once, or as soon as they are no longer used. Their files stay."""
    with connect(host) as client:
        for name in names:
            client.unload(name)
            output.line(f"Stopped {name}.")


def _processor(model: Running) -> str:
    share = round(100 * min(1.0, model.size_vram / model.size)) if model.size else 0
    if 0 < share < 100:
        return f"{100 - share}%/{share}% CPU/GPU"
    return "100% GPU" if share or model.device.startswith("cuda") else "100% CPU"


def _until(model: Running) -> str:
    if model.state == "loading":
        return "Loading..."
    return "Stopping..." if model.expires_at <= datetime.now(UTC) else output.ago(model.expires_at)
