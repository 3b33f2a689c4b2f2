"""A pull in a process of its own (``python -m tollama.pull_child``): the hub's client keeps its settings per process,
and a server must be able to drop a pull at any moment.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from tollama.errors import Internal, TollamaError
from tollama.pull import pull
from tollama.registry import Entry
from tollama.settings import Settings
from tollama.store import Home
from tollama.wanted import PullRequest, Repository, access, proxies

log = logging.getLogger(__name__)

LEFT_OUT = ("PYTHON", "RAY_", "HF_", "HUGGING", "TOLLAMA_", "VIRTUAL_ENV")
"""Beginnings of the environment variables that a pull's process does not inherit; it gets what it needs in words."""
SETTINGS = ("keep_runtimes", "keep_snapshots", "cache_max_gb", "cache_max_days", "offline")
"""Settings that it gets as they are."""


async def pull_in_child(
    wanted: Entry | Repository, request: PullRequest, settings: Settings
) -> AsyncGenerator[dict[str, Any]]:
    """Pull in a process of its own; yields its lines, the last ``success`` or an error's body. Never raises.

    Closing the iterator, or cancelling who waits for it, ends the process; what was downloaded is kept.
    """
    home = Home(settings.home)
    home.run.mkdir(parents=True, exist_ok=True)
    endpoint, token = access(request, settings)
    env = {key: value for key, value in os.environ.items() if not key.startswith(LEFT_OUT)}
    env = proxies(request, settings, env)
    env |= {"HF_HOME": str(home.cache / "hf")} | ({"HF_TOKEN": token} if token else {})
    order = {
        "entry": wanted.model_dump(mode="json") if isinstance(wanted, Entry) else None,
        "repository": asdict(wanted) if isinstance(wanted, Repository) else None,
        "request": request.model_dump(exclude={"token", "endpoint", "proxy"}),
        "settings": {
            "home": str(settings.home),
            "runtimes_dir": str(settings.runtimes),
            "hf_endpoint": endpoint,
            **settings.model_dump(include=set(SETTINGS)),
        },
    }
    with tempfile.TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "tollama.pull_child"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            cwd=home.run,
            env=env,
            start_new_session=True,  # so that it can be ended together with the uv that it may have started
        )
        assert process.stdin is not None
        assert process.stdout is not None
        line: dict[str, Any] = {}
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
            if words := errors.read()[-4000:].decode(errors="replace").strip():
                log.warning("pull of %s: %s", wanted.name, words)
        if "error" not in line and line.get("status") != "success":
            hint = "Pull again: what was downloaded so far is kept. The server's log has the cause."
            yield Internal("The pull ended before it was done.", hint=hint).record.body()


def main() -> int:
    """The child: an order as JSON on stdin, its token in ``HF_TOKEN``; NDJSON lines on stdout."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no line of ours

    def tell(line: dict[str, Any]) -> None:
        try:
            print(json.dumps(line), file=out, flush=True)
        except BrokenPipeError:  # nobody waits for this pull any more
            os._exit(1)

    from tollama.runtimes import Runtimes

    try:
        order = json.load(sys.stdin)
        settings = Settings(**order["settings"], hf_token=os.environ.pop("HF_TOKEN", None))
        runtimes = Runtimes(settings.runtimes, keep_runtimes=settings.keep_runtimes)
        request = PullRequest.model_validate(order["request"])
        repository = order["repository"]
        wanted = Repository(**repository) if repository else Entry.model_validate(order["entry"])
        pull(wanted, request, Home(settings.home), runtimes, settings, tell)
    except TollamaError as error:
        tell(error.record.body())
        return 1
    except Exception:
        logging.getLogger(__name__).exception("the pull failed")
        tell(Internal("The pull failed by a fault of ours.").record.body())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
