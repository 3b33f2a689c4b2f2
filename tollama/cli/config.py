"""``tollama config``: the settings, where each comes from, and the file of them; the API keys."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from tollama.cli import output
from tollama.cli.connection import Json

Key = Annotated[str, typer.Argument(help="A setting, as in: tollama config list")]
Reveal = Annotated[bool, typer.Option("--reveal", help="Show secrets as they are.")]

group = typer.Typer(
    help="The settings of this machine's server and command line.", no_args_is_help=True, rich_markup_mode=None
)
key_group = typer.Typer(
    help="The API keys of those who may ask the server.", no_args_is_help=True, rich_markup_mode=None
)


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    group.add_typer(key_group, name="key", epilog="Example: tollama config key add --name laptop")
    app.add_typer(group, name="config", epilog="Example: tollama config set keep_alive 10m")


def _described(reveal: bool) -> dict[str, dict[str, Any]]:
    from tollama import info
    from tollama.redaction import redacted
    from tollama.settings import Settings, load

    settings = load()
    shown = info.config(settings, settings.sources)
    values, defaults = settings.model_dump(mode="json"), Settings().model_dump(mode="json")
    return {
        name: {
            "value": values[name] if reveal else one["value"],
            "default": redacted(defaults[name], name),
            "source": one["source"],
            "env": one["env"],
            "description": Settings.model_fields[name].description,
        }
        for name, one in shown.items()
    }


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(one["name"] if isinstance(one, dict) else str(one) for one in value) or "-"
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@group.command("list", epilog="Example: tollama config list --json")
def list_settings(reveal: Reveal = False, as_json: Json = False) -> None:
    """Show every setting: its value, where that comes from, its default and its environment variable."""
    shown = _described(reveal)
    if as_json:
        output.emit(shown, reveal=reveal)
        return
    rows = [
        (name, _text(one["value"]), one["source"], _text(one["default"]), one["env"]) for name, one in shown.items()
    ]
    output.table(("KEY", "VALUE", "SOURCE", "DEFAULT", "ENVIRONMENT"), rows, reveal=reveal)


@group.command(epilog="Example: tollama config get keep_alive")
def get(key: Key, reveal: Reveal = False, as_json: Json = False) -> None:
    """Print one setting's value, as it is in force."""
    from tollama.config_file import require_known

    require_known(key)
    shown = _described(reveal)[key]
    if as_json:
        output.emit({"key": key, **shown}, reveal=reveal)
    else:
        output.line(_text(shown["value"]), reveal=reveal)


@group.command(
    "set", context_settings={"ignore_unknown_options": True}, epilog="Example: tollama config set max_queue 100"
)
def set_setting(
    key: Key, value: Annotated[str, typer.Argument(help="Its value; lists are separated by commas.")]
) -> None:
    """Write a setting into the config file. A running server takes it at its next start."""
    from tollama import config_file
    from tollama.settings import config_path

    home = _home()
    config_file.set_value(home, key, value)
    output.note(f"{key} is set in {config_path(home)}. A running server takes it at its next start.")
    _hidden(key)


@group.command(epilog="Example: tollama config unset max_queue")
def unset(key: Key) -> None:
    """Take a setting out of the config file, so that its default holds."""
    from tollama import config_file
    from tollama.settings import config_path

    home = _home()
    was = config_file.unset(home, key)
    output.note(f"{key} {'is out of' if was else 'was not in'} {config_path(home)}.")


@group.command(epilog="Example: tollama config path")
def path(as_json: Json = False) -> None:
    """Print where the config file is, or would be."""
    from tollama.settings import config_path

    file = str(config_path(_home()))
    output.emit({"path": file}) if as_json else output.line(file)


@key_group.command(epilog="Example: tollama config key add --name laptop")
def add(
    name: Annotated[str | None, typer.Option("--name", help="What to call it; else key-1, key-2 ...")] = None,
    as_json: Json = False,
) -> None:
    """Make an API key and print it, once: only a hash of it is kept. From now on the server wants one.

    A running server takes it within a second.
    """
    import re

    from tollama import keys
    from tollama.config_file import changing, checked
    from tollama.errors import ConfigError

    with changing(_home()) as values:
        checked(values)
        kept = values.setdefault("api_keys", [])
        taken = {one["name"] for one in kept}
        called = name or next(one for n in range(1, len(kept) + 2) if (one := f"key-{n}") not in taken)
        if called in taken:
            raise ConfigError(f"There is a key {called!r} already.", hint="Choose another name, or revoke that one.")
        if not re.fullmatch(keys.NAME, called):
            told = "A key's name has letters, digits, dots, dashes and underscores, 64 at most."
            raise ConfigError(told, hint="Choose another name.")
        text, made = keys.made(called)
        kept.append(made.model_dump(mode="json"))
    if as_json:
        output.emit({"name": called, "key": text}, reveal=True)
        return
    output.line(text, reveal=True)
    output.note(f"This is the key {called!r}; it is not shown again. Clients send it from TOLLAMA_API_KEY.")
    _hidden("api_keys")


@key_group.command("list", epilog="Example: tollama config key list")
def list_keys(as_json: Json = False) -> None:
    """Show the names of the API keys that are in force, and when they were made."""
    from tollama.settings import load

    settings = load()
    source = settings.sources.get("api_keys", "default")
    made = [(key.name, key.created_at) for key in settings.api_keys]
    if as_json:
        told = [{"name": name, "created_at": at.isoformat() if at else None, "source": source} for name, at in made]
        output.emit(told)
        return
    rows = [(name, output.ago(at) if at else "unknown", source) for name, at in made]
    output.table(("NAME", "MADE", "SOURCE"), rows)


@key_group.command(epilog="Example: tollama config key revoke laptop")
def revoke(name: Annotated[str, typer.Argument(help="A key's name, as in: tollama config key list")]) -> None:
    """Revoke an API key. A running server refuses it within a second."""
    from tollama.config_file import changing, checked
    from tollama.errors import NotFound

    with changing(_home()) as values:
        checked(values)
        kept = values.get("api_keys", [])
        left = [one for one in kept if one["name"] != name]
        if len(left) == len(kept):
            raise NotFound("There is no such key in the config file.", hint="tollama config key list shows the keys.")
        values["api_keys"] = left
        if not left:
            del values["api_keys"]
    output.note(f"The key {name!r} is revoked.")
    if not left:
        output.note("No key is left: on this machine's own address the server answers everybody, elsewhere nobody.")


def _home() -> Path:
    """The home, whether or not the rest of the settings can be read."""
    from tollama.settings import home_of

    return home_of(os.environ)


def _hidden(key: str) -> None:
    from tollama.settings import variable_of

    if os.environ.get(variable := variable_of(key, os.environ)):
        output.note(f"Warning: {variable} is set and hides the file's value.")
