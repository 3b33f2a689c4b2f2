"""``config.json`` changed: one change at a time, checked, written whole or not at all, for its owner only."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tollama.errors import ConfigError
from tollama.settings import Settings, config_path, env_name, read_file

ELSEWHERE = {
    "home": f"The file is in the home; set {env_name('home')} instead.",
    "api_keys": "Use: tollama config key add, list or revoke.",
}
"""Settings that are not set by name in the file, and how they are."""


@contextmanager
def changing(home: Path) -> Iterator[dict[str, Any]]:
    """The file's values, to be changed in the block. Raises :class:`ConfigError` for what is no setting's value."""
    from filelock import FileLock
    from pydantic_core import to_json

    from tollama.store import atomic_write

    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / ".config.lock", mode=0o600):
        values = read_file(config_path(home))
        before = copy.deepcopy(values)
        yield values
        checked(values)
        if values != before:
            atomic_write(config_path(home), to_json(values, indent=2) + b"\n")


def checked(values: dict[str, Any]) -> Settings:
    """``values`` as settings. Raises :class:`ConfigError` that names the key."""
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        told = fault["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{fault['loc'][0]} is not valid: {told}.", hint="Nothing was changed.") from None


def require_known(key: str, *, to_change: bool = False) -> None:
    """Raises :class:`ConfigError` for what is no setting, or one that is not changed by its name."""
    import difflib

    if key not in Settings.model_fields:
        near = difflib.get_close_matches(key, Settings.model_fields, n=1)
        raise ConfigError(
            f"{key!r} is no setting.", hint=f"Did you mean {near[0]}?" if near else "tollama config list shows them."
        )
    if to_change and key in ELSEWHERE:
        raise ConfigError(f"{key} is not set in this way.", hint=ELSEWHERE[key])


def set_value(home: Path, key: str, text: str) -> Any:
    """Set ``key`` to what ``text`` says, as an environment variable would; the value as it is kept."""
    require_known(key, to_change=True)
    value = checked({key: text}).model_dump(mode="json")[key]
    with changing(home) as values:
        values[key] = value
    return value


def unset(home: Path, key: str) -> bool:
    """Take ``key`` out; whether it was there."""
    require_known(key, to_change=True)
    with changing(home) as values:
        return values.pop(key, None) is not None
