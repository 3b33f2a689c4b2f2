"""The command line, one module per group of commands. Heavy imports live in the commands: ``--help`` is instant."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tollama.cli import config, doctor, forecast, info, models, output, running, runtime, serve
from tollama.version import __version__

app = typer.Typer(
    name="tollama",
    help="Run time-series foundation models and forecast with them.",
    epilog="Start with: tollama serve, then: tollama forecast seasonal-naive data.csv --horizon 12",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        output.line(f"tollama {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


for group in (serve, models, running, forecast, runtime, info, config, doctor):
    group.register(app)

PLOT_SUFFIXES = (".png", ".svg", ".pdf")


def _plot_value(arguments: list[str]) -> list[str]:
    """``--plot`` takes a picture file or nothing: what follows it is its value only if it looks like one."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--plot" and argument.lower().endswith(PLOT_SUFFIXES):
            joined[-1] = f"--plot={argument}"
        else:
            joined.append(argument)
    return ["--plot=-" if argument == "--plot" else argument for argument in joined]


def main(arguments: list[str] | None = None) -> None:
    """The ``tollama`` command. Exits 0, 1 for a failure (told in one line, with a hint), 2 for wrong usage."""
    try:
        app(_plot_value(sys.argv[1:] if arguments is None else arguments), prog_name="tollama")
    except Exception as error:
        output.fail(error)
        sys.exit(1)
