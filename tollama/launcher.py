"""``tollama serve``: a small launcher around ``serve run serve_config.yaml``.

It does what a config file cannot: sets the environment that Ray reads at start, checks that the ports are free (Serve
shares a taken one silently), writes ports and home into a copy of the file, and at the end closes the door, waits for
what is in flight, and leaves no process.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tollama.errors import ConfigError
from tollama.logs import retain, rotation
from tollama.network import address, require_guarded
from tollama.paths import data
from tollama.redaction import text
from tollama.settings import Settings, load, told

START_S = 180.0
"""Seconds that Ray and the ingress may take to answer (6-11 s on two quiet cores)."""
DRAIN_S = 30.0
"""Seconds that requests in flight may take after the door closed."""
STOP_S = 20.0
"""Seconds that Serve and Ray may take to stop (2-5 s on two cores)."""
PR_SET_PDEATHSIG = 1
"""Linux: the signal that a process gets when its parent dies."""
MARK = "TOLLAMA_SERVER"
"""Variable that every process of one server carries, so that none is left behind."""

RAY_ENVIRONMENT = {
    # Fast calls between deployments; without Serve's direct ingress, whose ports listen on every interface.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",  # a thousand lines would be lost with a process that is killed
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**31 - 1),
    # A replica that hangs finishes nothing, so it need not have the time that others have to finish.
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
    # Ray's memory monitor kills the controller and the ingress along with the culprit.
    "RAY_memory_monitor_refresh_ms": "0",
    # Ray starts workers at niceness 15, where any busy program on the machine starves the ingress.
    "RAY_worker_niceness": "0",
    # Ray Serve without what nobody here uses of it.
    "RAY_preload_python_modules": "deployments.preload",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONNOUSERSITE": "1",
}
FOREIGN = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONDONTWRITEBYTECODE")
"""Variables that would put a stranger's code first in every worker, or have each compile everything again."""


def serve(
    *,
    host: str | None = None,
    port: int | None = None,
    config: Path | None = None,
    dashboard: bool | None = None,
    home: Path | None = None,
    insecure: bool | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Run a server in the foreground until SIGINT, SIGTERM or SIGHUP; the exit code.

    Raises :class:`ConfigError` for what would keep it from starting: a taken port, a second server on one home, an
    address beyond this machine without an API key.
    """
    settings = load(host=host, port=port, home=home, dashboard=dashboard, insecure=insecure)
    require_guarded(settings.host, "The API", settings)
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        raise ConfigError(
            "RAY_AUTH_MODE turns Ray's token off; any process that reaches a port of Ray could then run code.",
            hint="Unset RAY_AUTH_MODE.",
        )
    if settings.serve_port > 65535 or settings.serve_port == settings.port:
        raise ConfigError(
            f"Beside the API's port {settings.port} there is none for Serve's own proxy.",
            hint="Set TOLLAMA_PROXY_PORT to a free port, or choose another for the API.",
        )
    run = settings.home / "run"
    run.mkdir(parents=True, exist_ok=True)
    with _only_server(run):
        for number in (settings.port, settings.serve_port):
            _require_free(settings.host, number)
        _empty(run)
        _keep_logs(settings.home, _ray_folder(settings.home).glob("ray/session_2*"))  # of a launcher that was killed
        retain(settings.home / "logs", settings.log_max_mb, settings.log_max_days)
        rendered = run / "serve_config.yaml"
        rendered.write_text(render(config or data("serve_config.yaml"), settings))
        return _supervise(settings, run, rendered, say)


def render(config: Path, settings: Settings) -> str:
    """The config file with this server's addresses, home and dashboard in it."""
    import yaml

    try:
        graph = yaml.safe_load(config.read_text())
        application = graph["applications"][0]
        graph.setdefault("http_options", {}).update(host=settings.host, port=settings.serve_port)
        graph.setdefault("logging_config", {}).update(
            encoding=settings.log_format.upper(),
            log_level=settings.log_level,
        )
        arguments = application.setdefault("args", {})
        arguments["home"] = str(settings.home)
        if arguments.get("door", {}) is not None:
            arguments["door"] = {"host": settings.host, "port": settings.port}
    except OSError as error:
        raise ConfigError(
            f"The config file {config} cannot be read: {error.strerror}.",
            hint="Check the path; without --config tollama serve takes its own.",
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError, IndexError) as error:
        where = str(getattr(error, "problem_mark", "")).strip()
        raise ConfigError(
            f"{config} is no Serve config with an application. {where}".strip(),
            hint="Start from the serve_config.yaml that tollama comes with.",
        ) from None
    return str(yaml.safe_dump(graph, sort_keys=False))


def environment(settings: Settings, run: Path, mark: str) -> dict[str, str]:
    """The environment that Ray and every worker start in."""
    env = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    env |= {name: env.get(name, value) for name, value in RAY_ENVIRONMENT.items()}
    env |= {MARK: mark, "TOLLAMA_HOME": str(settings.home), "TOLLAMA_RUNTIMES_DIR": str(settings.runtimes)}
    env |= {"RAY_ROTATION_MAX_BYTES": str(rotation(settings.log_max_mb)), "RAY_ROTATION_BACKUP_COUNT": "2"}
    env |= told(settings)
    if not env.get("RAY_ADDRESS"):
        # Ray would write its token readable by all; a file of ours is read instead.
        token = run / "ray_token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        env.setdefault("RAY_TMPDIR", str(_ray_folder(settings.home)))
    return env


def _supervise(settings: Settings, run: Path, rendered: Path, say: Callable[[str], None]) -> int:
    logs = settings.home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    empty = run / "empty"
    empty.mkdir()
    mark = secrets.token_hex(8)
    command = [sys.executable, "-P", "-m", "deployments.launch", str(rendered), str(run / "ray.json")]
    if not settings.dashboard:
        command.append("--no-dashboard")
    with _signals() as asked, open(logs / "serve.log", "wb") as log:
        child = subprocess.Popen(
            command,
            cwd=empty,
            env=environment(settings, run, mark),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        try:
            started = _until(lambda: asked or child.poll() is not None or _answers(settings), START_S)
            if not asked and (child.poll() is not None or not started):
                say(f"Error: the server did not start; the end of {logs / 'serve.log'}:")
                say(_tail(logs / "serve.log"))
                return 1
            if not asked:
                _announce(settings, run, say)
            _until(lambda: asked or child.poll() is not None, float("inf"))
            if child.poll() is not None:
                say(f"Error: the server ended by itself; its log is {logs / 'serve.log'}")
                return 1
            first = len(asked)
            with contextlib.suppress(OSError):  # the terminal may be what went away
                say("Stopping: no new requests, waiting for those in flight. Again to stop at once.")
            (run / "drain").touch()
            _until(lambda: not _doors(run) or child.poll() is not None or len(asked) > first, DRAIN_S)
            return 0
        finally:
            _stop(child, mark, asked)
            folder = Path(os.environ.get("RAY_TMPDIR") or _ray_folder(settings.home))
            _keep_logs(settings.home, folder.glob(f"ray/session_2*_{child.pid}"))


def _announce(settings: Settings, run: Path, say: Callable[[str], None]) -> None:
    base = f"http://{address(settings.host, settings.port)}"
    say(f"tollama is ready at {base}")
    say(f"  API documentation  {base}/docs")
    with contextlib.suppress(OSError, ValueError):
        dashboard = json.loads((run / "ray.json").read_text()).get("dashboard")
        if dashboard:
            how = "  (log in with the token of: tollama info --dashboard-token)" if (run / "ray_token").exists() else ""
            say(f"  Ray dashboard      http://{dashboard}{how}")
    say(f"  Serve's proxy      http://{address(settings.host, settings.serve_port)}")
    say("Ctrl-C stops it.")


def _end_with_parent() -> None:
    """In the child: be interrupted when the launcher dies without a word, so that nothing is left of the server."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)


def _stop(child: subprocess.Popen[bytes], mark: str, asked: list[int]) -> None:
    """End Serve and Ray, gently first; when asked again, or too late, whatever still carries our mark."""
    before = len(asked)
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
        _until(lambda: child.poll() is not None or len(asked) > before, STOP_S)
    _until(lambda: not _left(child.pid, mark) or len(asked) > before, 5.0)
    _until(lambda: not _killed(child.pid, mark), 5.0)
    if child.poll() is None:
        child.wait(5.0)


def _killed(session: int, mark: str) -> list[int]:
    """The processes that were still there to be killed: one that dies may have started another."""
    found = _left(session, mark)
    for pid in found:
        with contextlib.suppress(OSError):
            # multiprocessing's own takes away the semaphores of those that are killed, and then ends by itself.
            if b"multiprocessing.resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
    return found


def _left(session: int, mark: str) -> list[int]:
    """Living processes of the child's session, or started with our mark in their environment: Ray's agents write their
    titles over the one, and what a stranger starts may leave the other."""
    sign = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                environ = (entry / "environ").read_bytes()
                if environ and (os.getsid(int(entry.name)) == session or sign in environ.split(b"\0")):
                    found.append(int(entry.name))
    return found


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals received so far, oldest first; the former handlers come back at the end."""
    asked: list[int] = []
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, lambda received, _: asked.append(received)) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _until(condition: Callable[[], Any], seconds: float) -> bool:
    """Whether ``condition`` came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def _doors(run: Path) -> bool:
    """Whether any ingress replica still has requests of its door under way: each holds a lock until it has none."""
    from filelock import FileLock, Timeout

    for path in (run / "doors").glob("*"):
        try:
            FileLock(path).acquire(timeout=0).lock.release()
        except Timeout:
            return True
    return False


def _answers(settings: Settings) -> bool:
    url = f"http://{address(settings.host, settings.port)}/health/live"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as response:
            return bool(response.status == 200)
    except (OSError, HTTPException):
        return False


def _tail(path: Path, lines: int = 15) -> str:
    return text("\n".join(path.read_text(errors="replace").splitlines()[-lines:]))


def _require_free(host: str, port: int) -> None:
    """Bind without SO_REUSEPORT, which would let a second server share the port silently."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            hint = "Is a server running already? Another port: tollama serve --port N, or TOLLAMA_PORT."
            if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                hint = "Give an address of this machine: 127.0.0.1, or 0.0.0.0 for all that it has."
            raise ConfigError(
                f"The address {address(host, port)} cannot be used: {error.strerror}.", hint=hint
            ) from None


def runs(home: Path) -> bool:
    """Whether a server that ``tollama serve`` started runs on this home."""
    from filelock import FileLock, Timeout

    lock = home / "run/serve.lock"
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


@contextlib.contextmanager
def _only_server(run: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(run / "serve.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"A server runs already on the home {run.parent}.", hint="Stop it, or set TOLLAMA_HOME to another folder."
        ) from None
    try:
        yield
    finally:
        lock.release()


def _empty(run: Path) -> None:
    for entry in run.iterdir():
        if entry.name == "serve.lock":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _keep_logs(home: Path, sessions: Iterable[Path]) -> None:
    """Move the logs of Ray and of every replica into the home, in place of the last run's, and remove the rest."""
    kept = home / "logs/last-run"
    for session in sorted(sessions):
        shutil.rmtree(kept, ignore_errors=True)
        with contextlib.suppress(OSError):
            shutil.move(session / "logs", kept)
        shutil.rmtree(session, ignore_errors=True)
    shutil.rmtree(_ray_folder(home), ignore_errors=True)


def _ray_folder(home: Path) -> Path:
    """A private folder with a short path: a Unix socket's path may have 107 characters."""
    import hashlib

    name = f"tollama-{os.getuid()}-{hashlib.sha256(str(home).encode()).hexdigest()[:8]}"
    folder = Path(tempfile.gettempdir()) / name
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ConfigError(f"The folder {folder} belongs to somebody else.", hint="Set RAY_TMPDIR to a folder of yours.")
    folder.chmod(0o700)
    return folder
