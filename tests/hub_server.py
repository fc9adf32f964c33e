"""A small Hugging Face Hub on localhost for the real clients.

    with HubServer() as hub:
        hub.add_dataset("acme/pairs", folder)
        subprocess.run([...], env=hub.environment(cache))
        hub.repos["acme/model"].files["adapter_config.json"]

It implements the requests of `huggingface_hub` for uploads (create, preupload, LFS batch with the basic
transfer, ndjson commit) and downloads (info, tree, paths-info, resolve with ranges). It lacks xet, so clients
run with HF_HUB_DISABLE_XET=1. Writes need the token; everything is kept in memory.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

OWNER = "acme"
TOKEN = "hf_" + "LocalTestServerOnlyNotASecret0123"
_LFS_SUFFIXES = (".safetensors", ".parquet", ".gz", ".bin")


def is_lfs(path: str) -> bool:
    """Return whether the Hub would keep the file in LFS rather than in git."""
    return path.endswith(_LFS_SUFFIXES)


def blob_id(content: bytes) -> str:
    """Return git's name of the content: the SHA-1 of its blob object."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repo:
    """One repository: its commits, oldest first, each the whole tree."""

    private: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=lambda: [("0" * 40, {})])

    @property
    def files(self) -> dict[str, bytes]:
        """Path to content at the head."""
        return self.commits[-1][1]

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Return the commit and its tree at a branch or commit, None if there is none."""
        known = {sha: (sha, files) for sha, files in self.commits}
        return self.commits[-1] if revision == "main" else known.get(revision)

    def commit(self, files: dict[str, bytes]) -> None:
        """Add a commit whose tree is `files`."""
        names = "".join(f"{path} {blob_id(content)}\n" for path, content in sorted(files.items()))
        before = self.commits[-1][0]
        self.commits.append((hashlib.sha1(f"{before}\n{names}".encode()).hexdigest(), files))


class HubServer:
    """The server; start and stop it with `with`."""

    def __init__(self) -> None:
        self.token = TOKEN
        self.repos: dict[str, Repo] = {}
        """`owner/name` for models, `datasets/owner/name` for datasets."""
        self.objects: dict[str, bytes] = {}
        """LFS content by SHA-256, uploaded and perhaps not committed yet."""
        self.requests: list[str] = []
        """`METHOD /path` of every request, in order."""
        self.failure: tuple[int | None, str] | None = None
        self.lost: set[str] = set()
        """Paths that a commit drops although it reports success."""
        self.released = threading.Event()
        self.connections: list[socket.socket] = []

    def __enter__(self) -> HubServer:
        handler = type("BoundHandler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = False
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        for connection in self.connections:
            with suppress(OSError):  # the client had already closed it
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()

    def add_model(self, repo_id: str, folder: Path) -> Repo:
        """Publish the files of a folder as a model."""
        return self._add("models", repo_id, folder)

    def add_dataset(self, repo_id: str, folder: Path) -> Repo:
        """Publish the files of a folder as a dataset."""
        return self._add("datasets", repo_id, folder)

    def _add(self, kind: str, repo_id: str, folder: Path) -> Repo:
        repo = self.repos[self.key(kind, repo_id)] = Repo()
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        repo.commit({path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})
        return repo

    @staticmethod
    def key(kind: str, repo_id: str) -> str:
        """Return the key of a repository in `repos`."""
        return repo_id if kind == "models" else f"{kind}/{repo_id}"

    def fail_with(self, status: int | None, *, at: str = "/") -> None:
        """Answer every request with `at` in its path with a status; None leaves it without an answer.

        The body repeats the Authorization header, as a careless proxy would.
        """
        self.failure = (status, at)

    def environment(self, cache: Path, **more: str) -> dict[str, str]:
        """Return the environment in which a client process reaches only this server."""
        others = ("HF_", "HUGGING", "TRANSFORMERS_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
        hub = {"HF_ENDPOINT": self.url, "HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1"}
        return kept | hub | {"HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"} | more


class _Refusal(Exception):  # noqa: N818 (it is an answer, not an error)
    """An answer other than success, with the headers that give clients the reason."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Code": code, **headers}


class _Handler(BaseHTTPRequestHandler):
    """One connection; a route's method returns the JSON value to answer with, or raises `_Refusal`."""

    hub: HubServer
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.hub.connections.append(self.connection)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name is the base class's)
        """Print nothing: pytest owns the terminal."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path, self.query = unquote(url.path), parse_qs(url.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.requests.append(f"{self.command} {path}")
        try:
            answer = self._dispatch(path)
        except _Refusal as refusal:
            body = json.dumps({"error": str(refusal)}).encode()
            self._send(body, refusal.status, {"Content-Type": "application/json", **refusal.headers})
        else:
            if answer is not None:
                self._send(json.dumps(answer).encode(), 200, {"Content-Type": "application/json"})

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 (the names are http.server's)

    def _dispatch(self, path: str) -> object:
        if self.hub.failure is not None and self.hub.failure[1] in path:
            self.hub.released.wait(None if self.hub.failure[0] is None else 0)
            raise _Refusal(self.hub.failure[0] or 503, "Broken", f"refused {self.headers['Authorization']}")
        for methods, access, pattern, respond in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match is None or self.command not in methods:
                continue
            if access == "write" and not self._authorised():
                raise _Refusal(401, "Unauthorized", "Invalid username or password.")
            return respond(self, **match.groupdict())
        raise _Refusal(404, "UnknownEndpoint", f"this server has no {self.command} {path}")

    def _send(self, content: bytes, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _authorised(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _repo(self, kind: str | None, repo_id: str) -> Repo:
        repo = self.hub.repos.get(self.hub.key(kind or "models", repo_id))
        if repo is None or (repo.private and not self._authorised()):
            raise _Refusal(404 if self._authorised() else 401, "RepoNotFound", "Repository not found")
        return repo

    def _tree_at(self, kind: str | None, repo_id: str, revision: str) -> tuple[str, dict[str, bytes]]:
        found = self._repo(kind, repo_id).at(revision)
        if found is None:
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def _create(self) -> object:
        asked = json.loads(self.body)
        owner = asked.get("organization") or OWNER
        if owner != OWNER:
            raise _Refusal(403, "Forbidden", f"You don't have the rights to create a model under {owner}")
        kind, repo_id = f"{asked.get('type', 'model')}s", f"{owner}/{asked['name']}"
        key = self.hub.key(kind, repo_id)
        answer = {"url": f"{self.hub.url}/{key}", "name": repo_id}
        if key in self.hub.repos:
            known = json.dumps({"error": "You already created this repo", **answer}).encode()
            return self._send(known, 409, {"Content-Type": "application/json"})
        self.hub.repos[key] = Repo(private=asked.get("visibility") == "private")
        return answer

    def _validate_yaml(self) -> object:
        found = json.loads(self.body)["content"].startswith(("---\n", "---\r\n"))
        return {"errors": [], "warnings": [] if found else [{"message": "empty or missing yaml metadata"}]}

    def _preupload(self, kind: str, repo_id: str, revision: str) -> object:
        _, files = self._tree_at(kind, repo_id, revision)
        answers = []
        for path in (file["path"] for file in json.loads(self.body)["files"]):
            oid = {"oid": _etag(path, files[path])} if path in files else {}
            mode = "lfs" if is_lfs(path) else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **oid})
        return {"files": answers}

    def _lfs_batch(self, kind: str | None, repo_id: str) -> object:
        self._repo(kind, repo_id)
        objects = [{"oid": item["oid"], "size": item["size"]} for item in json.loads(self.body)["objects"]]
        for item in objects:
            if item["oid"] not in self.hub.objects:
                item["actions"] = {"upload": {"href": f"{self.hub.url}/lfs-upload/{item['oid']}"}}
        return {"transfer": "basic", "objects": objects}

    def _lfs_put(self, oid: str) -> object:
        self.hub.objects[hashlib.sha256(self.body).hexdigest()] = self.body
        return {}

    def _commit(self, kind: str, repo_id: str, revision: str) -> object:
        repo = self._repo(kind, repo_id)
        files = dict(self._tree_at(kind, repo_id, revision)[1])
        for operation in map(json.loads, self.body.splitlines()):
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        repo.commit({path: content for path, content in files.items() if path not in self.hub.lost})
        sha = repo.commits[-1][0]
        return {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{sha}"}

    def _info(self, kind: str, repo_id: str, revision: str = "main") -> object:
        sha, files = self._tree_at(kind, repo_id, revision)
        flags = {"private": self._repo(kind, repo_id).private, "gated": False, "disabled": False, "tags": []}
        dates = dict.fromkeys(("createdAt", "lastModified"), "2025-01-01T00:00:00.000Z")
        siblings = [{"rfilename": path} for path in sorted(files)]
        return {"_id": repo_id, "id": repo_id, "sha": sha, "siblings": siblings, **flags, **dates}

    def _tree(self, kind: str, repo_id: str, revision: str, folder: str | None = None) -> object:
        entries = _entries(self._tree_at(kind, repo_id, revision)[1])
        recursive = self.query.get("recursive", ["false"])[0].lower() == "true"
        prefix = f"{folder}/" if folder else ""
        inside = [entry for entry in entries if entry["path"].startswith(prefix)]
        if prefix and not inside:
            raise _Refusal(404, "EntryNotFound", f"{folder} does not exist on {revision}")
        return [entry for entry in inside if recursive or "/" not in entry["path"][len(prefix) :]]

    def _paths_info(self, kind: str, repo_id: str, revision: str) -> object:
        form = self.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded")
        asked = parse_qs(self.body.decode()) if form else json.loads(self.body)
        return [e for e in _entries(self._tree_at(kind, repo_id, revision)[1]) if e["path"] in asked["paths"]]

    def _resolve(self, kind: str | None, repo_id: str, revision: str, path: str) -> None:
        sha, files = self._tree_at(kind, repo_id, revision)
        if path not in files:
            raise _Refusal(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": sha})
        content = files[path]
        headers = {"ETag": f'"{_etag(path, content)}"', "Accept-Ranges": "bytes", "X-Repo-Commit": sha}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span is None:
            return self._send(content, 200, headers)
        first, last = int(span[1]), min(int(span[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return self._send(content[first : last + 1], 206, headers)


def _etag(path: str, content: bytes) -> str:
    """Return the Hub's ETag, which identifies an unchanged file."""
    return hashlib.sha256(content).hexdigest() if is_lfs(path) else blob_id(content)


def _entries(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Return the tree listing: every file, and every folder that holds one."""
    folders = {parent.as_posix() for path in files for parent in Path(path).parents} - {"."}
    listed: list[dict[str, Any]] = [{"type": "directory", "path": path, "oid": "0" * 40} for path in folders]
    for path, content in files.items():
        entry = {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
        lfs = {"oid": _etag(path, content), "size": len(content), "pointerSize": 134}
        listed.append({**entry, "lfs": lfs} if is_lfs(path) else entry)
    return sorted(listed, key=lambda entry: str(entry["path"]))


_REPO = r"(?P<repo_id>[^/]+?(?:/[^/]+?)?)"
_API = r"/api/(?P<kind>models|datasets)/" + _REPO
_PAGE = r"/(?:(?P<kind>datasets)/)?" + _REPO
_REV = r"/(?P<revision>[^/]+)"
_ROUTES: list[tuple[str, str, str, Callable[..., object]]] = [
    ("GET", "write", r"/api/whoami-v2", lambda _: {"type": "user", "name": OWNER, "orgs": []}),
    ("POST", "write", r"/api/repos/create", _Handler._create),
    ("POST", "read", r"/api/validate-yaml", _Handler._validate_yaml),
    ("POST", "write", _API + r"/preupload" + _REV, _Handler._preupload),
    ("POST", "write", _PAGE + r"\.git/info/lfs/objects/batch", _Handler._lfs_batch),
    ("PUT", "read", r"/lfs-upload/(?P<oid>[0-9a-f]{64})", _Handler._lfs_put),
    ("POST", "write", _API + r"/commit" + _REV, _Handler._commit),
    ("POST", "read", _API + r"/paths-info" + _REV, _Handler._paths_info),
    ("GET", "read", _API + r"/tree" + _REV + r"(?:/(?P<folder>.+))?", _Handler._tree),
    ("GET", "read", _API + r"/revision" + _REV, _Handler._info),
    ("GET", "read", _API, _Handler._info),
    ("GET HEAD", "read", _PAGE + r"/resolve" + _REV + r"/(?P<path>.+)", _Handler._resolve),
]
