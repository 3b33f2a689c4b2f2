"""A family's runtime built by a process of its own, so that a server goes on answering meanwhile.

`install_in_child` starts ``python -m tollama.runtime_child`` and passes on what it says.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

from tollama import child
from tollama.errors import RunnerUnavailable, TollamaError
from tollama.families import FamilySpec, families
from tollama.launcher import MARK
from tollama.runtime_build import failure
from tollama.runtimes import Runtimes


async def install_in_child(spec: FamilySpec, runtimes: Runtimes) -> AsyncGenerator[str]:
    """Install the runtime of ``spec``, or repair the one that is there; yields the lines of its progress.

    Raises :class:`RunnerUnavailable` with the reason, and the command that tries again in ``hint``. Closing the
    iterator, or cancelling who waits for it, ends the process. Should this process be killed, the child goes on: what
    it builds is there for the next.
    """
    again = f"tollama runtime repair {spec.name}"
    command = ("tollama.runtime_child", spec.name, str(runtimes.root), str(runtimes.keep))
    # Secrets are no business of what gets installed. The server's mark stays: by it the launcher ends what is left.
    said = child.lines(f"the runtime of family {spec.name}", *command, env=child.inherited(MARK))
    try:
        async with aclosing(said):
            async for line in said:
                if "error" in line:
                    known = "tollama runtime " in line["hint"]
                    hint = line["hint"] if known else f"{line['hint']} Then run: {again}".strip()
                    raise RunnerUnavailable(line["error"], hint=hint)
                yield line["status"]
    except child.BrokeOff:
        raise failure(spec, "the installation broke off", f"The log has the cause; then run: {again}") from None


def main(family: str, root: str, keep: str) -> int:
    """The child: NDJSON lines on stdout, ``{"status"}`` each, an error's body last if it fails."""
    out = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints is no line of ours

    def tell(line: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):  # nobody listens any more; what is built serves the next
            os.write(out, json.dumps(line).encode() + b"\n")

    runtimes = Runtimes(Path(root), keep_runtimes=int(keep))
    try:
        spec = families()[family]
        state = runtimes.state(spec)
        work = runtimes.repair if state.installed and not state.ready else runtimes.install
        work(spec, lambda said: tell({"status": said}))
    except TollamaError as error:
        tell(error.record.body())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
