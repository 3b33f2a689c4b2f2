"""Pulling a model with progress on stderr; shared by ``pull`` and by ``forecast``, which pulls what is missing."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

import typer

from tollama.cli import output
from tollama.errors import LicenseNotAccepted

if TYPE_CHECKING:
    from pathlib import Path

    from rich.progress import TaskID

    from tollama.client import Client
    from tollama.protocols.ollama import Status


def pull_model(client: Client, name: str, *, accept_license: bool = False, **options: Any) -> None:
    """Pull ``name``; a licence that needs acceptance is shown and asked about at a terminal, else it is an error."""
    try:
        _show(client.pull(name, accept_license=accept_license, **options))
    except LicenseNotAccepted as error:
        if not _accepted(error):
            raise
        terms = error.detail if isinstance(error.detail, dict) else {}
        _show(client.pull(name, accept_license=True, license_sha256=terms.get("text_sha256"), **options))


def adopt_model(
    folder: Path, name: str, license_id: str | None, *, accept_license: bool = False, no_runtime: bool = False
) -> None:
    """Take the checkpoint in ``folder`` into this machine's store, and build its family's runtime."""
    from tollama import adopt, settings
    from tollama.pull import install_runtime
    from tollama.runtimes import Runtimes

    known = settings.load()
    entry = adopt.describe(folder, name, license_id)
    if entry.license.id == "unknown" and license_id is None and not accept_license and _at_terminal():
        output.note("Nothing in the folder says which licence the weights are under.")
        license_id = typer.prompt("Its id, as mit or cc-by-nc-4.0", err=True, default="unknown")
        entry = adopt.describe(folder, name, license_id)
    with _Progress() as progress:
        try:
            adopt.adopt(folder, entry, known, progress.tell, accept_license=accept_license)
        except LicenseNotAccepted as error:
            if not _accepted(error):
                raise
            adopt.adopt(folder, entry, known, progress.tell, accept_license=str(error.detail["text_sha256"]))
        if not no_runtime:
            install_runtime(entry.family, Runtimes(known.runtimes, keep_runtimes=known.keep_runtimes), progress.tell)
    output.note(f"{entry.name} is in {known.home}.")


def _at_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _accepted(error: LicenseNotAccepted) -> bool:
    """Whether the user, asked at a terminal, accepts the licence whose text the error has."""
    if not _at_terminal():
        return False
    terms = error.detail if isinstance(error.detail, dict) else {}
    output.note(str(error))
    for part in dict.fromkeys((terms.get("notice"), terms.get("text"), terms.get("url"))):
        if part:  # word for word: it is what is accepted
            print(f"\n{part}", file=sys.stderr, flush=True)
    return typer.confirm("\nDo you accept it?", err=True)


def _show(events: Iterable[Status]) -> None:
    with _Progress() as progress:
        for event in events:
            progress.tell(event.model_dump())


class _Progress:
    """The lines of a pull on stderr: a bar for each file with bytes, speed and time left; other statuses once."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self._area = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._bars: dict[str, TaskID] = {}
        self._said = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._area.stop()

    def tell(self, event: dict[str, Any]) -> None:
        """Show one line of a pull."""
        status, digest = str(event.get("status", "")), event.get("digest")
        if not digest:
            if status != self._said:
                self._console.print(status)
            self._said = status
            return
        total, completed = event.get("total"), event.get("completed") or 0
        if digest not in self._bars:
            self._area.start()  # not before: an empty area of bars leaves an empty line
            # What was there already is not part of the speed.
            self._bars[digest] = self._area.add_task(status, total=total, completed=completed)
        self._area.update(self._bars[digest], total=total, completed=completed)
