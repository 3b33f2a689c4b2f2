"""Model names for the shell's completion: the server's if it answers at once, else this machine's; never an error."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from tollama.cli.connection import connect

if TYPE_CHECKING:
    from tollama.client import Client

PATIENCE_S = 0.5
"""Longer than this nobody waits for a completion."""


def loaded(context: typer.Context, incomplete: str) -> list[str]:
    """Models in memory."""

    def there(client: Client) -> Iterable[str]:
        from tollama import calls

        return [model.name for model in client.ask(replace(calls.ps(), timeout=PATIENCE_S))]

    return _names(context, incomplete, there, list)


def installed(context: typer.Context, incomplete: str) -> list[str]:
    """Models that are pulled."""

    def there(client: Client) -> Iterable[str]:
        from tollama import calls

        return [tag.name for tag in client.ask(replace(calls.tags(), timeout=PATIENCE_S))]

    def here() -> Iterable[str]:
        from tollama.settings import load

        return [path.parent.name for path in (load().home / "models").glob("*/manifest.json")]

    return _names(context, incomplete, there, here)


def known(context: typer.Context, incomplete: str) -> list[str]:
    """Every model that there is."""

    def there(client: Client) -> Iterable[str]:
        from tollama import calls

        models = client.ask(replace(calls.models(), timeout=PATIENCE_S))
        return {model.name for model in (*models.available, *models.installed)}

    def here() -> Iterable[str]:
        from tollama.registry import registry

        return registry()

    return _names(context, incomplete, there, here)


def _names(
    context: typer.Context,
    incomplete: str,
    there: Callable[[Client], Iterable[str]],
    here: Callable[[], Iterable[str]],
) -> list[str]:
    try:
        with connect(context.params.get("host")) as client:
            try:
                found = there(client)
            except Exception:
                found = here()
        return sorted(name for name in found if name.startswith(incomplete))
    except Exception:  # a broken config, no server: what is typed stays as it is
        return []
