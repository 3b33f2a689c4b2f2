"""Work in a process of its own that says how it goes, in NDJSON lines: what starts it, listens to it and ends it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

LEFT_OUT = ("PYTHON", "RAY_", "HF_", "HUGGING", "TOLLAMA_", "VIRTUAL_ENV")
"""Beginnings of the environment variables that such a process does not inherit; it gets what it needs in words."""
WORDS = 4000
"""Bytes of its last words that are logged."""


class BrokeOff(Exception):
    """The process ended before it was done, and did not say why."""


def inherited(*kept: str) -> dict[str, str]:
    """The environment of such a process: ours, but for what is left out and not ``kept``."""
    return {name: value for name, value in os.environ.items() if name in kept or not name.startswith(LEFT_OUT)}


async def lines(
    what: str, *command: str, env: Mapping[str, str], cwd: Path | str = "/", order: Any = None
) -> AsyncGenerator[dict[str, Any]]:
    """Run ``python -P -m command`` and yield what it says; ``order`` goes to its stdin as JSON.

    A line with ``error`` tells why it failed. Raises :class:`BrokeOff` when it failed without one. Closing the
    iterator, or cancelling who waits for it, ends the process. Its stderr is logged, as that of ``what``.
    """
    line: dict[str, Any] = {}
    with tempfile.TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", *command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            cwd=cwd,
            env=dict(env),
            start_new_session=True,  # so that it can be ended together with the uv that it may have started
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(order).encode())
            process.stdin.close()
            async for raw in process.stdout:
                line = json.loads(raw)
                yield line
            await process.wait()
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
            errors.seek(0)
            if words := errors.read()[-WORDS:].decode(errors="replace").strip():
                log.warning("%s: %s", what, words)
    if process.returncode and "error" not in line:
        raise BrokeOff(what)
