"""A pull in a process of its own (``python -m tollama.pull_child``): the hub's client keeps its settings per process,
and a server must be able to drop a pull at any moment.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from tollama import child
from tollama.errors import Internal, TollamaError
from tollama.launcher import MARK
from tollama.pull import pull
from tollama.registry import Entry
from tollama.settings import Settings
from tollama.store import Home
from tollama.wanted import PullRequest, Repository, access, proxies

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
    env = proxies(request, settings, child.inherited(MARK))  # so that a server that ends leaves no pull behind
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
    told = child.lines(f"pull of {wanted.name}", "tollama.pull_child", env=env, cwd=home.run, order=order)
    try:
        async with aclosing(told):
            async for line in told:
                yield line
    except child.BrokeOff:
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
