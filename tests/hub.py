"""A stand-in for the Hugging Face hub, for its real client in a process of its own."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Subclasses send what there is under a path; what they do not answer is not there."""

    def respond(self, path: str) -> bool:
        raise NotImplementedError

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        if not self.respond(unquote(self.path.partition("?")[0])):
            self.send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})

    def send_file(self, content: bytes) -> bool:
        etag = hashlib.sha1(content).hexdigest()
        return self.send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": SHA})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> bool:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        return True

    def log_message(self, *_):
        pass


@contextmanager
def serving(hub: type[Hub], home: Path) -> Iterator[dict[str, str]]:
    """Environment of a process whose hub is a server of this test, and whose cache is in `home`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": "",
    }
    server.shutdown()
    thread.join()
    server.server_close()
