"""A web server on this machine that speaks the Hugging Face Hub's HTTP interface, reads from disk, and fails on demand.

Flow: request -> faults planned for its path -> route -> ``Answer`` -> sent, whole or as the fault says -> the log.
``huggingface_hub``'s own client talks to it (``HF_ENDPOINT`` or ``endpoint=``). Below ``/static/NAME/`` it is an
ordinary web server. This is the side that reads; a subclass adds routes to write.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, quote, unquote, urlsplit

FIRST_COMMIT = "1" * 40


@dataclass
class Fault:
    """What goes wrong with requests for a path; the fields that are None do not.

    Attributes:
        times: requests that it strikes, then it is over; None is all.
        methods: that it strikes.
        status: answer with this status instead.
        headers: add these headers.
        drop_after: reset the connection after so many bytes of the body.
        short_by: leave out so many bytes at the end, and say so in Content-Length.
        close_early_by: promise all bytes, and close the connection so many before the end.
        flip: position of a byte of the file to change.
        longer_by: append so many bytes; the length says so.
        endless: append so many bytes; the length is not said.
        no_ranges: ignore ``Range``.
        stall: be silent for so many seconds after half of the body.
        drip: seconds between two bytes of the body.
        hold: a function to call after half of the body, to stop there until it returns.
    """

    times: int | None = 1
    methods: tuple[str, ...] = ("GET",)
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    drop_after: int | None = None
    short_by: int = 0
    close_early_by: int = 0
    flip: int | None = None
    longer_by: int = 0
    endless: int = 0
    no_ranges: bool = False
    stall: float = 0.0
    drip: float = 0.0
    hold: Callable[[], object] | None = None


@dataclass(frozen=True)
class Logged:
    """One request, as the log has it."""

    method: str
    path: str
    range: str | None
    token: str | None
    status: int


@dataclass
class Request:
    """One request, for a route."""

    method: str
    path: str
    query: dict[str, str]
    headers: Any
    body: bytes

    @property
    def token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """What a route gives back; a body that is a path is the file there, or the range of it that was asked for."""

    body: bytes | Path = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def json_answer(value: Any, status: int = 200, **headers: str) -> Answer:
    return Answer(json.dumps(value).encode(), status, {"Content-Type": "application/json", **headers})


def error(status: int, code: str, message: str) -> Answer:
    """A refusal as the Hub words it, with the headers by which the client tells its kind."""
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return json_answer({"error": message}, status, **headers)


@dataclass
class Repo:
    """A dataset repository.

    Attributes:
        commits: id -> name of each file -> where it lies on this machine.
        branches: name of a branch or tag -> id of its commit.
        private: seen by those with a token of the server only.
        gated: the files are given to nobody (``open_to`` apart).
        open_to: users that a gated repository gives its files to.
        lfs: which files are large files, that lie elsewhere: by name.
    """

    commits: dict[str, dict[str, Path]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    open_to: tuple[str, ...] = ()
    lfs: Callable[[str], bool] = lambda name: not name.endswith((".json", ".md"))

    def commit_of(self, revision: str) -> str | None:
        found = self.branches.get(revision, revision)
        return found if found in self.commits else None


@cache
def _digests(path: Path, size: int, mtime: int) -> tuple[str, str]:
    assert mtime  # a part of the key
    data = path.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % size + data, usedforsecurity=False).hexdigest()
    return git, hashlib.sha256(data).hexdigest()


def digests(path: Path) -> tuple[str, str]:
    """Git's id of a file (as a plain file) and its SHA-256."""
    stat = path.stat()
    return _digests(path, stat.st_size, stat.st_mtime_ns)


def files_below(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


class HubServer:
    """The server; ``with HubServer() as server`` runs it.

    Attributes:
        url: of the server.
        repos: by ``owner/name``.
        static: folder by the name that it is served under: ``/static/NAME/FILE``.
        tokens: user of each token.
        plan: faults by the path's end; the first that is not over strikes.
        log: all requests, in the order in which they were answered.
    """

    REPO = r"(?P<repo>[^/]+/[^/]+)"
    ROUTES: ClassVar[list[tuple[str, str, str]]] = [
        ("GET", r"/api/datasets", "list_repos"),
        ("GET", rf"/api/datasets/{REPO}", "info"),
        ("GET", rf"/api/datasets/{REPO}/revision/(?P<revision>.+)", "info"),
        ("GET", rf"/api/datasets/{REPO}/refs", "refs"),
        ("GET", rf"/api/datasets/{REPO}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", "tree"),
        ("POST", rf"/api/datasets/{REPO}/paths-info/(?P<revision>[^/]+)", "paths_info"),
        ("HEAD|GET", rf"/datasets/{REPO}/resolve/(?P<revision>[^/]+)/(?P<name>.+)", "resolve"),
        ("HEAD|GET", r"/cdn/(?P<place>.+)", "large_file"),
        ("HEAD|GET", r"/static/(?P<site>[^/]+)/(?P<name>.+)", "static_file"),
        ("GET", r"/api/whoami-v2", "whoami"),
    ]
    """Methods, path (still quoted), and the name of the method that answers."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.static: dict[str, Path] = {}
        self.tokens: dict[str, str] = {}
        self.plan: dict[str, list[Fault]] = {}
        self.log: list[Logged] = []
        self.lock = threading.Lock()
        self._stopping = threading.Event()

    def __enter__(self) -> HubServer:
        hub = self

        class Handler(_Handler):
            server_of = hub

        self._web = _Web(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._web.server_port}"
        self._thread = threading.Thread(target=self._web.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._web.shutdown()
        self._web.server_close()
        self._thread.join()

    def add(self, repo: str, folder: Path, commit: str = FIRST_COMMIT, **options: Any) -> Repo:
        """Serve a folder as a repository, or as the next commit of one."""
        found = self.repos.setdefault(repo, Repo(**options))
        found.commits[commit] = files_below(folder)
        found.branches["main"] = commit
        return found

    def fail(self, path_end: str, *faults: Fault) -> None:
        """Plan faults for the paths that end so."""
        self.plan.setdefault(path_end, []).extend(faults)

    def requests(self, pattern: str = "", method: str | None = None) -> list[Logged]:
        """The logged requests whose path holds this regular expression."""
        with self.lock:
            return [one for one in self.log if re.search(pattern, one.path) and method in (None, one.method)]

    def wait(self, seconds: float) -> None:
        """Sleep, but not longer than the server lives."""
        self._stopping.wait(seconds)

    def fault_for(self, request: Request) -> Fault | None:
        with self.lock:
            for end, faults in self.plan.items():
                if not unquote(request.path).endswith(end):
                    continue
                for fault in faults:
                    if request.method in fault.methods and fault.times != 0:
                        fault.times = None if fault.times is None else fault.times - 1
                        return fault
        return None

    def answer(self, request: Request) -> Answer:
        """Find the route and call it."""
        for methods, pattern, name in self.ROUTES:
            found = re.fullmatch(pattern, request.path)
            if request.method in methods.split("|") and found:
                values = {key: unquote(value) for key, value in found.groupdict().items() if value is not None}
                return getattr(self, name)(request, **values)
        return error(404, "", f"no route for {request.method} {request.path}")

    # What it serves

    def user(self, request: Request) -> str | None:
        return self.tokens.get(request.token or "")

    def visible(self, request: Request, repo: str, *, files: bool = False) -> Repo | Answer:
        """The repository, or the refusal that the Hub gives for it."""
        user = self.user(request)
        if request.token and user is None:
            return error(401, "", "Invalid credentials in Authorization header")
        found = self.repos.get(repo)
        if found is None or (found.private and user is None):
            message = "Repository not found" if user else "Invalid username or password."
            return error(404 if user else 401, "RepoNotFound", message)
        if files and found.gated and user not in found.open_to:
            return error(403 if user else 401, "GatedRepo", f"Access to dataset {repo} is restricted.")
        return found

    def commit(self, request: Request, repo: str, revision: str, *, files: bool = False) -> tuple[Repo, str] | Answer:
        found = self.visible(request, repo, files=files)
        if isinstance(found, Answer):
            return found
        commit = found.commit_of(revision)
        if commit is None:
            return error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found, commit

    def list_repos(self, request: Request) -> Answer:
        author, search = request.query.get("author"), request.query.get("search", "")
        names = [
            name
            for name, repo in sorted(self.repos.items())
            if (author is None or name.split("/")[0] == author)
            and search in name
            and (not repo.private or self.user(request))
        ]
        return json_answer([{"id": name, "private": self.repos[name].private} for name in names])

    def info(self, request: Request, repo: str, revision: str = "main") -> Answer:
        found = self.commit(request, repo, revision)
        if isinstance(found, Answer):
            return found
        one, commit = found
        return json_answer(
            {
                "id": repo,
                "sha": commit,
                "private": one.private,
                "gated": "manual" if one.gated else False,
                "disabled": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "siblings": [{"rfilename": name} for name in one.commits[commit]],
            }
        )

    def refs(self, request: Request, repo: str) -> Answer:
        found = self.visible(request, repo)
        if isinstance(found, Answer):
            return found
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
            for name, commit in found.branches.items()
        ]
        return json_answer({"branches": branches, "converts": [], "tags": []})

    def entry(self, repo: Repo, name: str, path: Path) -> dict[str, Any]:
        git, sha256 = digests(path)
        size = path.stat().st_size
        large = {"oid": sha256, "size": size, "pointerSize": 134} if repo.lfs(name) else None
        return {"type": "file", "oid": git, "size": size, "path": name} | ({"lfs": large} if large else {})

    def tree(self, request: Request, repo: str, revision: str, folder: str = "") -> Answer:
        found = self.commit(request, repo, revision)
        if isinstance(found, Answer):
            return found
        one, commit = found
        prefix = f"{folder}/" if folder else ""
        recursive = request.query.get("recursive", "").lower() in ("true", "1")
        rows: dict[str, dict[str, Any]] = {}
        for name, path in one.commits[commit].items():
            if not name.startswith(prefix):
                continue
            parts = name.removeprefix(prefix).split("/")
            for depth in range(1, len(parts) if recursive else min(2, len(parts))):
                below = prefix + "/".join(parts[:depth])
                oid = hashlib.sha1(below.encode(), usedforsecurity=False).hexdigest()
                rows[below] = {"type": "directory", "oid": oid, "size": 0, "path": below}
            if recursive or len(parts) == 1:
                rows[name] = self.entry(one, name, path)
        if not rows and folder:
            return error(404, "EntryNotFound", f"{folder} does not exist on {revision}")
        return json_answer(list(rows.values()), **{"X-Repo-Commit": commit})

    def paths_info(self, request: Request, repo: str, revision: str) -> Answer:
        found = self.commit(request, repo, revision)
        if isinstance(found, Answer):
            return found
        one, commit = found
        if "json" in request.headers.get("Content-Type", ""):
            asked = request.json()["paths"]
        else:
            asked = parse_qs(request.body.decode()).get("paths", [])
        rows = []
        for name in asked:
            files = one.commits[commit]
            if name in files:
                rows.append(self.entry(one, name, files[name]))
            elif any(other.startswith(f"{name}/") for other in files):
                rows.append({"type": "directory", "oid": "0" * 40, "size": 0, "path": name})
        return json_answer(rows)

    def resolve(self, request: Request, repo: str, revision: str, name: str) -> Answer:
        found = self.commit(request, repo, revision, files=True)
        if isinstance(found, Answer):
            return found
        one, commit = found
        path = one.commits[commit].get(name)
        headers = {"X-Repo-Commit": commit}
        if path is None:
            refusal = error(404, "EntryNotFound", "Entry not found")
            return Answer(refusal.body, 404, refusal.headers | headers)
        git, sha256 = digests(path)
        if not one.lfs(name):
            return Answer(path, 200, headers | {"ETag": f'"{git}"', "Content-Disposition": "inline"})
        # The Hub sends large files from another host, at a signed address that is as good as a password.
        place = f"http://localhost:{self._web.server_port}/cdn/{repo}/{commit}/{quote(name)}?Signature=SIGNED-SECRET"
        large = {"X-Linked-Size": str(path.stat().st_size), "X-Linked-ETag": f'"{sha256}"', "Location": place}
        return Answer(b"", 302, headers | large)

    def large_file(self, request: Request, place: str) -> Answer:
        owner, repo, commit, name = place.split("/", 3)
        if request.query.get("Signature") != "SIGNED-SECRET":
            return error(403, "", "not signed")
        path = self.repos[f"{owner}/{repo}"].commits[commit][name]
        return Answer(path, 200, {"ETag": f'"{digests(path)[1]}"'})

    def static_file(self, request: Request, site: str, name: str) -> Answer:  # noqa: ARG002
        path = self.static.get(site, Path("/nowhere")) / name
        return Answer(path) if ".." not in name.split("/") and path.is_file() else Answer(b"not here", 404)

    def whoami(self, request: Request) -> Answer:
        user = self.user(request)
        if user is None:
            return error(401, "", "Invalid credentials in Authorization header")
        token = {"displayName": "test", "role": "write", "createdAt": "2026-01-01T00:00:00.000Z"}
        auth = {"type": "access_token", "accessToken": token}
        return json_answer({"type": "user", "name": user, "orgs": [], "auth": auth})


class _Web(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a request that is stalled on purpose is not waited for
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what the tests are about."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: HubServer

    def log_message(self, *args: object) -> None:
        pass

    def _handle(self) -> None:
        hub = self.server_of
        split = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(split.query).items()}
        body = self._body()
        request = Request(self.command, split.path, query, self.headers, body)
        answer, fault = self._answer(request)
        data = answer.body.read_bytes() if isinstance(answer.body, Path) else answer.body
        if fault.flip is not None:
            data = data[: fault.flip] + bytes([data[fault.flip] ^ 1]) + data[fault.flip + 1 :]
        headers = answer.headers | fault.headers
        status, data = self._ranged(answer, data, fault, headers)
        data = data[: len(data) - fault.short_by] + b"x" * fault.longer_by
        with hub.lock:
            hub.log.append(Logged(self.command, split.path, self.headers.get("Range"), request.token, status))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if fault.endless:
            self.close_connection = True
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self._send(data, fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _handle

    def _answer(self, request: Request) -> tuple[Answer, Fault]:
        """The answer, and what is to go wrong with it; a redirect to a large file is not struck, but the file is."""
        reads = request.method in ("GET", "HEAD")
        answer = self.server_of.answer(request) if reads else None
        fault = self.server_of.fault_for(request) if answer is None or answer.status != 302 else None
        if fault is not None and fault.status is not None:
            return Answer(b"a planned fault", fault.status), fault
        return answer or self.server_of.answer(request), fault or Fault(times=0)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _ranged(self, answer: Answer, data: bytes, fault: Fault, headers: dict[str, str]) -> tuple[int, bytes]:
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if answer.status != 200 or not isinstance(answer.body, Path) or fault.no_ranges or not asked:
            return answer.status, data
        headers["Accept-Ranges"] = "bytes"
        first, last = asked.groups()
        begin = int(first) if first else max(0, len(data) - int(last))
        end = min(len(data), int(last) + 1) if first and last else len(data)
        if begin >= end:
            headers["Content-Range"] = f"bytes */{len(data)}"
            return 416, b""
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
        return 206, data[begin:end]

    def _send(self, data: bytes, fault: Fault) -> None:
        if fault.drop_after is not None:
            self.wfile.write(data[: fault.drop_after])
            self.wfile.flush()
            self.server_of.wait(0.05)  # a reset takes what the other side has not read yet
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        if fault.close_early_by:
            self.wfile.write(data[: max(0, len(data) - fault.close_early_by)])
            self.close_connection = True
            return
        if fault.drip:
            for i in range(len(data)):
                self.wfile.write(data[i : i + 1])
                self.server_of.wait(fault.drip)
            return
        half = len(data) // 2
        if fault.stall or fault.hold:
            self.wfile.write(data[:half])
            self.wfile.flush()
            self.server_of.wait(fault.stall)
            if fault.hold:
                fault.hold()
            data = data[half:]
        self.wfile.write(data)
        begin = time.monotonic()
        sent = 0
        while sent < fault.endless and time.monotonic() < begin + 30:
            self.wfile.write(b"x" * 65536)
            sent += 65536
