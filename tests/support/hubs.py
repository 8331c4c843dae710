"""A small hub on the loopback address: what huggingface_hub asks of one to fetch single files, and counts of requests."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GATED = "GATED"


@dataclass
class Hub:
    """What is served: repositories, each with its files; of plain addresses, the files by path.

    Attributes:
        repositories: content by file by repository; the file `GATED` in it makes the repository one with terms.
        plain: content by path, without any of the hub's headers.
        asked: method and path of every request.
        cut: ends of paths of which half arrives and the connection ends.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    plain: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    address: str = ""
    cut: tuple[str, ...] = ()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub at `hub.address`."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            status, headers, content = _answer(hub, self.path)
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            cut = self.path.endswith(hub.cut)
            if self.command == "GET":
                self.wfile.write(content[: len(content) // 2] if cut else content)
            self.close_connection = True

        do_GET = do_HEAD

        def log_message(self, *_: object) -> None:
            pass

    with on_loopback(Handler) as hub.address:
        yield hub


@contextmanager
def on_loopback(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server that answers by this handler."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _answer(hub: Hub, path: str) -> tuple[int, dict[str, str], bytes]:
    if path in hub.plain:
        return 200, {}, hub.plain[path]
    before, found, after = path.lstrip("/").partition("/resolve/")
    files = hub.repositories.get(before)
    if not found or files is None:
        return 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b""
    if GATED in files:
        return 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted"}, b""
    revision, _, file = after.partition("/")
    known = {"X-Repo-Commit": COMMIT}
    if revision not in ("main", COMMIT):
        return 404, {"X-Error-Code": "RevisionNotFound"}, b""
    if file not in files:
        return 404, {"X-Error-Code": "EntryNotFound", **known}, b""
    return 200, {"ETag": f'"{hashlib.sha256(files[file]).hexdigest()}"', **known}, files[file]
