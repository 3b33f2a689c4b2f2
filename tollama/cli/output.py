"""The one sink: results go to stdout, progress and advice to stderr, secrets masked; and the one place where exceptions
turn into advice."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from tollama import redaction
from tollama.errors import TollamaError


def line(text: str = "", *, reveal: bool = False) -> None:
    """One line of result; with ``reveal`` as it is, for what is asked for by name."""
    print(text if reveal else redaction.text(text))


def note(text: str) -> None:
    """One line beside the result: progress, warnings."""
    print(redaction.text(text), file=sys.stderr, flush=True)


def emit(value: Any, *, reveal: bool = False) -> None:
    """A result as JSON, for programs; an answer of the server as it came."""
    plain = json.loads(json.dumps(value, default=lambda answer: answer.model_dump(mode="json")))
    print(json.dumps(plain if reveal else _masked(plain), indent=2, ensure_ascii=False))


def _masked(value: Any) -> Any:
    """JSON whose texts tell no secret by their shape. What has a secret's name may be a setting's description."""
    if isinstance(value, dict):
        return {key: _masked(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_masked(inner) for inner in value]
    return redaction.text(value) if isinstance(value, str) else value


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, reveal: bool = False) -> None:
    """Columns padded with spaces, as Ollama's: never cut to the terminal's width, so that pipes get it whole."""
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    for row in (headers, *rows):
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        line("   ".join(padded).rstrip(), reveal=reveal)


def section(title: str, pairs: Sequence[tuple[str, str]]) -> None:
    """A titled block of names and values."""
    line(title)
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        line(f"  {name.ljust(width)}   {value}".rstrip())
    line()


def advice(error: Exception) -> tuple[str, str]:
    """The sentence and the hint for an exception; both are one line."""
    if isinstance(error, TollamaError):
        sentence, hint = str(error), error.hint or "tollama doctor tells how things are here."
        if isinstance(error.detail, list) and len(error.detail) > 1:
            sentence += f" ({len(error.detail)} faults in all)"
    elif isinstance(error, OSError) and error.filename is not None:
        sentence, hint = f"{error.strerror}: {error.filename}", "Check the path and its permissions."
    elif isinstance(error, ImportError):
        sentence, hint = f"This installation is incomplete: {error}.", "Install tollama again."
    else:
        sentence, hint = f"tollama failed: {type(error).__name__}: {error}", "Report this with the command you ran."
    return " ".join(sentence.split()), " ".join(hint.split())


def fail(error: Exception) -> None:
    """``Error:`` and ``Hint:`` on stderr."""
    sentence, hint = advice(error)
    note(f"Error: {sentence}")
    note(f"Hint: {hint}")


def size(count: float | None) -> str:
    """Bytes as people read them, in powers of 1000."""
    from rich.filesize import decimal

    return decimal(int(count)) if count else "-"


def ago(then: datetime) -> str:
    """A moment as distance from now: ``3 hours ago``, ``4 minutes from now``; ``Forever`` from the year 9999 on."""
    if then.year >= 9999:
        return "Forever"
    seconds = (then - datetime.now(UTC)).total_seconds()
    distance = abs(seconds)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        count = int(distance // length)
        if count:
            return f"{count} {unit}{'s' if count > 1 else ''} {'from now' if seconds > 0 else 'ago'}"
    return "now"
