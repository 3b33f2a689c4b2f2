"""Pulling a model with progress on stderr; shared by ``pull`` and by ``forecast``, which pulls what is missing."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import typer

from tollama.cli import output
from tollama.errors import LicenseNotAccepted

if TYPE_CHECKING:
    from tollama.client import Client


def pull_model(client: Client, name: str, *, accept_license: bool = False, **options: Any) -> None:
    """Pull ``name``; a licence that needs acceptance is shown and asked about at a terminal, else it is an error."""
    try:
        _show(client, name, accept_license=accept_license, **options)
    except LicenseNotAccepted:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        if not _accepted(client, name):
            raise
        _show(client, name, accept_license=True, **options)


def _accepted(client: Client, name: str) -> bool:
    licence = client.model(name).license
    output.note(f"The licence of {name} ({licence.id}) must be accepted first.")
    for text in (licence.notice, licence.url):
        if text:
            output.note(text)
    return typer.confirm("Do you accept it?", err=True)


def _show(client: Client, name: str, **options: Any) -> None:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    bars: dict[str, TaskID] = {}
    said = None
    progress = Progress(*columns, console=console)
    with ExitStack() as bar_area:
        for event in client.pull(name, **options):
            status, digest = event.status, event.digest
            if digest:
                if not bars:  # not before: an empty area of bars leaves an empty line
                    bar_area.enter_context(progress)
                if digest not in bars:
                    bars[digest] = progress.add_task(status, total=event.total)
                progress.update(bars[digest], total=event.total, completed=event.completed or 0)
            elif status != said:
                console.print(status)
                said = status
