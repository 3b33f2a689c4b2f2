"""``tollama runtime``: the Python environments of the model families, on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tollama.cli import output
from tollama.cli.connection import Json

if TYPE_CHECKING:
    from tollama.families import FamilySpec
    from tollama.runtimes import Runtimes

Family = Annotated[str, typer.Argument(help="A family, as in: tollama runtime list")]

group = typer.Typer(
    help="The Python environments of the model families, on this machine.", no_args_is_help=True, rich_markup_mode=None
)


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(group, name="runtime", epilog="Example: tollama runtime install torch")


def _runtimes() -> Runtimes:
    from tollama.runtimes import Runtimes
    from tollama.settings import load

    settings = load()
    return Runtimes(settings.runtimes, keep_runtimes=settings.keep_runtimes)


def _spec(name: str) -> FamilySpec:
    from tollama.errors import NotFound
    from tollama.families import families

    if name not in families():
        raise NotFound("There is no such family.", hint=f"The families are: {', '.join(families())}.")
    return families()[name]


@group.command("list", epilog="Example: tollama runtime list --json")
def list_runtimes(as_json: Json = False) -> None:
    """Show each family's runtime: whether it is installed and ready."""
    rows = _runtimes().list()
    if as_json:
        output.emit(
            [
                {
                    "family": row.family,
                    "installed": row.state.installed,
                    "ready": row.state.ready,
                    "reason": row.state.reason,
                    "repair": row.state.repair,
                    "digest": row.digest,
                    "python": str(row.python),
                    "size": row.size_bytes,
                    "libraries": dict(row.libraries),
                }
                for row in rows
            ]
        )
        return
    output.table(
        ("FAMILY", "STATE", "SIZE", "DIGEST", "REPAIR"),
        [
            (
                row.family,
                "ready" if row.state.ready else "broken" if row.state.installed else "not installed",
                output.size(row.size_bytes),
                row.digest[:12] or "-",
                row.state.repair or "-",
            )
            for row in rows
        ],
    )


@group.command(epilog="Example: tollama runtime install torch")
def install(family: Family) -> None:
    """Install a family's runtime, unless it is there."""
    spec = _spec(family)
    _runtimes().install(spec, progress=output.note)
    output.line(f"The runtime of {family} is ready.")


@group.command(epilog="Example: tollama runtime repair torch")
def repair(family: Family) -> None:
    """Check a family's runtime and build it anew if it is broken."""
    spec = _spec(family)
    _runtimes().repair(spec, progress=output.note)
    output.line(f"The runtime of {family} is ready.")


@group.command(epilog="Example: tollama runtime remove torch")
def remove(family: Family) -> None:
    """Remove a family's runtime from the disk."""
    removed = _runtimes().remove(_spec(family))
    output.line(f"The runtime of {family} was {'removed' if removed else 'not installed'}.")
