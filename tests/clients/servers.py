"""Serves tiny artifacts until its standard input ends: run by the project's own Python, it prints a line of JSON with
the URLs of the servers and with what the models say, called directly."""

from __future__ import annotations

import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1])]

from served import Served, make_artifact  # noqa: E402 (the path is set above)
from world import CONTEXT, DOCUMENTS, QUERY, QUESTION, SENTENCE, TEXTS, TOP  # noqa: E402 (the path is set above)

from prunetime import load  # noqa: E402 (the path is set above)
from prunetime.core.embedding import unit  # noqa: E402 (the path is set above)

KINDS = ("pairs", "topics", "answers", "words", "twins")


def expected_of(root: Path) -> dict[str, Any]:
    models = {name: load(root / name) for name in KINDS}
    scores = models["pairs"].score([(QUERY, document) for document in DOCUMENTS])
    order = np.argsort(-scores, kind="stable")
    embeddings = unit(models["twins"].embed(TEXTS))
    (labels,) = models["topics"].score([TEXTS[0]])
    (answer,), (tagged,) = models["answers"].score([(QUESTION, CONTEXT)]), models["words"].score([SENTENCE])
    return {
        "scores": scores.tolist(),
        "two scores": scores[:2].tolist(),
        "ranking": [[int(i), float(scores[i])] for i in order],
        "best of the ranking": [[int(i), float(scores[i])] for i in order[:TOP]],
        "embeddings": embeddings.tolist(),
        "embedding": embeddings[:1].tolist(),
        "raw embedding": models["twins"].embed(TEXTS[:1]).tolist(),
        "short embeddings": unit(embeddings[:, :8]).tolist(),
        "similarities": models["twins"].score([(TEXTS[0], text) for text in TEXTS]).tolist(),
        "ids": [models["twins"].tokenizer.encoding(text, True).ids for text in TEXTS],
        "labels": [[name, float(labels[i])] for i in np.argsort(-labels) for name in [TOPICS[i]]],
        "answer": [answer.text, answer.start, float(answer.score)],
        "spans": [[span.label, span.text, span.start, float(span.score)] for span in tagged.spans],
        "models": sorted(KINDS),
        "ready": True,
        "both ready": [False, True],
        "state": ["UNAVAILABLE", "READY"],
    }


TOPICS = ("shoes", "sofas", "lamps")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(KINDS)) as pool:
        root = Path(folder)
        for name in KINDS:
            make_artifact(root / name, name)

        def serve(name: str) -> Served:
            every = [name, *(other for other in KINDS if other != name)]
            return Served("--port", "0", "--grpc-port", "0", *(str(root / each) for each in every))

        running = dict(zip(KINDS, pool.map(serve, KINDS), strict=True))
        try:
            urls = {name: f"http://127.0.0.1:{server.port}" for name, server in running.items()}
            grpc = {name: f"127.0.0.1:{server.grpc_port}" for name, server in running.items()}
            print(json.dumps({"urls": urls, "grpc": grpc, "expected": expected_of(root)}), flush=True)
            sys.stdin.read()
        finally:
            for server in running.values():
                server.stop()


if __name__ == "__main__":
    main()
