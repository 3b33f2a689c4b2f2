"""``tollama doctor``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import Annotated

import typer

from tollama.cli import output
from tollama.cli.connection import Host, Json, connect


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(epilog="Example: tollama doctor --quick")(doctor)


def doctor(
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not import each runtime's libraries, nor read each model's files.")
    ] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Repair what is broken, clear away what was left over.")] = False,
    as_json: Json = False,
    host: Host = None,
) -> None:
    """Check Python, the disk, each runtime, the models, the hub and the server. Exit code 1 if anything failed."""
    from tollama.doctor import examine

    checks = []
    with nullcontext() if fix else _quiet():
        for check in examine(lambda: connect(host), output.note, quick=quick, repair=fix):
            checks.append(check)
            if not as_json:
                output.line(f"{check.status:<6} {check.name:<18} {check.detail}")
                if check.hint:
                    output.line(f"{'':<25} Hint: {check.hint}")
    failed, warned = (sum(check.status == status for check in checks) for status in ("fail", "warn"))
    if as_json:
        output.emit([asdict(check) for check in checks])
    else:
        output.line(f"Failures: {failed}. Warnings: {warned}.")
    raise typer.Exit(1 if failed else 0)


@contextmanager
def _quiet() -> Iterator[None]:
    """No tracebacks of libraries that do not import: who repairs them gets to see those."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
