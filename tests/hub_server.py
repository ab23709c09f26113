"""A small Hugging Face Hub on a free local port: enough of its protocol for the real `huggingface_hub` client to push and pull.

Repositories with commits, branches and tags; tokens; public and private; large files by Git LFS, which are stored at a second
address as the Hub's are, so that a redirect leads to another origin. No Xet: a client that uploads needs HF_HUB_DISABLE_XET=1.
Faults can be planned: a request of a kind is dropped, or its answer is, or it is answered by a status.

    with HubServer() as hub:
        subprocess.run(command, env={**os.environ, **hub.environment(token=hub.token, cache=folder)})
        hub.repo("alice/model").files()
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


LFS_SUFFIXES = (".safetensors", ".parquet", ".bin")
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n"
TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}

# https://huggingface.co/docs/hub/repositories-licenses: the Hub refuses a card with any other.
LICENSES = frozenset(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m afl-3.0
    artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0
    cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0
    cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0
    epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0
    odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license llama2 gemma
    unknown other
    """.split()
)
# Tasks of the Hub that have to do with images (huggingface.js, packages/tasks/src/pipelines.ts).
IMAGE_TASKS = frozenset(
    """
    depth-estimation image-classification image-feature-extraction image-segmentation image-to-image image-to-text
    keypoint-detection mask-generation object-detection text-to-image unconditional-image-generation
    zero-shot-image-classification zero-shot-object-detection other
    """.split()
)


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Blob:
    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob_id(self) -> str:
        """What git stores: the content, or the pointer to it."""
        return git_hash(POINTER.format(oid=self.sha256, size=len(self.content)).encode() if self.lfs else self.content)

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.blob_id


@dataclass
class Repo:
    """Branches and tags name commits; a commit is its title and a whole tree of files."""

    private: bool
    commits: dict[str, tuple[str, dict[str, Blob]]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, title: str, tree: dict[str, Blob]) -> str:
        oid = hashlib.sha1(f"{len(self.commits)} {title}".encode()).hexdigest()
        self.commits[oid] = (title, tree)
        self.branches[branch] = oid
        return oid

    def resolve(self, revision: str) -> str | None:
        return self.branches.get(revision) or self.tags.get(revision) or (revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Contents by path."""
        return {path: blob.content for path, blob in self.commits[self.resolve(revision)][1].items()}


@dataclass
class Fault:
    """What happens to the next `times` requests of this method whose path matches: `drop` closes the connection in the middle
    of the request, `drop_answer` does what is asked and then closes it, a number is the status of the answer."""

    method: str
    path: str
    what: str | int
    times: int = 1


class Refused(Exception):
    """The request ends with this status."""

    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class HubServer:
    """The Hub, while the `with` block lasts.

    `token` is that of the user "alice", who may write in her own namespace and in "clinic"; `reader_token` that of "bob", who
    may not write anywhere.
    """

    token, reader_token = "hf_alice", "hf_bob"

    def __init__(self):
        self.users = {self.token: ("alice", {"alice", "clinic"}), self.reader_token: ("bob", set())}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.storage: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, token
        self.lock = threading.RLock()
        self._servers = [_Server(("127.0.0.1", 0), _HubHandler), _Server(("127.0.0.1", 0), _StorageHandler)]
        self.url, self.storage_url = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def __enter__(self):
        for server in self._servers:
            server.hub = self
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def environment(self, cache, token: str | None = None, offline: bool = False) -> dict[str, str]:
        """Variables of a process that takes this server for the Hub; they are read when huggingface_hub is imported."""
        variables = {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        variables |= {"HF_HOME": str(cache), "HF_HUB_CACHE": f"{cache}/hub", "HF_DATASETS_CACHE": f"{cache}/datasets"}
        variables |= dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"), "01"[offline])
        return variables | {"HF_TOKEN": token or "", "HF_MODULES_CACHE": f"{cache}/modules"}

    def repo(self, repo_id: str, repo_type: str = "model") -> Repo:
        return self.repos[repo_type, repo_id]

    def create(self, repo_id: str, repo_type: str = "model", private: bool = False) -> Repo:
        repo = self.repos[repo_type, repo_id] = Repo(private)
        repo.commit("main", "initial commit", {".gitattributes": Blob(b"*.safetensors filter=lfs\n", lfs=False)})
        return repo

    def plan(self, method: str, path: str, what: str | int, times: int = 1) -> None:
        self.faults.append(Fault(method, path, what, times))

    def next_fault(self, method: str, path: str) -> str | int | None:
        with self.lock:
            for fault in self.faults:
                if fault.method == method and fault.times > 0 and re.search(fault.path, path):
                    fault.times -= 1
                    return fault.what
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: HubServer

    def handle_error(self, request, client_address):
        """A client that was killed is no error of the server."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def hub(self) -> HubServer:
        return self.server.hub

    def log_message(self, *_):
        pass

    def handle_one_request(self):
        self.answered = False
        super().handle_one_request()

    def _serve(self):
        parts = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        self.hub.requests.append((self.command, parts.path, token))
        fault = self.hub.next_fault(self.command, parts.path)
        if fault == "drop":
            self.rfile.read(min(int(self.headers.get("Content-Length", 0)), 100))
            self._hang_up()
            return
        self.body = self._read_body()
        try:
            if isinstance(fault, int):
                raise Refused(fault, "planned fault")
            with self.hub.lock:
                answer = self.respond(parts.path, token)
        except Refused as refusal:
            headers = {"X-Error-Message": refusal.message}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            answer = refusal.status, headers, json.dumps({"error": refusal.message}).encode()
        if fault == "drop_answer":
            self._hang_up()
            return
        self._send(*answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _hang_up(self):
        self.close_connection = True
        self.connection.close()

    def _send(self, status: int, headers: dict[str, str], content: bytes):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, content, status: int = 200):
        return status, {"Content-Type": "application/json"}, json.dumps(content).encode()

    def _content(self, content: bytes, headers: dict[str, str]):
        """All of a file, or the range that is asked for."""
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not match:
            return 200, {**headers, "Accept-Ranges": "bytes", "Content-Length": str(len(content))}, content
        first, last = int(match[1]), min(int(match[2] or len(content) - 1), len(content) - 1)
        if first >= len(content):
            return 416, {"Content-Range": f"bytes */{len(content)}"}, b""
        part = content[first : last + 1]
        content_range = {"Content-Range": f"bytes {first}-{last}/{len(content)}", "Content-Length": str(len(part))}
        return 206, {**headers, **content_range}, part


class _StorageHandler(_Handler):
    """Where large files are put and got, by their hash; it knows no tokens."""

    def respond(self, path: str, token: str | None):
        oid = path.removeprefix("/")
        if self.command == "PUT":
            if hashlib.sha256(self.body).hexdigest() != oid:
                raise Refused(400, "the content has another hash")
            self.hub.storage[oid] = self.body
            return 200, {}, b""
        if oid not in self.hub.storage:
            raise Refused(404, "no such object")
        return self._content(self.hub.storage[oid], {"ETag": f'"{oid}"'})


class _HubHandler(_Handler):
    REPO = r"(?P<id>[^/]+/[^/]+)"
    ROUTES = [
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/repos/create", "create_repo"),
        ("POST", r"/api/validate-yaml", "validate_yaml"),
        ("GET", rf"/api/(?P<types>models|datasets|spaces)/{REPO}(/revision/(?P<revision>[^/]+))?", "info"),
        ("GET", rf"/api/(?P<types>models|datasets|spaces)/{REPO}/refs", "refs"),
        ("GET", rf"/api/(?P<types>models|datasets|spaces)/{REPO}/tree/(?P<revision>[^/]+)(/(?P<path>.*))?", "tree"),
        ("POST", rf"/api/(?P<types>models|datasets|spaces)/{REPO}/paths-info/(?P<revision>[^/]+)", "paths_info"),
        ("POST", rf"/api/(?P<types>models|datasets|spaces)/{REPO}/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", rf"/api/(?P<types>models|datasets|spaces)/{REPO}/commit/(?P<revision>[^/]+)", "commit"),
        ("POST", rf"/api/(?P<types>models|datasets|spaces)/{REPO}/branch/(?P<name>[^/]+)", "create_branch"),
        ("POST", rf"/api/(?P<types>models|datasets|spaces)/{REPO}/tag/(?P<revision>[^/]+)", "create_tag"),
        ("POST", rf"/(?P<types>datasets/|spaces/)?{REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
        ("GET|HEAD", rf"/(?P<types>datasets/|spaces/)?{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    ]

    def respond(self, path: str, token: str | None):
        if token is not None and token not in self.hub.users:
            raise Refused(401, "Invalid credentials in Authorization header")
        self.user, self.namespaces = self.hub.users.get(token, (None, set()))
        for method, pattern, name in self.ROUTES:
            match = re.fullmatch(pattern, path)
            if match and re.fullmatch(method, self.command):
                return getattr(self, name)(**{key: value and unquote(value) for key, value in match.groupdict().items()})
        raise Refused(404, f"no such route: {self.command} {path}")

    # --- who and where

    def _repo(self, types: str | None, id: str, write: bool = False) -> Repo:
        repo = self.hub.repos.get((TYPES[(types or "models").strip("/")], id))
        may_write = id.partition("/")[0] in self.namespaces
        if repo is None or (repo.private and not may_write):
            if self.user is None:  # the Hub does not say whether it is there
                raise Refused(401, "Invalid username or password.")
            raise Refused(404, "Repository not found", "RepoNotFound")
        if write and not may_write:
            raise Refused(403 if self.user else 401, "You have no write access")
        return repo

    def _at(self, repo: Repo, revision: str | None) -> tuple[str, dict[str, Blob]]:
        oid = repo.resolve(revision or "main")
        if oid is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid, repo.commits[oid][1]

    def whoami(self):
        if self.user is None:
            raise Refused(401, "Invalid username or password.")
        return self._json({"type": "user", "name": self.user, "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def create_repo(self):
        request = json.loads(self.body)
        owner = request.get("organization") or self.user
        if self.user is None:
            raise Refused(401, "Invalid username or password.")
        if owner not in self.namespaces:
            raise Refused(403, "You don't have the rights to create a repository under this namespace")
        repo_type, repo_id = request.get("type") or "model", f"{owner}/{request['name']}"
        if repo_type == "space" and not request.get("sdk"):
            raise Refused(400, "a Space needs an sdk")
        if (repo_type, repo_id) in self.hub.repos:
            raise Refused(409, "You already created this repo")
        self.hub.create(repo_id, repo_type, request.get("visibility") == "private" or bool(request.get("private")))
        prefix = "" if repo_type == "model" else f"{repo_type}s/"
        return self._json({"url": f"{self.hub.url}/{prefix}{repo_id}", "id": repo_id})

    def validate_yaml(self):
        content = json.loads(self.body)["content"]
        import yaml

        match = re.match(r"---\r?\n(.*?)\r?\n---", content, re.DOTALL)
        try:
            metadata = yaml.safe_load(match[1]) if match else {}
        except yaml.YAMLError as error:
            return self._json({"errors": [{"message": str(error)}], "warnings": []}, 400)
        warnings = [] if metadata else [{"message": "empty or missing yaml metadata in repo card"}]
        licenses, tasks = (metadata.get(name) or [] for name in ("license", "pipeline_tag"))
        licenses, tasks = ([names] if isinstance(names, str) else names for names in (licenses, tasks))
        if not LICENSES.issuperset(licenses):
            message = f'"license" must be one of [{", ".join(sorted(LICENSES))}]'
            return self._json({"errors": [{"message": message}], "warnings": warnings}, 400)
        tasks = [*tasks, *metadata.get("task_categories", [])]
        warnings += [{"message": f'"{task}" is not in the official list of tasks'} for task in tasks if task not in IMAGE_TASKS]
        return self._json({"errors": [], "warnings": warnings})

    # --- reading

    def info(self, types, id, revision=None):
        repo = self._repo(types, id)
        oid, tree = self._at(repo, revision)
        content = {"_id": "0" * 24, "id": id, "sha": oid, "private": repo.private, "gated": False, "disabled": False}
        content |= {"downloads": 0, "likes": 0, "tags": [], "author": id.partition("/")[0]}
        content |= {"lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z"}
        return self._json({**content, "siblings": [{"rfilename": path} for path in sorted(tree)]})

    def refs(self, types, id):
        repo = self._repo(types, id)
        kinds = {"branches": ("heads", repo.branches), "tags": ("tags", repo.tags), "converts": ("converts", {})}
        return self._json(
            {
                kind: [{"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": oid} for name, oid in refs.items()]
                for kind, (folder, refs) in kinds.items()
            }
        )

    def _entry(self, path: str, blob: Blob) -> dict:
        entry = {"type": "file", "path": path, "oid": blob.blob_id, "size": len(blob.content)}
        if blob.lfs:
            entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 134}
        return entry

    def _entries(self, tree: dict[str, Blob]) -> dict[str, dict]:
        """Of all files and folders, by path."""
        entries = {}
        for path, blob in sorted(tree.items()):
            parents = path.split("/")[:-1]
            for depth in range(1, len(parents) + 1):
                folder = "/".join(parents[:depth])
                entries[folder] = {"type": "directory", "path": folder, "oid": git_hash(folder.encode()), "size": 0}
            entries[path] = self._entry(path, blob)
        return entries

    def tree(self, types, id, revision, path=None):
        _, tree = self._at(self._repo(types, id), revision)
        prefix = f"{path}/" if path else ""
        entries = self._entries(tree)
        if path and path not in entries:
            raise Refused(404, f"{path} does not exist on {revision}", "EntryNotFound")
        inside = [entry for name, entry in entries.items() if name.startswith(prefix)]
        if self.query.get("recursive", "false").lower() not in ("true", "1"):
            inside = [entry for entry in inside if "/" not in entry["path"][len(prefix) :]]
        return self._json(inside)

    def paths_info(self, types, id, revision):
        _, tree = self._at(self._repo(types, id), revision)
        paths = json.loads(self.body)["paths"] if self.body.startswith(b"{") else parse_qs(self.body.decode())["paths"]
        entries = self._entries(tree)
        return self._json([entries[path] for path in paths if path in entries])

    def resolve(self, types, id, revision, path):
        oid, tree = self._at(self._repo(types, id), revision)
        if path not in tree:
            raise Refused(404, "Entry not found", "EntryNotFound")
        blob = tree[path]
        headers = {"X-Repo-Commit": oid, "ETag": f'"{blob.etag}"'}
        if not blob.lfs:
            return self._content(blob.content, headers)
        headers |= {"X-Linked-ETag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.content))}
        return 302, {**headers, "Location": f"{self.hub.storage_url}/{blob.sha256}"}, b""

    # --- writing

    def preupload(self, types, id, revision):
        _, tree = self._at(self._repo(types, id, write=True), revision)
        answers = []
        for file in json.loads(self.body)["files"]:
            mode = "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular"
            answer = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
            if file["path"] in tree:
                answer["oid"] = tree[file["path"]].etag
            answers.append(answer)
        return self._json({"files": answers})

    def lfs_batch(self, types, id):
        self._repo(types, id, write=True)
        objects = []
        for item in json.loads(self.body)["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.storage:
                answer["actions"] = {"upload": {"href": f"{self.hub.storage_url}/{item['oid']}"}}
            objects.append(answer)
        return self._json({"transfer": "basic", "objects": objects})

    def commit(self, types, id, revision):
        repo = self._repo(types, id, write=True)
        if revision not in repo.branches:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        head = repo.branches[revision]
        tree, title = dict(repo.commits[head][1]), None
        for line in self.body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                title = value["summary"]
                if value.get("parentCommit", head) != head:
                    raise Refused(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                tree[value["path"]] = Blob(base64.b64decode(value["content"]), lfs=False)
            elif key == "lfsFile":
                if value["oid"] not in self.hub.storage:
                    raise Refused(400, f"the object of {value['path']} was not uploaded")
                tree[value["path"]] = Blob(self.hub.storage[value["oid"]], lfs=True)
            elif key == "deletedFile":
                if tree.pop(value["path"], None) is None:
                    raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
            else:
                raise Refused(400, f"unknown operation {key}")
        oid = repo.commit(revision, title, tree)
        return self._json({"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{id}/commit/{oid}"})

    def create_branch(self, types, id, name):
        repo = self._repo(types, id, write=True)
        if name in repo.branches:
            raise Refused(409, "the branch exists")
        repo.branches[name], _ = self._at(repo, json.loads(self.body or b"{}").get("startingPoint"))
        return self._json({})

    def create_tag(self, types, id, revision):
        repo = self._repo(types, id, write=True)
        tag = json.loads(self.body)["tag"]
        if tag in repo.tags:
            raise Refused(409, "the tag exists")
        repo.tags[tag], _ = self._at(repo, revision)
        return self._json({})
