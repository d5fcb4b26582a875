#!/usr/bin/env bash
# rerankers never looks at the status of an answer of the service that it asks: a refusal, with a message that says why,
# becomes KeyError: 'results'.
#
# Seen with rerankers 0.10.0, asking a server that answers 404 as Cohere does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet 'rerankers[api]==0.10.0'
"$folder/venv/bin/python" - <<'PYTHON'
import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

from rerankers import Reranker

MESSAGE = {"message": "no model 'none' is there"}


class Refusing(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.dumps(MESSAGE).encode()
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


server = HTTPServer(("127.0.0.1", 0), Refusing)
Thread(target=server.serve_forever, daemon=True).start()
ranker = Reranker("none", model_type="cohere", api_key="key", url=f"http://127.0.0.1:{server.server_port}/v1/rerank")
try:
    ranker.rank("red sofa", ["velvet couch", "garden hose"])
except KeyError as error:
    print(f"the server said 404, {MESSAGE}; the caller sees KeyError: {error}")
    assert error.args == ("results",)
else:
    raise AssertionError("the refusal is shown now, or passed over")
PYTHON
