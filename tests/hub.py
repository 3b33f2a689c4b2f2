"""A model hub on loopback for tests: enough of the hub's HTTP API for its real client to list, download and fail.

    with LoopbackHub(tmp_path) as hub:
        commit = hub.add("org/name", {"config.json": b"{}", "model.safetensors": path})
        Settings(hf_endpoint=hub.url, ...)

What goes wrong is set on the hub while it runs: `status`, `gated`, `cut_after`, `pause_after`, `corrupt` ...
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import socket
import struct
import termios
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

from tollama.capabilities import Capabilities
from tollama.registry import Details, Entry, License, Source

LFS_SUFFIXES = (".safetensors", ".bin", ".ckpt", ".pt")
CHUNK = 64 * 1024
EMBEDDED = Source(type="embedded")


def entry(name: str = "tiny", *, gated: bool = False, **more: Any) -> Entry:
    """A registry entry for a model on a `LoopbackHub`, or with ``source=EMBEDDED`` for one without files."""
    license = License(id="test-nc", needs_acceptance=gated, verified=True, notice="For tests.", url="http://localhost/")
    given: dict[str, Any] = {
        "family": "mock",
        "adapter": "mock",
        "source": Source(type="huggingface", repo_id="org/tiny", revision="main"),
        "files": ("config.json", "*.safetensors", "LICENSE"),
        "license": license,
        "capabilities": Capabilities(max_context=512, max_horizon=64),
        "details": Details(format="safetensors", parameter_size="1M", quantization_level="F32"),
        "description": "For tests.",
    }
    return Entry(name=name, **given | more)


class LoopbackHub:
    """Serves ``<root>/repos/<org>/<name>/<commit>/files`` on 127.0.0.1. A context manager.

    ``status``: answered to everything. ``statuses``: answered to the next requests, one each. ``gated``: repositories
    whose files want a token. ``token``: the one that is right. ``retry_after``: what a refusal says of it.
    ``hangs``: a part of paths that are never answered. ``cut_after``: bytes of a body after which the connection is
    closed, ``cuts`` times; ``resets``: whether with an RST. ``pause_after``: bytes after which a body waits for
    `resume`; `paused` is set then. ``corrupt``: files (by path) whose bytes are not what the list says. ``ranges``:
    whether Range is honoured.
    ``pace``: seconds that each piece of a body takes. ``cdn``: an address that large files are redirected to.
    ``cards``: model card metadata by repository. ``requests``: (method, path, headers) of all so far.

    It answers as a proxy too: whatever host a request is for, this hub answers it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root / "repos"
        self.refs: dict[tuple[str, str], str] = {}
        self.status: int | None = None
        self.statuses: deque[int] = deque()
        self.gated: set[str] = set()
        self.token = "hf_right"
        self.retry_after: str | None = None
        self.hangs: str | None = None
        self.cut_after: int | None = None
        self.cuts = 1
        self.resets = False
        self.pause_after: int | None = None
        self.paused = threading.Event()
        self.resume = threading.Event()
        self.corrupt: set[str] = set()
        self.ranges = True
        self.pace = 0.0
        self.cdn: str | None = None
        self.cards: dict[str, dict[str, object]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self._rows: dict[tuple[str, str], list[dict[str, object]]] = {}
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """The endpoint to give to a client."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def add(self, repo_id: str, files: dict[str, bytes | Path], branch: str = "main") -> str:
        """A new commit of a repository, with these files and no others; ``branch`` points to it. Returns its id.

        A ``branch`` of 40 hex digits is the commit itself, for models whose registry entry pins one.
        """
        content = {name: body if isinstance(body, bytes) else body.read_bytes() for name, body in files.items()}
        rows = [_row(name, body) for name, body in sorted(content.items())]
        pinned = re.fullmatch("[0-9a-f]{40}", branch)
        commit = branch if pinned else hashlib.sha1(json.dumps([repo_id, rows]).encode()).hexdigest()
        for name, body in content.items():
            path = self.root / repo_id / commit / "files" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        self._rows[repo_id, commit] = rows
        self.refs[repo_id, branch] = commit
        return commit

    def rows(self, repo_id: str, revision: str) -> tuple[str, list[dict[str, object]]] | None:
        """(commit, files) of a revision, None if there is none."""
        commit = self.refs.get((repo_id, revision), revision)
        rows = self._rows.get((repo_id, commit))
        return None if rows is None else (commit, rows)

    def known(self, repo_id: str) -> bool:
        return any(repo == repo_id for repo, _ in self._rows)

    def asked(self, method: str, part: str) -> int:
        """Requests so far by method and a part of the path."""
        return sum(verb == method and part in path for verb, path, _ in self.requests)

    def __enter__(self) -> LoopbackHub:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.resume.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def safetensors(numbers: int = 1000, seed: bytes = b"") -> bytes:
    """A whole file of safetensors with one tensor of so many numbers."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [numbers], "data_offsets": [0, 4 * numbers]}}).encode()
    return len(header).to_bytes(8, "little") + header + (seed + bytes(4 * numbers))[: 4 * numbers]


def _row(name: str, body: bytes) -> dict[str, object]:
    row: dict[str, object] = {
        "rfilename": name,
        "size": len(body),
        "blobId": hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest(),
    }
    if name.endswith(LFS_SUFFIXES):
        row["lfs"] = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
    return row


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        hub = self.hub
        path = unquote(urlsplit(self.path).path).strip("/")
        hub.requests.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        if hub.hangs is not None and hub.hangs in path:
            hub.resume.wait()
            self.close_connection = True
            return None
        status = hub.statuses.popleft() if hub.statuses else hub.status
        if status is not None:
            return self._refuse(status)
        if path.startswith("api/models/"):
            return self._list(path.removeprefix("api/models/"))
        repo, slash, rest = path.partition("/resolve/")
        return self._file(repo, *rest.split("/", 1)) if slash and "/" in rest else self._refuse(404)

    def _refuse(self, status: int, code: str = "", headers: dict[str, str] | None = None) -> None:
        body = json.dumps({"error": code or f"status {status}"}).encode()
        after = {"Retry-After": self.hub.retry_after} if self.hub.retry_after else {}
        self._send(status, body, ({"X-Error-Code": code} if code else {}) | after | (headers or {}))

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _found(self, repo: str, revision: str) -> tuple[str, list[dict[str, object]]] | None:
        """The files of a revision; None when it was refused."""
        if not self.hub.known(repo):
            # As the real hub, which does not tell strangers what does not exist from what they may not see.
            self._refuse(404 if self.headers.get("Authorization") else 401, "RepoNotFound")
            return None
        found = self.hub.rows(repo, revision)
        if found is None:
            self._refuse(404, "RevisionNotFound")
        return found

    def _list(self, path: str) -> None:
        for mark in ("/revision/", "/tree/"):
            repo, _, revision = path.partition(mark)
            if revision:
                break
        found = self._found(repo, revision or "main")
        if found is None:
            return
        commit, rows = found
        answer: Any = {"id": repo, "sha": commit, "siblings": rows, "tags": [], "private": False}
        if card := self.hub.cards.get(repo):
            answer |= {"cardData": card, "tags": card.get("tags", []), "library_name": card.get("library_name")}
        if mark == "/tree/" and revision:
            lfs = [row.get("lfs") for row in rows]
            answer = [
                {"type": "file", "path": row["rfilename"], "size": row["size"], "oid": row["blobId"]}
                | ({"lfs": {"oid": large["sha256"], "size": large["size"], "pointerSize": 134}} if large else {})  # type: ignore[index]
                for row, large in zip(rows, lfs, strict=True)
            ]
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _file(self, repo: str, revision: str, name: str) -> None:
        hub = self.hub
        if repo in hub.gated and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self._refuse(403 if self.headers.get("Authorization") else 401, "GatedRepo")
        found = self._found(repo, revision)
        if found is None:
            return None
        commit, rows = found
        row = next((row for row in rows if row["rfilename"] == name), None)
        if row is None:
            return self._refuse(404, "EntryNotFound")
        body = (hub.root / repo / commit / "files" / name).read_bytes()
        large = name.endswith(LFS_SUFFIXES)
        etag = hashlib.sha256(body).hexdigest() if large else str(row["blobId"])
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if large:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(body))}
            if hub.cdn:
                return self._send(302, b"", headers | {"Location": hub.cdn + self.path})
        if name in hub.corrupt:
            body = bytes(byte ^ 1 for byte in body)
        first = self._range(len(body))
        if first >= len(body) > 0:
            return self._refuse(416)
        status = 206 if first else 200
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body) - first)}).items():
            self.send_header(key, value)
        self.end_headers()
        return None if self.command == "HEAD" else self._stream(body[first:])

    def _range(self, length: int) -> int:
        given = self.headers.get("Range", "")
        return int(given.removeprefix("bytes=").partition("-")[0]) if given and self.hub.ranges and length else 0

    def _stream(self, body: bytes) -> None:
        hub = self.hub
        for at in range(0, len(body), CHUNK):
            if hub.pause_after is not None and at >= hub.pause_after:
                hub.paused.set()
                hub.resume.wait()
            if hub.cut_after is not None and at >= hub.cut_after and hub.cuts > 0:
                hub.cuts -= 1
                self.close_connection = True
                if hub.resets:
                    while fcntl.ioctl(self.connection, termios.TIOCOUTQ, bytes(4)) != bytes(4):
                        hub.resume.wait(0.001)  # a reset drops what the client's machine has not got yet
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                return
            hub.resume.wait(hub.pace)
            try:
                self.wfile.write(body[at : at + CHUNK])
            except OSError:  # the client went away
                self.close_connection = True
                return
