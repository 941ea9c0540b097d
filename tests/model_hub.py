"""A Hugging Face hub on the loopback, as far as downloads, and uploads of models, need one."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub.constants as constants
import pytest

from tests.file_server import serve


@dataclass
class ModelHub:
    """What is served.

    Attributes:
        models: content by file name, by repository (`datasets/OWNER/NAME` of data) and commit.
        newest: commit of each repository's main branch.
        sent: paths of the files whose content was asked for, such as "owner/name/config.json".
        asked: paths of all requests.
        received: content by file name, by repository: what was sent to it.
        takes: whether it takes what is sent.
    """

    models: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    newest: dict[str, str] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    received: dict[str, dict[str, bytes]] = field(default_factory=dict)
    takes: bool = True

    def add(self, repository: str, commit: str, files: dict[str, bytes]) -> None:
        """Commits the files as the newest ones of a repository."""
        self.models[repository, commit] = files
        self.newest[repository] = commit


@contextmanager
def serve_models(cache: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    """The hub's client asks this hub, and keeps what it gets in `cache`, until the context ends."""
    hub = ModelHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path.removeprefix("/")
            hub.asked.append(path)
            if path.startswith("api/"):
                path = path.removeprefix("api/").removeprefix("models/")  # of data it begins with datasets/
                repository, is_tree, revision = path.partition("/tree/")
                if is_tree:
                    self._answer(self._tree(repository, revision))
                    return
                repository, _, revision = path.partition("/revision/")
                self._list(repository, self._commit(repository, revision))
                return
            repository, _, rest = path.partition("/resolve/")
            revision, _, name = rest.partition("/")
            commit = self._commit(repository, revision)
            content = hub.models.get((repository, commit), {}).get(name)
            if content is None:
                self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b"")
                return
            if self.command == "GET":
                hub.sent.append(f"{repository}/{name}")
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self._send(200, {"ETag": etag, "X-Repo-Commit": commit}, content)

        do_HEAD = do_GET  # noqa: N815

        def do_POST(self) -> None:
            path = urlsplit(self.path).path.removeprefix("/")
            content = self.rfile.read(int(self.headers["Content-Length"] or 0))
            if not hub.takes:
                self._send(401, {}, b'{"error": "Invalid username or password."}')
                return
            self._answer(self._take(path, content))

        def _take(self, path: str, content: bytes) -> dict[str, object]:
            """Makes a repository, asks for all files as they are, and takes a commit."""
            if path == "api/repos/create":
                name = json.loads(content)
                repository = "/".join(filter(None, [name.get("organization"), name["name"]]))
                hub.received.setdefault(repository, {})
                return {"url": f"{constants.ENDPOINT}/{repository}", "id": repository}
            if path == "api/validate-yaml":
                return {"errors": [], "warnings": []}
            repository, _, rest = path.removeprefix("api/models/").partition("/preupload/")
            if rest:
                files = json.loads(content)["files"]
                return {
                    "files": [
                        {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for file in files
                    ]
                }
            repository = repository.partition("/commit/")[0]
            for line in content.splitlines():
                sent = json.loads(line)
                if sent["key"] == "file":
                    value = sent["value"]
                    hub.received[repository][value["path"]] = base64.b64decode(value["content"])
            return {
                "commitUrl": f"{constants.ENDPOINT}/{repository}/commit/{'c' * 40}",
                "commitOid": "c" * 40,
            }

        def _answer(self, told: object) -> None:
            self._send(200, {"Content-Type": "application/json"}, json.dumps(told).encode())

        def _tree(self, repository: str, commit: str) -> list[dict[str, object]]:
            files = hub.models.get((repository, commit), {})
            return [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files.items()
            ]

        def _commit(self, repository: str, revision: str) -> str:
            return hub.newest.get(repository, "") if revision == "main" else revision

        def _list(self, repository: str, commit: str) -> None:
            files = hub.models.get((repository, commit))
            if files is None:
                self._send(404, {"X-Error-Code": "RepoNotFound"}, b"")
                return
            listed = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
            told = {"id": repository, "sha": commit, "siblings": listed}
            self._send(200, {"Content-Type": "application/json"}, json.dumps(told).encode())

        def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with serve(Handler) as url:
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield hub


def model_files(folder: Path) -> dict[str, bytes]:
    """What a saved model is to transformers alone: without what sentence-transformers reads."""
    names = {"modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"}
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name not in names
    }
