"""Makes what can be made of the docs from the code: ``make docs``, or ``python -m docs.generate``.

`pages` is the one list of them; a test holds the checkout to it.
"""

from __future__ import annotations

import inspect
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, cast, get_args, get_origin

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.routing import Route

from docs import api, compatibility
from tollama.errors import http_table
from tollama.registry import Entry, registry
from tollama.settings import ALIASES, Settings, env_name

HERE = Path(__file__).resolve().parent
OPENAPI = HERE / "openapi.json"
NOTE = "<!-- made by `make docs` -->\n"
WIDTH = 100
"""Columns of the commands' help."""
KINDS = ("past_numeric", "past_categorical", "future_numeric", "future_categorical", "static")


def pages() -> dict[Path, str]:
    """Path -> what it has to hold."""
    made = {
        OPENAPI: json.dumps(schema(), indent=1) + "\n",
        HERE / "api.md": NOTE + api.page(schema()),
        HERE / "cli.md": NOTE + commands(),
    }
    tables: dict[str, tuple[Callable[[], str], ...]] = {
        "errors": (errors,),
        "settings": (settings, arguments),
        "metrics": (metrics,),
        "models": (models, matrix),
        "roadmap": (inventory,),
    }
    for name, parts in tables.items():
        path = HERE / f"{name}.md"
        made[path] = filled(path.read_text(), *parts)
    return made


def filled(page: str, *tables: Callable[[], str]) -> str:
    """``page`` with each table in the place of the one that has the same header."""
    for table in tables:
        fresh = table()
        before, header, rest = page.partition(fresh.partition("\n")[0] + "\n")
        if not header:
            raise ValueError(f"no table begins with {fresh.partition(chr(10))[0]!r}")
        lines = rest.split("\n")
        end = next(index for index, line in enumerate(lines) if not line.startswith("|"))
        page = before + "\n".join([fresh, *lines[end:]])
    return page


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = list(header)
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(cells)} |".replace("| --- ", "|---").replace("--- |", "---|") for cells in lines)


def schema() -> dict[str, Any]:
    """The server's own schema."""
    return _application().openapi()


def served() -> dict[str, set[str]]:
    """Route -> methods, of everything that the application answers."""
    found: dict[str, set[str]] = {}
    for route in _application().routes:
        router = getattr(route, "original_router", None)
        for one in [route] if router is None else router.routes:
            assert isinstance(one, Route)
            found.setdefault(one.path, set()).update(one.methods or ())
    return found


def inventory() -> str:
    """Every route with its methods."""
    rows = [(" ".join(sorted(methods)), f"`{route}`") for route, methods in sorted(served().items())]
    return _table(("methods", "route"), rows)


@cache
def _application() -> FastAPI:
    """The server's application, made but not run."""
    from deployments.ingress.desk import Desk
    from deployments.ingress.guard import Keys
    from deployments.ingress.holdings import Holdings
    from deployments.ingress.metrics import Metrics
    from deployments.ingress.service import application
    from deployments.ingress.supervision import Supervision
    from tollama.catalog import Catalog
    from tollama.runtimes import Runtimes
    from tollama.store import Home

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        desk = Desk(
            Settings(home=home),
            Catalog(Home(home)),
            Runtimes(home),
            {},
            Supervision(home, 5, 1.0),
            cast(Metrics, None),  # would set the environment of the process
            Holdings({}),
            Keys(Settings(home=home)),
        )
        return application(desk, None)


def errors() -> str:
    """Every error that HTTP can carry."""
    listed = sorted(http_table().items(), key=lambda item: (item[1].status, item[0]))
    when = {code: inspect.cleandoc(error.__doc__ or "").splitlines()[0] for code, error in listed}
    return _table(("status", "code", "when"), ((str(e.status), f"`{code}`", when[code]) for code, e in listed))


def settings() -> str:
    """Every setting."""
    rows = []
    for name, field in Settings.model_fields.items():
        variables = " ".join(f"`{one}`" for one in (env_name(name), ALIASES.get(name)) if one)
        rows.append((f"`{name}`", variables, f"`{field.default}`", str(field.description)))
    return _table(("key", "environment", "default", "what it does"), rows)


def arguments() -> str:
    """Every argument of the graph, by its path under ``args`` in serve_config.yaml."""
    from deployments.app import GraphArgs

    def rows(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, ...]]:
        for name, field in model.model_fields.items():
            kinds = get_args(field.annotation) or (field.annotation,)
            inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
            path, default = f"{above}{name}", field.get_default(call_default_factory=True)
            shown = "" if inner else f"`{json.dumps(default)}`"
            yield f"`{path}`", _kind(field.annotation), shown, str(field.description)
            if inner is not None:
                yield from rows(inner, f"{path}.NAME." if get_origin(field.annotation) is dict else f"{path}.")

    return _table(("argument", "type", "default", "what it is"), rows(GraphArgs))


def _kind(annotation: Any) -> str:
    """A type as a person reads it: the values that are allowed, or its name; ``null`` where that is."""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if annotation is NoneType:
        return "null"
    if get_origin(annotation) is UnionType:
        return " or ".join(_kind(one) for one in get_args(annotation))
    return {str: "string", int: "integer", float: "number", bool: "boolean"}.get(annotation, "object")


def metrics() -> str:
    """Every metric."""
    from deployments.ingress.metrics import METRICS

    rows = [(f"`{m.name}`", m.kind, " ".join(f"`{label}`" for label in m.labels), m.text) for m in METRICS.values()]
    return _table(("metric", "type", "labels", "what it tells"), rows)


def models() -> str:
    """Every known model: where it comes from and under which licence."""
    rows = []
    for entry in registry().values():
        source, licence = entry.source, entry.license
        origin = f"[{source.repo_id}](https://huggingface.co/{source.repo_id})" if source.repo_id else "part of tollama"
        accept = "to be accepted" if licence.needs_acceptance else "free to pull"
        rows.append((f"`{entry.name}`", entry.family, entry.details.parameter_size, origin, _licence(entry), accept))
    return _table(("model", "family", "parameters", "source", "licence", "pull"), rows)


def _licence(entry: Entry) -> str:
    known = "" if entry.license.verified else ", not verified"
    return f"[{entry.license.id}]({entry.license.url}){known}"


def matrix() -> str:
    """What each model can do: the capabilities of the registry."""
    rows = []
    for entry in registry().values():
        can = entry.capabilities
        native = [f"{level:g}" for level in can.quantiles.native]
        levels = f"{native[0]} to {native[-1]}, {can.quantiles.method}" if native else can.quantiles.method
        horizon = str(can.max_horizon)
        if can.native_horizon and can.native_horizon < can.max_horizon:
            horizon += f" ({can.native_horizon} in one pass)"
        able = [kind.replace("_", " ") for kind in KINDS if getattr(can.covariates, kind)]
        options = [f"`{name}`" for name in can.options if name not in ("seed", "extrapolate_quantiles")]
        context = f"{can.min_context} to {can.max_context}"
        missing = "kept" if can.missing_values else "filled"
        cells = (context, horizon, levels, can.point, ", ".join(able) or "no", missing, " ".join(options) or "no more")
        rows.append((f"`{entry.name}`", *cells))
    header = ("model", "context", "horizon", "quantiles", "point", "covariates", "missing values", "options")
    return _table(header, rows)


COMMANDS = """# Command line

Results go to stdout, progress and advice to stderr. The exit code is 0, 1 for a failure (one line `Error:` and one
`Hint:`) or 2 for wrong usage. `tollama --install-completion` completes commands and model names.

"""


def commands() -> str:
    """The help of every command, as ``--help`` prints it."""
    import typer.main

    from tollama.cli import app

    shown = []

    def tell(command: Any, name: str, parent: Any) -> None:
        context = command.context_class(command, info_name=name, parent=parent, terminal_width=WIDTH)
        context.max_content_width = WIDTH
        shown.append(f"## {context.command_path}\n\n```\n{command.get_help(context)}\n```\n")
        for inner, one in getattr(command, "commands", {}).items():
            if not one.hidden:
                tell(one, inner, context)

    tell(typer.main.get_command(app), "tollama", None)
    return COMMANDS + "\n".join(shown)


def main() -> int:
    """Write what is stale, but only when every break with the last released schema has its note."""
    if found := compatibility.unnoted(compatibility.released(), schema()):
        print("These changes break clients; note each in docs/compatibility.md:", *found, sep="\n", file=sys.stderr)
        return 1
    for path, text in pages().items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(path.relative_to(HERE.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
