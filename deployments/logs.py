"""What every process of the graph writes into its log: the id of the request that it works for, and no secret.

Serve writes the lines (as JSON or text, into files that it rotates); a filter on its handlers does the rest. It stands
on the handlers, since what libraries print arrives there too. Imports only what every family's environment has.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path

import ray

from tollama.redaction import text

SERVE = "ray.serve"
LINK = "tollama"
"""The link in the folder of Ray's logs."""
REQUEST: ContextVar[str] = ContextVar("request", default="")
"""The id of the request that is worked for; in a family those of all that travelled together, by commas."""


class Lines(logging.Filter):
    """Adds ``request_id`` to a record, and masks secrets in its message and traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        if known := REQUEST.get():
            record.request_id = known
        try:
            record.msg, record.args = text(record.getMessage()), None
        except (TypeError, ValueError):  # a message that does not fit its arguments; the handler tells of it
            return True
        if record.exc_info and not record.exc_text:
            record.exc_text = _PLAIN.formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = text(record.exc_text)
        return True


_PLAIN = logging.Formatter()


def install() -> None:
    """Put the filter on the handlers that Serve gave this process."""
    for handler in logging.getLogger(SERVE).handlers:
        if not any(isinstance(one, Lines) for one in handler.filters):
            handler.addFilter(Lines())


def in_sight(folder: Path) -> str:
    """``folder`` by a path below Ray's own logs, for Serve to write to: the dashboard shows no file from elsewhere."""
    folder.mkdir(parents=True, exist_ok=True)
    context = ray.get_runtime_context()
    link = Path(context.get_temp_dir(), context.get_session_name(), "logs", LINK)
    with suppress(OSError):  # made for a graph that was built before; or a cluster of others, whose logs stay theirs
        link.symlink_to(folder)
    return str(link if os.path.realpath(link) == os.path.realpath(folder) else folder)
