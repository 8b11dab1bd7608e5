"""A server on this machine that speaks the Hugging Face Hub's HTTP interface, as far as huggingface_hub's client asks.

Below ``/static/NAME/`` it is a plain web server. Uploads go to a storage folder, by SHA-256.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

FIRST_COMMIT = "1" * 40


@dataclass
class Fault:
    """What goes wrong with requests for a path."""

    times: int | None = None  # None is always
    method: str = "GET"
    status: int | None = None  # instead of the usual one
    flip: int | None = None  # the byte at this position
    longer_by: int = 0
    stall: float = 0.0  # seconds of silence after half of the body


@dataclass
class Repo:
    """A dataset repository: commits (file by name), branches, and who may see it."""

    commits: dict[str, dict[str, Path]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def names(self) -> set[str]:
        return set(self.commits[self.branches["main"]])


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    token: str | None
    body: bytes


class Answer(Exception):  # noqa: N818  (a refusal ends the route that found it)
    """What a route gives back; a body that is a path is the file there."""

    def __init__(self, body=b"", status=200, **headers):
        super().__init__(status)
        is_data = isinstance(body, bytes | Path)
        self.body = body if is_data else json.dumps(body).encode()
        self.status, self.headers = status, headers | ({} if is_data else {"Content-Type": "application/json"})


def refusal(status, code, message):
    return Answer({"error": message}, status, **{"X-Error-Code": code, "X-Error-Message": message})


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def git_id(path):
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def is_large(name):
    return not name.endswith((".json", ".md"))


def entry(name, path):
    size = path.stat().st_size
    large = {"lfs": {"oid": sha256(path), "size": size, "pointerSize": 134}} if is_large(name) else {}
    return {"type": "file", "oid": git_id(path), "size": size, "path": name} | large


class HubServer:
    """The server, while a ``with`` lasts; ``plan`` has faults by the path's end, ``tokens`` the user of each token."""

    def __init__(self, storage: Path | None = None) -> None:
        self.storage = storage
        self.repos: dict[str, Repo] = {}
        self.static: dict[str, Path] = {}
        self.tokens: dict[str, str] = {}
        self.plan: dict[str, Fault] = {}
        self.log: list[Request] = []
        self.yaml_seen: list[dict] = []
        self._lock, self._stopping = threading.Lock(), threading.Event()

    def __enter__(self) -> HubServer:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._web.block_on_close = False  # a request that is stalled on purpose is not waited for
        self._web.handle_error = lambda *_: None  # a client that went away
        self.url = f"http://127.0.0.1:{self._web.server_port}"
        threading.Thread(target=self._web.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._stopping.set()
        self._web.shutdown()
        self._web.server_close()

    def add(self, name, folder, commit=FIRST_COMMIT, **options) -> Repo:
        """Serve a folder as a repository, or as the next commit of one."""
        found = self.repos.setdefault(name, Repo(**options))
        found.commits[commit] = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        found.branches["main"] = commit
        return found

    def requests(self, pattern="", method=None) -> list[Request]:
        """The logged requests whose path holds this regular expression."""
        return [one for one in self.log if re.search(pattern, one.path) and method in (None, one.method)]

    def fault_of(self, request) -> Fault | None:
        with self._lock:
            for end, fault in self.plan.items():
                if request.path.endswith(end) and request.method == fault.method and fault.times != 0:
                    fault.times = None if fault.times is None else fault.times - 1
                    return fault
        return None

    def answer(self, request) -> Answer:
        repo = r"(?P<repo>[^/]+/[^/]+)"
        for methods, pattern, route in (
            ("GET", rf"/api/datasets/{repo}(?:/revision/(?P<revision>.+))?", self.info),
            ("GET", rf"/api/datasets/{repo}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", self.tree),
            ("POST", rf"/api/datasets/{repo}/paths-info/(?P<revision>[^/]+)", self.paths_info),
            ("HEAD GET", rf"/datasets/{repo}/resolve/(?P<revision>[^/]+)/(?P<name>.+)", self.resolve),
            ("HEAD GET", rf"/cdn/{repo}/(?P<revision>[^/]+)/(?P<name>.+)", self.large_file),
            ("HEAD GET", r"/static/(?P<site>[^/]+)/(?P<name>.+)", self.static_file),
            ("GET", r"/api/whoami-v2", self.whoami),
            ("POST", r"/api/repos/create", self.create),
            ("POST", r"/api/validate-yaml", self.validate_yaml),
            ("PUT", rf"/api/datasets/{repo}/settings", self.settings),
            ("POST", rf"/api/datasets/{repo}/preupload/(?P<revision>[^/]+)", self.preupload),
            ("POST", r"/datasets/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", self.lfs_batch),
            ("PUT", r"/storage/(?P<oid>[0-9a-f]{64})", self.store),
            ("POST", rf"/api/datasets/{repo}/commit/(?P<revision>[^/]+)", self.commit_files),
        ):
            found = re.fullmatch(pattern, request.path)
            if request.method in methods.split() and found:
                try:
                    return route(request, **{k: unquote(v) for k, v in found.groupdict().items() if v is not None})
                except Answer as refused:
                    return refused
        return refusal(404, "", f"no route for {request.method} {request.path}")

    # Reading

    def user(self, request):
        if request.token and request.token not in self.tokens:
            raise refusal(401, "", "Invalid credentials in Authorization header")
        return self.tokens.get(request.token)

    def files(self, request, repo, revision="main", *, content=False):
        """The repository, a commit's id, and its files."""
        user, found = self.user(request), self.repos.get(repo)
        if found is None or (found.private and user is None):
            raise refusal(404 if user else 401, "RepoNotFound", "Repository not found")
        if content and found.gated and user is None:
            raise refusal(401, "GatedRepo", f"Access to dataset {repo} is restricted.")
        commit = found.branches.get(revision, revision)
        if commit not in found.commits:
            raise refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found, commit, found.commits[commit]

    def info(self, request, repo, revision="main"):
        found, commit, files = self.files(request, repo, revision)
        siblings = [{"rfilename": name, "size": path.stat().st_size} for name, path in files.items()]
        gated = "manual" if found.gated else False
        common = {"disabled": False, "tags": [], "downloads": 0, "likes": 0}
        return Answer(
            {"id": repo, "sha": commit, "private": found.private, "gated": gated, "siblings": siblings} | common
        )

    def tree(self, request, repo, revision, folder=""):
        _, commit, files = self.files(request, repo, revision)
        prefix, recursive = f"{folder}/" if folder else "", request.query.get("recursive", "").lower() == "true"
        rows = {}
        for name, path in files.items():
            parts = name.removeprefix(prefix).split("/")
            if not name.startswith(prefix):
                continue
            for depth in range(1, len(parts) if recursive else min(2, len(parts))):
                below = prefix + "/".join(parts[:depth])
                rows[below] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": below}
            if recursive or len(parts) == 1:
                rows[name] = entry(name, path)
        if not rows and folder:
            raise refusal(404, "EntryNotFound", f"{folder} does not exist on {revision}")
        return Answer(list(rows.values()), **{"X-Repo-Commit": commit})

    def paths_info(self, request, repo, revision):
        files = self.files(request, repo, revision)[2]
        is_json = request.body.startswith(b"{")
        asked = json.loads(request.body)["paths"] if is_json else parse_qs(request.body.decode()).get("paths", [])
        rows = []
        for name in asked:
            if name in files:
                rows.append(entry(name, files[name]))
            elif any(other.startswith(f"{name}/") for other in files):
                rows.append({"type": "directory", "oid": "0" * 40, "size": 0, "path": name})
        return Answer(rows)

    def resolve(self, request, repo, revision, name):
        _, commit, files = self.files(request, repo, revision, content=True)
        headers = {"X-Repo-Commit": commit}
        if (path := files.get(name)) is None:
            raise Answer(b"", 404, **headers, **{"X-Error-Code": "EntryNotFound"})
        if not is_large(name):
            return Answer(path, ETag=f'"{git_id(path)}"', **headers)
        # The Hub sends large files from a second host, at a signed address that is as good as a password.
        host = self.url.replace("127.0.0.1", "localhost")
        place = f"{host}/cdn/{repo}/{commit}/{quote(name)}?Signature=SIGNED-SECRET"
        large = {"X-Linked-Size": str(path.stat().st_size), "X-Linked-ETag": f'"{sha256(path)}"', "Location": place}
        return Answer(b"", 302, **headers, **large)

    def large_file(self, request, repo, revision, name):
        if request.query.get("Signature") != "SIGNED-SECRET":
            raise refusal(403, "", "not signed")
        path = self.repos[repo].commits[revision][name]
        return Answer(path, ETag=f'"{sha256(path)}"')

    def static_file(self, request, site, name):  # noqa: ARG002
        path = self.static.get(site, Path("/nowhere")) / name
        return Answer(path) if ".." not in name.split("/") and path.is_file() else Answer(b"not here", 404)

    def whoami(self, request):
        if (user := self.user(request)) is None:
            raise refusal(401, "", "Invalid credentials in Authorization header")
        token = {"displayName": "test", "role": "write", "createdAt": "2026-01-01T00:00:00.000Z"}
        auth = {"type": "access_token", "accessToken": token}
        return Answer({"type": "user", "name": user, "orgs": [], "auth": auth})

    # Writing

    def writable(self, request, repo):
        found = self.files(request, repo)
        if self.user(request) != repo.split("/")[0]:
            raise refusal(403, "", f"You don't have the rights to write {repo}")
        return found

    def create(self, request):
        value = json.loads(request.body)
        owner = value.get("organization") or self.user(request)
        if owner != self.user(request):
            raise refusal(403, "", f"You don't have the rights to create a dataset under the namespace {owner}")
        name = f"{owner}/{value['name']}"
        private = value.get("private", False) or value.get("visibility") == "private"
        attributes = {".gitattributes": self.keep(b"*.parquet filter=lfs diff=lfs merge=lfs -text\n")}
        self.repos[name] = Repo({"0" * 40: attributes}, {"main": "0" * 40}, private=private)
        return Answer({"url": f"{self.url}/datasets/{name}"})

    def validate_yaml(self, request):
        self.yaml_seen.append(yaml.safe_load(json.loads(request.body)["content"].split("---")[1]))
        return Answer({"errors": [], "warnings": []})

    def settings(self, request, repo):
        value = json.loads(request.body)
        self.writable(request, repo)[0].private = value.get("private", value.get("visibility") == "private")
        return Answer({})

    def preupload(self, request, repo, revision):  # noqa: ARG002
        files = self.writable(request, repo)[2]
        rows = []
        for name in (asked["path"] for asked in json.loads(request.body)["files"]):
            oid = (sha256 if is_large(name) else git_id)(files[name]) if name in files else None
            mode = "lfs" if is_large(name) else "regular"
            rows.append({"path": name, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return Answer({"files": rows})

    def lfs_batch(self, request, repo):
        self.writable(request, repo)
        rows = [{"oid": asked["oid"], "size": asked["size"]} for asked in json.loads(request.body)["objects"]]
        for row in rows:
            if not (self.storage / row["oid"]).exists():
                row["actions"] = {"upload": {"href": f"{self.url}/storage/{row['oid']}"}}
        return Answer({"objects": rows, "transfer": "basic"})

    def store(self, request, oid):
        return Answer() if self.keep(request.body).name == oid else refusal(400, "", "a SHA-256 that was not announced")

    def keep(self, data):
        path = self.storage / hashlib.sha256(data).hexdigest()
        path.write_bytes(data)
        return path

    def commit_files(self, request, repo, revision):
        found, _, files = self.writable(request, repo)
        files = dict(files)
        for step in map(json.loads, request.body.splitlines()):
            value = step["value"]
            if step["key"] == "file":
                files[value["path"]] = self.keep(base64.b64decode(value["content"]))
            elif step["key"] == "lfsFile":
                files[value["path"]] = self.storage / value["oid"]
        oid = f"{len(found.commits):040x}"
        found.commits[oid], found.branches[revision] = files, oid
        url = f"{self.url}/datasets/{repo}/commit/{oid}"
        return Answer({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *args):
        pass

    def _handle(self):
        split = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(split.query).items()}
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        request = Request(self.command, split.path, query, token, self._body())
        self.hub.log.append(request)
        answer = self.hub.answer(request)
        fault = (self.hub.fault_of(request) if answer.status != 302 else None) or Fault()
        if fault.status is not None:
            answer = Answer(b"a planned fault", fault.status)
        data, status = answer.body.read_bytes() if isinstance(answer.body, Path) else answer.body, answer.status
        if fault.flip is not None:
            data = data[: fault.flip] + bytes([data[fault.flip] ^ 1]) + data[fault.flip + 1 :]
        data += b"x" * fault.longer_by
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked and status == 200 and isinstance(answer.body, Path):
            begin, end = int(asked[1]), min(len(data), int(asked[2]) + 1 if asked[2] else len(data))
            status = 206 if begin < end else 416
            answer.headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(data)}" if begin < end else "bytes */0"
            data = data[begin:end]
        self.send_response(status)
        for name, value in (answer.headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.hub._stopping.wait(fault.stall)
            self.wfile.write(data[len(data) // 2 :])

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)


def use(server, monkeypatch, folder):
    """Let huggingface_hub and datasets of this process take the server for the Hub; nobody is logged in."""
    import datasets
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in {
        "HF_TOKEN_PATH": str(folder / "no-token"),
        "HF_HUB_CACHE": str(folder / "hub"),
        "HF_HUB_DISABLE_XET": True,
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.url)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
