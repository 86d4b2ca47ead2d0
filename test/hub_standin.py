"""A stand-in for the Hugging Face hub on this machine: models with commits, for the real client of the hub.

    with serve() as hub:
        commit = hub.add("someone/model", folder)
        subprocess.run([...], env=hub.environment(home))

It knows what `huggingface_hub` and transformers ask for when they read a model, and what they ask for when they upload
one: repositories are created, small files come with the commit, large ones by git-lfs. Writing needs `TOKEN`.
"""

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "token-of-a-test"
USER = "someone"
LARGE = 1 << 20  # bytes; such files, and weights, are uploaded by git-lfs
Files = dict[str, bytes]  # path in the repository -> contents


@dataclass
class Repository:
    """Commits of a model: hash -> all its files; `heads` are the branches."""

    commits: dict[str, Files] = field(default_factory=dict)
    heads: dict[str, str] = field(default_factory=dict)
    private: bool = False

    def commit(self, files: Files, branch: str = "main") -> str:
        text = json.dumps([branch, len(self.commits), sorted((name, _sha1(data)) for name, data in files.items())])
        name = hashlib.sha1(text.encode()).hexdigest()
        self.commits[name] = dict(files)
        self.heads[branch] = name
        return name

    def find(self, revision: str) -> str | None:
        """The commit of a branch or a commit's own name."""
        name = self.heads.get(revision, revision)
        return name if name in self.commits else None


class Hub:
    """What is stored, and every request that came: (method, path)."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.large: Files = {}  # uploaded by git-lfs: sha256 -> contents
        self.requests: list[tuple[str, str]] = []
        self.url = ""

    def add(self, name: str, source: Path | Files, branch: str = "main") -> str:
        """Commit a folder, or files, as all that the model `name` holds; the commit."""
        if isinstance(source, Path):
            source = {path.relative_to(source).as_posix(): path.read_bytes() for path in source.rglob("*")
                      if path.is_file()}
        return self.repositories.setdefault(name, Repository()).commit(source, branch)

    def files(self, name: str, revision: str = "main") -> Files:
        repository = self.repositories[name]
        return repository.commits[repository.find(revision)]

    def environment(self, home: Path, token: str = TOKEN, **more: str) -> dict[str, str]:
        """Of a process whose hub this is; home: its own cache."""
        kept = {name: value for name, value in os.environ.items()
                if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_")) and not name.lower().endswith("_proxy")}
        ours = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": token,
                "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
                "OMP_NUM_THREADS": "1"}
        return kept | ours | more


@contextmanager
def serve() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Refusal(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, code: str, message: str):
        super().__init__(message)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments) -> None:
        pass

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path, self.query = unquote(url.path), parse_qs(url.query)
        self.hub.requests.append((self.command, path))
        self.contents = self._contents()
        try:
            for method, pattern, answer in _ROUTES:
                found = re.fullmatch(pattern, path)
                if found and method == self.command.replace("HEAD", "GET"):
                    return answer(self, **found.groupdict())
            raise _Refusal(404, "EntryNotFound", f"the stand-in knows no {self.command} {path}")
        except _Refusal as refusal:
            self._send(json.dumps({"error": str(refusal)}).encode(), status=refusal.status,
                       headers={"X-Error-Code": refusal.code, "X-Error-Message": str(refusal)})

    do_GET = do_HEAD = do_POST = do_PUT = _answer

    def _contents(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _send(self, data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})
                            }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _send_json(self, value: object) -> None:
        self._send(json.dumps(value).encode())

    def _user(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise _Refusal(401, "", "Invalid credentials in Authorization header")

    def _repository(self, name: str) -> Repository:
        repository = self.hub.repositories.get(name)
        if repository is None or repository.private and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise _Refusal(404, "RepoNotFound", "Repository not found")
        return repository

    def _files(self, name: str, revision: str) -> tuple[str, Files]:
        repository = self._repository(name)
        commit = repository.find(revision)
        if commit is None:
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, repository.commits[commit]

    # reading

    def whoami(self) -> None:
        self._user()
        self._send_json({"type": "user", "name": USER, "fullname": USER, "orgs": [], "auth": {"type": "access_token"}})

    def info(self, name: str, revision: str = "main") -> None:
        commit, files = self._files(name, revision)
        self._send_json({"id": name, "modelId": name, "sha": commit, "private": self._repository(name).private,
                         "disabled": False, "gated": False, "downloads": 0, "likes": 0, "tags": [],
                         "siblings": [{"rfilename": path} for path in sorted(files)]})

    def tree(self, name: str, revision: str, below: str = "") -> None:
        _, files = self._files(name, revision)
        listed = {path: data for path, data in files.items() if not below or path.startswith(f"{below}/")}
        if below and not listed:
            raise _Refusal(404, "EntryNotFound", f"{below} does not exist")
        self._send_json([_entry(path, data) for path, data in sorted(listed.items())])

    def paths_info(self, name: str, revision: str) -> None:
        _, files = self._files(name, revision)
        asked = json.loads(self.contents)["paths"] if self.contents[:1] == b"{" else parse_qs(
            self.contents.decode()).get("paths", [])
        self._send_json([_entry(path, files[path]) for path in asked if path in files])

    def resolve(self, name: str, revision: str, path: str) -> None:
        commit, files = self._files(name, revision)
        if path not in files:
            raise _Refusal(404, "EntryNotFound", f"{path} does not exist")
        data = files[path]
        self._send(data, headers={"X-Repo-Commit": commit, "ETag": f'"{_etag(path, data)}"',
                                  "Content-Type": "application/octet-stream"})

    # writing

    def create(self) -> None:
        self._user()
        asked = json.loads(self.contents)
        name = f"{asked.get('organization') or USER}/{asked['name']}"
        url = f"{self.hub.url}/{name}"
        if name in self.hub.repositories:
            self._send(json.dumps({"error": "You already created this model repo", "url": url}).encode(), status=409)
            return
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.repositories[name] = Repository(private=private)
        self.hub.add(name, {".gitattributes": b"*.safetensors filter=lfs\n"})
        self._send_json({"url": url, "name": name, "id": name})

    def check_card(self) -> None:
        self._send_json({"errors": [], "warnings": []})

    def before_upload(self, name: str, revision: str) -> None:
        self._user()
        _, files = self._files(name, revision)
        self._send_json({"files": [
            {"path": asked["path"], "uploadMode": "lfs" if _is_large(asked["path"], asked["size"]) else "regular",
             "shouldIgnore": False,
             "oid": _etag(asked["path"], files[asked["path"]]) if asked["path"] in files else None}
            for asked in json.loads(self.contents)["files"]]})

    def lfs_batch(self, name: str) -> None:
        self._user()
        self._repository(name)
        objects = []
        for asked in json.loads(self.contents)["objects"]:
            actions = {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}"}}
            objects.append(asked | ({} if asked["oid"] in self.hub.large else {"actions": actions}))
        self._send_json({"transfer": "basic", "objects": objects})

    def lfs_upload(self, digest: str) -> None:
        if hashlib.sha256(self.contents).hexdigest() != digest:
            raise _Refusal(400, "", "these bytes have another SHA-256")
        self.hub.large[digest] = self.contents
        self._send(b"")

    def commit(self, name: str, revision: str) -> None:
        self._user()
        parent, files = self._files(name, revision)
        files = dict(files)
        for line in self.contents.splitlines():
            row = json.loads(line)
            key, value = row["key"], row["value"]
            if key == "header" and value.get("parentCommit", parent) != parent:
                raise _Refusal(412, "", "A commit has happened since. Please refresh and try again.")
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif key == "deletedFile":
                files.pop(value["path"], None)
            elif key == "deletedFolder":
                files = {path: data for path, data in files.items() if not path.startswith(value["path"])}
        made = self._repository(name).commit(files, revision)
        self._send_json({"success": True, "commitOid": made, "commitUrl": f"{self.hub.url}/{name}/commit/{made}",
                         "hookOutput": ""})


_NAME, _REVISION = r"(?P<name>[^/]+/[^/]+)", r"(?P<revision>refs/pr/\d+|[^/]+)"
_ROUTES = [
    ("GET", r"/api/whoami-v2", _Handler.whoami),
    ("GET", rf"/api/models/{_NAME}", _Handler.info),
    ("GET", rf"/api/models/{_NAME}/revision/{_REVISION}", _Handler.info),
    ("GET", rf"/api/models/{_NAME}/tree/{_REVISION}/?(?P<below>.*)", _Handler.tree),
    ("POST", rf"/api/models/{_NAME}/paths-info/{_REVISION}", _Handler.paths_info),
    ("GET", rf"/{_NAME}/resolve/{_REVISION}/(?P<path>.+)", _Handler.resolve),
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.check_card),
    ("POST", rf"/api/models/{_NAME}/preupload/{_REVISION}", _Handler.before_upload),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/lfs/(?P<digest>[0-9a-f]{64})", _Handler.lfs_upload),
    ("POST", rf"/api/models/{_NAME}/commit/{_REVISION}", _Handler.commit),
]


def _entry(path: str, data: bytes) -> dict:
    entry = {"type": "file", "path": path, "size": len(data), "oid": _sha1(data)}
    if _is_large(path, len(data)):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry


def _etag(path: str, data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if _is_large(path, len(data)) else _sha1(data)


def _sha1(data: bytes) -> str:
    """As git names a file's contents."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _is_large(path: str, size: int) -> bool:
    return size > LARGE or path.endswith((".safetensors", ".bin", ".pt"))
