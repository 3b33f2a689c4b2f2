"""``info``: what the server, or without one this installation, is made of."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tollama.cli import output
from tollama.cli.connection import Host, Json, connect
from tollama.errors import DeadlineExceeded, ServerUnreachable


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(epilog="Example: tollama info --json")(info)


def info(
    dashboard_token: Annotated[
        bool, typer.Option("--dashboard-token", help="Print the token that this machine's Ray dashboard asks for.")
    ] = False,
    as_json: Json = False,
    host: Host = None,
) -> None:
    """Show versions, settings and where they come from, paths, models and families; without a server, this side's.

    Secrets are masked.
    """
    if dashboard_token:
        if host is not None:
            raise typer.BadParameter("The dashboard's token is of this machine's server and goes with no --host.")
        token = _token()
        output.emit({"dashboard_token": token}, reveal=True) if as_json else output.line(token, reveal=True)
        return
    from tollama.info import local
    from tollama.settings import load

    here = local(load())
    there = None
    with connect(host) as client:
        url = client.url
        try:
            there = client.info()
        except (ServerUnreachable, DeadlineExceeded) as error:
            said = f"{error} {error.hint}"
    if as_json:
        output.emit({"url": url, "server": there, "local": here})
    elif there is not None:
        _show(url, there, here)
    else:
        output.section("Server", [("address", url), ("state", said), ("", "What follows is of this side.")])
        _common(here)


def _token() -> str:
    from tollama.errors import NotFound
    from tollama.launcher import runs
    from tollama.settings import load

    home = load().home
    path = home / "run/ray_token"
    if not runs(home):
        raise NotFound(f"No server runs on the home {home}.", hint="Start one with: tollama serve")
    if not path.exists():
        raise NotFound(
            "The server joined a Ray cluster, whose dashboard has a token of its own, or none.",
            hint="Ask whoever started the cluster that RAY_ADDRESS names.",
        )
    return path.read_text().strip()


def _show(url: str, there: dict[str, Any], here: dict[str, Any]) -> None:
    server, ray = there.get("server") or {}, there.get("ray") or {}
    dashboard = ray.get("dashboard")
    output.section(
        "Server",
        [
            ("address", url),
            ("process", f"{server.get('pid', '-')}, since {server.get('started_at', '-')}"),
            ("Ray dashboard", f"{dashboard} (log in: tollama info --dashboard-token)" if dashboard else "none"),
        ],
    )
    ours, theirs = here["versions"]["tollama"], there["versions"]["tollama"]
    if ours != theirs:
        output.note(f"Warning: this command is of tollama {ours}, the server of {theirs}.")
    _common(there)


def _common(shown: dict[str, Any]) -> None:
    output.section("Versions", _texts(shown["versions"]))
    output.section(
        "Config", [(name, f"{_text(one['value'])}   ({one['source']})") for name, one in shown["config"].items()]
    )
    output.section("Paths", _texts(shown["paths"]))
    output.section("Environment", _texts(shown["environment"]) or [("none", "")])
    known = shown["registry"]["families"]
    families = ", ".join(f"{name} {count}" for name, count in known.items())
    output.section("Registry", [("models known", f"{shown['registry']['entries']} ({families})")])
    models = shown["models"]
    rows = [(one["name"], _model(one)) for one in models["installed"]]
    rows += [(name, f"broken: {reason}") for name, reason in models["broken"].items()]
    output.section("Models", rows or [("none", "")])
    for name, family in shown["families"].items():
        output.section(f"Family {name}", _family(family))


def _texts(pairs: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, _text(value)) for name, value in pairs.items()]


def _text(value: Any) -> str:
    return "-" if value is None else str(value)


def _model(one: dict[str, Any]) -> str:
    revision = f"@{one['revision'][:12]}" if one["revision"] else ""
    size = output.size(one["size_bytes"]) if one["size_bytes"] else ""
    return ", ".join(filter(None, (one["family"], f"{one['source']}{revision}", size)))


def _family(family: dict[str, Any]) -> list[tuple[str, str]]:
    runtime = family["runtime"]
    digest = f", {runtime['digest'][:12]}" if runtime["digest"] else ""
    rows = [("runtime", f"ready{digest}" if runtime["ready"] else f"{runtime['reason']} Repair: {runtime['repair']}")]
    if "replicas" not in family:
        return rows
    for one in family["replicas"]:
        held = ", ".join(f"{model['name']} ({model['state']})" for model in one["models"]) or "no model"
        rows.append((f"process {one['pid']}", f"{one['device']}, since {one['started_at']}: {held}"))
    if not family["replicas"]:
        rows.append(("processes", "none" if family["answers"] else "do not answer"))
    rows.append(("waiting", f"{family['waiting']} requests, {family['in_flight']} of them handed over"))
    if family["restarts"]:
        rows.append(("restarts", ", ".join(f"{reason} {count}" for reason, count in family["restarts"].items())))
    if death := family["last_death"]:
        during = f" while it computed for {death['model']}" if death["model"] else ""
        rows.append(("last death", f"{death['reason']} at {death['at']}{during}"))
    if failure := family["last_error"]:
        rows.append(("last failure", f"{failure['code']} at {failure['at']}"))
    if family["unavailable"]:
        rows.append(("unavailable", family["unavailable"]))
    return rows
