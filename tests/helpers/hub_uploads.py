"""The side of the test server that is written to: repositories, preupload, large files, commits.

Flow: bytes -> storage folder, by SHA-256 -> a commit names them -> ``HubServer`` serves them.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import ClassVar

import yaml

from helpers.hub_server import Answer, HubServer, Repo, Request, digests, error, json_answer


class WritableHub(HubServer):
    """A server that takes uploads of those who have one of its tokens, to repositories of their own.

    Attributes:
        storage: folder that the content lies in.
    """

    REPO = HubServer.REPO
    ROUTES: ClassVar[list[tuple[str, str, str]]] = [
        *HubServer.ROUTES,
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate_yaml"),
        ("PUT", rf"/api/datasets/{REPO}/settings", "settings"),
        ("POST", rf"/api/datasets/{REPO}/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", r"/datasets/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "lfs_batch"),
        ("PUT", r"/storage/(?P<oid>[0-9a-f]{64})", "store"),
        ("POST", rf"/api/datasets/{REPO}/commit/(?P<revision>[^/]+)", "commit_files"),
    ]

    def __init__(self, storage: Path) -> None:
        super().__init__()
        self.storage = storage
        self.yaml_seen: list[dict] = []

    def writable(self, request: Request, repo: str) -> Repo | Answer:
        found = self.visible(request, repo)
        if isinstance(found, Answer):
            return found
        if self.user(request) != repo.split("/")[0]:
            return error(403, "", f"You don't have the rights to write {repo}")
        return found

    def create(self, request: Request) -> Answer:
        user, value = self.user(request), request.json()
        if user is None:
            return error(401, "", "Invalid username or password.")
        owner = value.get("organization") or user
        if owner != user:
            return error(403, "", f"You don't have the rights to create a dataset under the namespace {owner}")
        name = f"{owner}/{value['name']}"
        url = {"url": f"{self.url}/datasets/{name}"}
        if name in self.repos:
            return json_answer(url | {"error": "You already created this dataset repo"}, 409)
        attributes = self.keep(b"*.parquet filter=lfs diff=lfs merge=lfs -text\n")
        private = value.get("private", False) or value.get("visibility") == "private"
        self.repos[name] = Repo({"0" * 40: {".gitattributes": attributes}}, {"main": "0" * 40}, private=private)
        return json_answer(url)

    def validate_yaml(self, request: Request) -> Answer:
        content = request.json()["content"]
        try:
            self.yaml_seen.append(yaml.safe_load(content.split("---")[1]))
        except (yaml.YAMLError, IndexError) as fault:
            return json_answer({"errors": [{"message": str(fault)}], "warnings": []}, 400)
        return json_answer({"errors": [], "warnings": []})

    def settings(self, request: Request, repo: str) -> Answer:
        found = self.writable(request, repo)
        if isinstance(found, Answer):
            return found
        value = request.json()
        found.private = value["private"] if "private" in value else value["visibility"] == "private"
        return json_answer({})

    def preupload(self, request: Request, repo: str, revision: str) -> Answer:
        found = self.writable(request, repo)
        if isinstance(found, Answer):
            return found
        there = found.commits[found.branches[revision]]
        rows = []
        for asked in request.json()["files"]:
            name = asked["path"]
            git, sha256 = digests(there[name]) if name in there else (None, None)
            large = found.lfs(name)
            mode = "lfs" if large else "regular"
            rows.append({"path": name, "uploadMode": mode, "shouldIgnore": False, "oid": sha256 if large else git})
        return json_answer({"files": rows})

    def lfs_batch(self, request: Request, repo: str) -> Answer:
        found = self.writable(request, repo)
        if isinstance(found, Answer):
            return found
        rows = []
        for asked in request.json()["objects"]:
            row = {"oid": asked["oid"], "size": asked["size"]}
            if not (self.storage / asked["oid"]).exists():
                row["actions"] = {"upload": {"href": f"{self.url}/storage/{asked['oid']}"}}
            rows.append(row)
        return json_answer({"objects": rows, "transfer": "basic"})

    def store(self, request: Request, oid: str) -> Answer:
        if hashlib.sha256(request.body).hexdigest() != oid:
            return error(400, "", "another SHA-256 than announced")
        self.keep(request.body)
        return Answer()

    def keep(self, data: bytes) -> Path:
        path = self.storage / hashlib.sha256(data).hexdigest()
        path.write_bytes(data)
        return path

    def commit_files(self, request: Request, repo: str, revision: str) -> Answer:
        found = self.writable(request, repo)
        if isinstance(found, Answer):
            return found
        files = dict(found.commits[found.branches[revision]])
        for line in request.body.splitlines():
            step = json.loads(line)
            value = step["value"]
            if step["key"] == "file":
                files[value["path"]] = self.keep(base64.b64decode(value["content"]))
            elif step["key"] == "lfsFile":
                path = self.storage / value["oid"]
                if not path.exists():
                    return error(400, "", f"{value['path']} was not uploaded")
                files[value["path"]] = path
            elif step["key"] == "deletedFile":
                del files[value["path"]]
        number = len(found.commits)
        oid = f"{number:040x}"
        found.commits[oid], found.branches[revision] = files, oid
        url = f"{self.url}/datasets/{repo}/commit/{oid}"
        return json_answer({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})
