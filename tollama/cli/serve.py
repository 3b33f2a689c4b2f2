"""``tollama serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(epilog="Example: tollama serve --port 11435")(serve)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of the API.")] = None,
    config: Annotated[Path | None, typer.Option(help="Another serve_config.yaml.")] = None,
    no_dashboard: Annotated[bool, typer.Option("--no-dashboard", help="Do without Ray's dashboard.")] = False,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Listen beyond this machine without API keys."),
    ] = False,
    home: Annotated[Path | None, typer.Option(help="Folder of models and runtimes; else TOLLAMA_HOME.")] = None,
) -> None:
    """Run the server in the foreground, until Ctrl-C."""
    from tollama.launcher import serve as launch

    dashboard, open_to_all = False if no_dashboard else None, insecure or None
    raise typer.Exit(launch(host=host, port=port, config=config, dashboard=dashboard, home=home, insecure=open_to_all))
