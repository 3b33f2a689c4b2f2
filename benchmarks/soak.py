"""Mixed traffic over all families for half an hour: nothing lost, every answer the first of its kind, memory flat.

Small random checkpoints of the real architectures. Clients ask models by lot, alone and in panels, plain and streamed,
with short and long keep_alive and with pauses, so that models and processes come and go all the time.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks import bodies, environments, report, server
from benchmarks.real_size import pull
from tests.hub import LoopbackHub
from tollama.registry import find

TINY = {
    "chronos-bolt-tiny": "checkpoints:bolt-tiny",
    "chronos-2": "checkpoints_chronos:chronos-2-tiny",
    "granite-ttm-r2-512-720": "checkpoints_granite:ttm-r2-tiny",
    "timesfm-3.0": "checkpoints_timesfm:timesfm-3.0-tiny",
    "moirai-2.0-r-small": "checkpoints_uni2ts:moirai-2-tiny",
}
EMBEDDED = ("mock", "seasonal-naive", "auto-theta")
CLIENTS = 4
SIZES = (1, 1, 1, 3, 40)
KEEP_ALIVE = (0, 1, 20)
LONGEST_PAUSE_S = 6.0
LOOK_S = 10.0
ROLES = {
    "controller": "ServeController",
    "ingress": "ServeReplica:tollama:ingress",
    "families": "ServeReplica:tollama:",
}
EXCEPT = {"families": "ServeReplica:tollama:ingress"}
CLOSE = 1e-5
MOST_GROWTH_MB = {"ingress": 60.0, "families": 500.0}
"""Of the peak in the last fifth of the time over that in the second. Of the ingress: what a process takes that has only
warmed up. Families come and go: the peaks may differ by one that was there with all the others, and that is 500 MB."""


@dataclass(slots=True)
class Seen:
    """What the clients saw."""

    answers: Counter[str] = field(default_factory=Counter)
    first: dict[tuple[str, int], Any] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    different: int = 0
    cold: int = 0


def main() -> int:
    """Run; the exit status."""
    parser = report.arguments("soak", "Mixed traffic over all families, watched.", url=False)
    parser.add_argument("--minutes", type=float, default=30.0)
    options = parser.parse_args()
    out = report.Report("soak", options)
    seen, memory = Seen(), []
    with (
        tempfile.TemporaryDirectory(prefix="tollama-bench-") as folder,
        LoopbackHub(Path(folder)) as hub,
        server.tollama(TOLLAMA_HF_ENDPOINT=hub.url, TOLLAMA_FAMILY_LINGER="3") as tollama,
    ):
        for model, builder in TINY.items():
            module, _, name = builder.partition(":")
            files = Path(folder, "checkpoints", name)
            build = (f"{module}:build", {"name": name, "folder": str(files)})
            environments.run(find(model).family, build)
            pull(tollama, hub, model, files)
        memory = asyncio.run(_soak(tollama, seen, options.minutes * 60))
    for model, number in sorted(seen.answers.items()):
        out.row(f"answers of {model}", number, "")
    out.row("answers that had to wait for a load", seen.cold, "")
    out.row("requests lost", len(seen.lost), "", most=0)
    out.row(f"answers further than {CLOSE:g} from the first of their kind", seen.different, "", most=0)
    fifth = max(1, len(memory) // 5)
    early, late = (
        {role: max(look[role] for look in part) for role in ROLES}
        for part in (memory[-4 * fifth :][:fifth], memory[-fifth:])
    )
    for role in ROLES:
        out.row(f"memory of {role}, peak in the second fifth of the time", early[role], "MB")
        grown = late[role] - early[role]
        out.row(f"memory of {role}, growth of it until the last", grown, "MB", most=MOST_GROWTH_MB.get(role))
    for told in seen.lost[:5]:
        out.say(told)
    return out.end()


async def _soak(tollama: server.Server, seen: Seen, seconds: float) -> list[dict[str, float]]:
    """The memory of each role, every ``LOOK_S``."""
    assert tollama.home is not None
    end = time.monotonic() + seconds
    clients = [asyncio.ensure_future(_client(tollama.door, number, end, seen)) for number in range(CLIENTS)]
    memory = []
    while time.monotonic() < end:
        await asyncio.sleep(min(LOOK_S, max(0.0, end - time.monotonic())))
        memory.append({role: _memory(tollama.home, title, EXCEPT.get(role)) for role, title in ROLES.items()})
    await asyncio.gather(*clients)
    return memory


async def _client(base: str, number: int, end: float, seen: Seen) -> None:
    chance = random.Random(number)
    models = (*EMBEDDED, *TINY)
    async with httpx.AsyncClient(base_url=base, timeout=300, trust_env=False, verify=False) as http:
        while time.monotonic() < end:
            for _ in range(chance.randrange(1, 12)):
                model, size = chance.choice(models), chance.choice(SIZES)
                await _one(http, model, size, chance.choice(KEEP_ALIVE), chance.random() < 0.3, seen)
            await asyncio.sleep(chance.uniform(0, LONGEST_PAUSE_S))


async def _one(http: httpx.AsyncClient, model: str, size: int, keep_alive: float, streamed: bool, seen: Seen) -> None:
    path = "/api/forecast" if streamed else "/v1/forecast"
    try:
        sent = await http.post(path, content=bodies.forecast(model, size, 120, keep_alive=keep_alive))
    except httpx.HTTPError as error:
        seen.lost.append(f"{model}: {type(error).__name__}")
        return
    status, answer = sent.status_code, sent.content
    last = json.loads(answer.splitlines()[-1]) if answer else {}
    response = last.get("response") if streamed else last
    if status != 200 or not response or "forecasts" not in response:
        seen.lost.append(f"{model}: {status} {answer[-300:].decode(errors='replace')}")
        return
    seen.answers[model] += 1
    seen.cold += response["timing"]["model_load_ms"] > 0
    means = np.array([forecast["mean"] for forecast in response["forecasts"]])
    known = seen.first.setdefault((model, size), means)
    seen.different += not np.allclose(means, known, rtol=CLOSE, atol=CLOSE * float(np.abs(known).max()))


def _memory(home: Path, title: str, without: str | None) -> float:
    """Megabytes of the processes of one role, without those of another title; shared pages counted in part."""
    total = 0
    others = set(server.processes(home, without)) if without is not None else set()
    for process in set(server.processes(home, title)) - others:
        try:
            rows = (process / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += next(int(row.split()[1]) for row in rows if row.startswith("Pss:"))
    return total / 1024


if __name__ == "__main__":
    raise SystemExit(main())
