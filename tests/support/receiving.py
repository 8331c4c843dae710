"""A small hub on the loopback address: what huggingface_hub asks of one to create a repository and to upload files."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.support.hubs import on_loopback

TOKEN = "hf_" + "Ab3" * 11
COMMIT = "89abcdef0123456789abcdef0123456789abcdef"


@dataclass
class Receiver:
    """What was received.

    Attributes:
        repositories: content by file by repository.
        visibility: by repository, as it was asked for when it was created.
        large: ends of names that are uploaded to the large file storage, not in the commit.
        refusal: status with which everything is answered; None: what a hub says.
        storage: status with which the large file storage answers.
        asked: method, path and Authorization of every request.
        commits: how many there were.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    visibility: dict[str, Any] = field(default_factory=dict)
    large: tuple[str, ...] = ()
    refusal: int | None = None
    storage: int = 200
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    commits: int = 0
    address: str = ""
    stored: dict[str, bytes] = field(default_factory=dict)


@contextmanager
def receiving(hub: Receiver) -> Iterator[Receiver]:
    """The hub at `hub.address`."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            token = self.headers.get("Authorization", "")
            hub.asked.append((self.command, self.path, token))
            status, said = _answer(hub, self.command, self.path.partition("?")[0], token, self.content())
            content = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            if status >= 400:
                self.send_header("X-Error-Message", str(said.get("error", "")))
            self.end_headers()
            self.wfile.write(content)
            self.close_connection = True

        do_GET = do_POST = do_PUT = answer

        def content(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            return found

        def log_message(self, *_: object) -> None:
            pass

    with on_loopback(Handler) as hub.address:
        yield hub


def _answer(hub: Receiver, method: str, path: str, token: str, content: bytes) -> tuple[int, dict[str, Any]]:
    if method == "PUT":
        hub.stored[path.rpartition("/")[2]] = content
        return hub.storage, {}
    if hub.refusal is not None:
        return hub.refusal, {"error": f"refused, your header was {token}"}
    if token != f"Bearer {TOKEN}":
        return 401, {"error": "Invalid username or password."}
    if path == "/api/repos/create":
        return _created(hub, json.loads(content))
    if path == "/api/validate-yaml":
        return 200, {"errors": [], "warnings": []}
    if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
        return 200, {"objects": [_to_store(hub, each) for each in json.loads(content)["objects"]]}
    found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(preupload|commit|revision)/main)?", path)
    if found is None or found[1] not in hub.repositories:
        return 404, {"error": "Repository not found"}
    if found[2] == "preupload":
        return 200, {"files": [_mode(hub, each["path"]) for each in json.loads(content)["files"]]}
    if found[2] == "commit":
        return _committed(hub, found[1], [json.loads(line) for line in content.splitlines()])
    return 200, {"id": found[1], "sha": COMMIT}


def _created(hub: Receiver, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    name = f"{asked['organization']}/{asked['name']}"
    if asked["organization"] == "foreign":
        return 403, {"error": "You don't have the rights to create a model under this namespace"}
    if name in hub.repositories:
        return 409, {"error": "You already created this model repo", "url": f"{hub.address}/{name}"}
    hub.repositories[name] = {}
    hub.visibility[name] = asked.get("visibility", "private" if asked.get("private") else None)
    return 200, {"url": f"{hub.address}/{name}"}


def _mode(hub: Receiver, path: str) -> dict[str, Any]:
    return {"path": path, "uploadMode": "lfs" if path.endswith(hub.large) else "regular", "shouldIgnore": False}


def _to_store(hub: Receiver, each: dict[str, Any]) -> dict[str, Any]:
    return {**each, "actions": {"upload": {"href": f"{hub.address}/store/{each['oid']}"}}}


def _committed(hub: Receiver, name: str, lines: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
    files = hub.repositories[name]
    for line in lines:
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = hub.stored[value["oid"]]
            assert hashlib.sha256(files[value["path"]]).hexdigest() == value["oid"]
    hub.commits += 1
    return 200, {"success": True, "commitUrl": f"{hub.address}/{name}/commit/{COMMIT}", "commitOid": COMMIT}
